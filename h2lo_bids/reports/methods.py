"""Text for a paper's Methods section, from the facts of a run, and the works that it cites."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import bids_app_spec
from h2lo_bids.bids.dataset import bibtex
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.models.catalogue import cited
from h2lo_bids.models.registry import FAMILIES, METHODS, task_of
from h2lo_bids.reports.page import render_markdown
from h2lo_bids.reports.records import SubjectReport
from h2lo_bids.vocabulary import ENHANCE

_CITATION = re.compile(r"\s*\[(@[^\[\]]+)\]")
_SCALINGS = {
    "max": "divided by their maximum inside the brain mask",
    "robust": (
        "brought by an affine map to fixed levels of cerebrospinal fluid and white matter, found "
        "from medians over blocks of 2 mm, after N4 bias field correction [@n4] where the receive "
        "field was strong"
    ),
}
_MASKS = {
    "deepbet": "The brain was extracted with deepbet{version} [@deepbet].",
    "synthstrip": "The brain was extracted with SynthStrip [@synthstrip].",
    "given": "Brain masks were taken from existing derivatives.",
    "shared": "Both contrasts of a session shared one brain mask.",
    "stripped": "Inputs without a skull were used as they were.",
    "skip": "No brain was extracted: inputs were taken to be stripped of the skull.",
}
_KINDS = {
    "simulated": "trained on pairs whose low-field image was simulated, "
    "not on acquired low-field images",
    "real": "trained on pairs of acquired high-field and low-field images",
    "unknown": "trained on data that its checkpoint does not describe",
    "none": "not trained on anything",
}


@dataclass(frozen=True)
class Work:
    """One entry of the bibliography; fields as BibTeX names and writes them."""

    key: str
    fields: dict[str, str]

    @property
    def authors(self) -> list[str]:
        """Names as ``Given Family``; a trailing ``others`` is kept."""
        names = self.fields["author"].split(" and ")
        return [" ".join(reversed(name.split(", ", 1))) for name in names]

    @property
    def short(self) -> str:
        """Author and year, for the running text."""
        families = [name.split(",")[0] for name in self.fields["author"].split(" and ")]
        label = families[0]
        if len(families) > 2 or families[-1] == "others":
            label += " et al."
        elif len(families) == 2:
            label += " and " + families[1]
        return ", ".join(part for part in (label, self.fields.get("year", "")) if part)

    @property
    def html(self) -> str:
        """Full reference, escaped, with its link."""
        fields = self.fields
        names = ", ".join(self.authors).replace(", others", " et al.")
        where = fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or ""
        for name, mark in (("volume", " "), ("pages", ": ")):
            if where and fields.get(name):
                where += mark + fields[name].replace("--", "-")
        year = f" ({fields['year']})" if "year" in fields else ""
        parts = [names + year, fields["title"], where]
        text = "".join(f"{part.rstrip('.')}. " for part in parts if part).strip()
        text = escape(text.replace("{", "").replace("}", ""))
        link = escape(self.link)
        return text + (f' <a href="{link}" rel="noopener noreferrer">{link}</a>' if link else "")

    @property
    def link(self) -> str:
        """Where the work is found, or an empty string."""
        if "doi" in self.fields:
            return "https://doi.org/" + self.fields["doi"]
        if "eprint" in self.fields:
            return "https://arxiv.org/abs/" + self.fields["eprint"]
        return self.fields.get("url", "")


@cache
def works() -> dict[str, Work]:
    """Return the bibliography of the specification."""
    references = bids_app_spec.load("references.yml")
    return {key: Work(key, fields) for key, fields in references.items()}


@dataclass(frozen=True)
class MethodsText:
    """The text in the forms that users paste."""

    markdown: str  # with Pandoc citations, [@key]
    html: str  # safe; citations link to the list of references
    keys: tuple[str, ...]  # cited works, in the order of first mention
    bibtex: str


def facts_of(report: SubjectReport) -> dict[str, Any]:
    """Collect the facts for `describe` from the scans of a report; `report.facts` wins."""
    scans, models = report.scans, [scan.model for scan in report.scans if scan.model]
    versions = dict(report.versions)
    facts = {
        "version": versions.get("h2lo-bids", ""),
        "versions": versions,
        "contrasts": sorted({scan.suffix for scan in scans}),
        "masks": sorted({scan.mask_method.split(" ")[0].lower() for scan in scans} - {""}),
        "enhanced": any(scan.enhances for scan in scans),
        "synthesized": any(not scan.enhances for scan in scans),
        "fused": sorted({len(scan.parts) for scan in scans if len(scan.parts) > 1}),
        "enhanced_grids": sorted({_grid(scan.spacing) for scan in scans if scan.enhances}),
        "templates": sorted(
            {_template(*template) for scan in scans for template in scan.templates}
        ),
        "models": [
            {
                "name": model.name,
                "method": model.method,
                "contrast": model.contrast,
                "sha256": model.sha256,
                "training_kind": model.training_kind,
                "scaling": model.scaling,
                "parameters": model.parameters,
            }
            for model in {model.sha256 or model.name: model for model in models}.values()
        ],
        "precision": " and ".join(sorted({scan.precision for scan in scans} - {""})),
        "seed": next((scan.seed for scan in scans if scan.seed is not None), None),
    }
    return {**facts, **report.facts}


def describe(facts: dict[str, Any]) -> MethodsText:
    """Write the Methods text; nothing is claimed that the facts do not state.

    All facts are optional: ``version`` of this program, ``versions`` of software (names as on
    PyPI), ``contrasts``, ``masks`` (first words of `ScanReport.mask_method`), ``enhanced`` and
    ``synthesized`` (with neither, to low field), ``fused`` (numbers of scans), ``enhanced_grids``,
    ``templates`` (with their origin), ``grids`` (one phrase per further output grid), ``models``
    (dicts of fields of `ModelInfo`), ``precision``, ``seed``.
    """
    paragraphs = [_overview(facts), _preprocessing(facts), _synthesis(facts), _software(facts)]
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    cited = (
        key.strip().lstrip("@") for group in _CITATION.findall(text) for key in group.split(";")
    )
    keys = tuple(dict.fromkeys(cited))
    return MethodsText(text + "\n", _html(text, keys), keys, bibtex(keys))


def _overview(facts: dict[str, Any]) -> str:
    contrasts = " and ".join(name.replace("w", "-weighted") for name in facts.get("contrasts", []))
    images = f"{contrasts} images" if contrasts else "images"
    version = f" {facts['version']}" if facts.get("version") else ""
    enhancers = {name for name in _methods(facts) & METHODS.keys() if task_of(name) == ENHANCE}
    used = _methods(facts) - enhancers
    if facts.get("enhanced"):
        by = cited(enhancers)
        did = f"Low-field {images} were enhanced" + (f" by {by}" if by else "")
        did += ", used as in the H2LO study [@h2lo],"
        if facts.get("synthesized"):
            did += f" and low-field MRI was synthesized by {cited(used) or cited(['h2lo'])}"
    elif used == {IDENTITY}:
        did = f"High-field {images} were prepared and returned as they are, not synthesized,"
    else:
        # A model that does not say its method is one of H2LO's first releases.
        by = cited(used - {IDENTITY}) or cited(["h2lo"])
        did = f"Low-field MRI was synthesized from high-field {images} by {by}"
    return (
        f"{did} with the BIDS App *H2LO-BIDS*{version} [@h2lo]. "
        "Inputs and outputs follow the Brain Imaging Data Structure [@bids]."
    )


def _methods(facts: dict[str, Any]) -> set[str]:
    return {str(model["method"]) for model in facts.get("models", []) if model.get("method")}


def _preprocessing(facts: dict[str, Any]) -> str:
    versions = facts.get("versions", {})
    deepbet = f" {versions['deepbet']}" if "deepbet" in versions else ""
    parts = [
        _MASKS[name].format(version=deepbet) for name in facts.get("masks", []) if name in _MASKS
    ]
    parts += _fusion(facts)
    scalings = {model.get("scaling", "max") for model in facts.get("models", [])} or {"max"}
    how = " or ".join(text for name, text in _SCALINGS.items() if name in scalings)
    parts.append(f"Intensities were {how}; voxels outside the mask are zero.")
    templates = " and ".join(facts.get("templates", []))
    if templates:
        ants = f" (antspyx {versions['antspyx']})" if "antspyx" in versions else ""
        parts.append(f"Images were registered to {templates} with ANTs{ants} [@ants].")
    return " ".join(parts)


def _fusion(facts: dict[str, Any]) -> list[str]:
    """Return how low-field scans were put together and on which grid."""
    if not facts.get("enhanced"):
        return []
    parts = []
    grids = " and ".join(facts.get("enhanced_grids", []))
    if facts.get("fused"):
        counts = " or ".join({2: "two", 3: "three"}.get(n, str(n)) for n in facts["fused"])
        parts.append(
            f"The {counts} orthogonal thick-slice scans of a session were registered rigidly to "
            "one of them with ANTs [@ants] and averaged."
        )
    where = f" with voxels of {grids} mm" if grids else ""
    parts.append(f"Scans were brought to the model's grid{where} by cubic splines.")
    return parts


def _grid(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{side:g}" for side in spacing)


def _template(space: str, uri: str) -> str:
    origin = "TemplateFlow [@templateflow]" if "templateflow" in uri else "a file of the user's own"
    return f"{space} from {origin}"


def _synthesis(facts: dict[str, Any]) -> str:
    parts = []
    for model in facts.get("models", []):
        kind = _KINDS.get(model.get("training_kind", "unknown"), _KINDS["unknown"])
        size = f", {model['parameters']:,} parameters" if model.get("parameters") else ""
        digest = f", sha256 `{model['sha256'][:12]}`" if model.get("sha256") else ""
        contrast = f"{model['contrast']} " if model.get("contrast") else ""
        parts.append(
            f"The {contrast}model `{str(model['name']).replace('`', '')}`{size}{digest} was {kind}."
        )
    for grid in facts.get("grids", []):
        parts.append(f"Low-field images were also made {grid}.")
    wide = not facts.get("enhanced")
    if wide and any(
        not FAMILIES[METHODS[name]].continuous for name in _methods(facts) & METHODS.keys()
    ):
        parts.append("Images were made on the model's grid and brought to others by cubic splines.")
    if facts.get("precision"):
        parts.append(f"Computations ran in {facts['precision']}.")
    if facts.get("seed") is not None:
        parts.append(f"The random seed was {facts['seed']}.")
    return " ".join(parts)


def _software(facts: dict[str, Any]) -> str:
    versions = facts.get("versions", {})
    named = {
        "nipype": ("Nipype", "nipype"),
        "pybids": ("PyBIDS", "pybids"),
        "torch": ("PyTorch", "pytorch"),
        "nibabel": ("NiBabel", "nibabel"),
        "numpy": ("NumPy", "numpy"),
    }
    used = [
        f"{title} {versions[name]} [@{key}]"
        for name, (title, key) in named.items()
        if name in versions
    ]
    if not used:
        return ""
    return "Processing relied on " + ", ".join(used) + "."


def _html(text: str, keys: tuple[str, ...]) -> str:
    known = works()

    def link(match: re.Match[str]) -> str:
        names = [name.strip().lstrip("@") for name in match[1].split(";")]
        links = [
            f'<a href="#ref-{escape(name)}">{escape(known[name].short)}</a>'
            for name in names
            if name in known
        ]
        return f" ({'; '.join(links)})" if links else ""

    body = _CITATION.sub(link, render_markdown(text))
    items = [f'<li id="ref-{escape(key)}">{known[key].html}</li>' for key in keys if key in known]
    references = f'<h3>References</h3><ol class="references">{"".join(items)}</ol>'
    return body + (references if items else "")
