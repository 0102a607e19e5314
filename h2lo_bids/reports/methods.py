"""Text for a paper's Methods section, from the facts of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import Any

from h2lo_bids.bids.dataset import bibtex
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.models.catalogue import cited
from h2lo_bids.models.registry import FAMILIES, METHODS, task_of
from h2lo_bids.reports.citations import works
from h2lo_bids.reports.markdown import render
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
class MethodsText:
    """The text in the forms that users paste.

    Attributes
    ----------
    markdown : str
        With Pandoc citations, ``[@key]``.
    html : str
        Safe, citations linked to the list of references.
    keys : tuple of str
        Cited works, in the order of first mention.
    bibtex : str
        Their entries.
    """

    markdown: str
    html: str
    keys: tuple[str, ...]
    bibtex: str


def facts_of(report: SubjectReport) -> dict[str, Any]:
    """Collect what the Methods text needs from the scans of a report.

    What ``report.facts`` states wins over what is found in the scans.
    """
    scans, models = report.scans, [scan.model for scan in report.scans if scan.model]
    versions = dict(report.versions)
    found = {
        "version": versions.get("h2lo-bids", ""),
        "versions": versions,
        "contrasts": sorted({scan.suffix for scan in scans}),
        "masks": sorted({scan.mask_method.split(" ")[0].lower() for scan in scans} - {""}),
        "enhanced": any(scan.enhances for scan in scans),
        "synthesized": any(not scan.enhances for scan in scans),
        "fused": sorted({len(scan.parts) for scan in scans if len(scan.parts) > 1}),
        "enhanced_grids": sorted({_grid(scan.spacing) for scan in scans if scan.enhances}),
        "templates": sorted({_template(*own) for scan in scans for own in scan.templates}),
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
    return {**found, **report.facts}


def describe(facts: dict[str, Any]) -> MethodsText:
    """Write the Methods text.

    Parameters
    ----------
    facts : dict
        All optional: ``version`` of this program, ``versions`` of the
        software (names as on PyPI), ``contrasts``, ``masks`` (first words
        of :attr:`~h2lo_bids.reports.records.ScanReport.mask_method`), ``enhanced`` and
        ``synthesized`` (which way was gone; with neither, to low field), ``fused`` (how many
        scans were), ``enhanced_grids``, ``templates`` (with their
        origin), ``grids`` (one
        phrase per further output grid), ``models`` (dicts with ``name``, ``method``,
        ``contrast``, ``sha256``, ``training_kind``, ``scaling``, ``parameters``),
        ``precision``, ``seed``.

    Returns
    -------
    MethodsText
        Nothing is claimed that the facts do not state.
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
        made = f"Low-field {images} were enhanced" + (f" by {by}" if by else "")
        made += ", used as in the H2LO study [@h2lo],"
        if facts.get("synthesized"):
            made += f" and low-field MRI was synthesized by {cited(used) or cited(['h2lo'])}"
    elif used == {IDENTITY}:
        made = f"High-field {images} were prepared and returned as they are, not synthesized,"
    else:
        # A model that does not say its method is one of H2LO's first releases.
        by = cited(used - {IDENTITY}) or cited(["h2lo"])
        made = f"Low-field MRI was synthesized from high-field {images} by {by}"
    return (
        f"{made} with the BIDS App *H2LO-BIDS*{version} [@h2lo]. "
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
    """Say how low-field scans were put together and on which grid."""
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

    body = _CITATION.sub(link, render(text))
    items = [f'<li id="ref-{escape(key)}">{known[key].html}</li>' for key in keys if key in known]
    references = f'<h3>References</h3><ol class="references">{"".join(items)}</ol>'
    return body + (references if items else "")
