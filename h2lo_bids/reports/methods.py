"""Text for a paper's Methods section, from the facts of a run, and the works that it cites."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from html import escape

import bids_app_spec
from h2lo_bids.bids.dataset import bibtex
from h2lo_bids.models.registry import FAMILIES, METHODS, cited, task_of
from h2lo_bids.reports.page import render_markdown, template_of
from h2lo_bids.reports.records import SubjectReport
from h2lo_bids.vocabulary import ENHANCE

_CITATION = re.compile(r"\s*\[(@[^\[\]]+)\]")


@dataclass(frozen=True)
class Work:
    """One entry of the bibliography; fields as BibTeX names and writes them."""

    fields: dict[str, str]

    @property
    def short(self) -> str:
        """Author and year, for the running text."""
        label, *more = (name.split(",")[0] for name in self.fields["author"].split(" and "))
        if more:
            label += " et al." if more[1:] or more == ["others"] else f" and {more[0]}"
        return ", ".join(part for part in (label, self.fields.get("year", "")) if part)

    @property
    def html(self) -> str:
        """Full reference, escaped, with its link."""
        fields = self.fields
        given = (name.split(", ", 1)[::-1] for name in fields["author"].split(" and "))
        names = ", ".join(map(" ".join, given)).replace(", others", " et al.")
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
        """The address of the work, or an empty string."""
        if "doi" in self.fields:
            return "https://doi.org/" + self.fields["doi"]
        if "eprint" in self.fields:
            return "https://arxiv.org/abs/" + self.fields["eprint"]
        return self.fields.get("url", "")


@cache
def works() -> dict[str, Work]:
    """Return the bibliography of the specification."""
    return {key: Work(told) for key, told in bids_app_spec.load("references.yml").items()}


@dataclass(frozen=True)
class MethodsText:
    """The text in the forms that users paste."""

    markdown: str  # with Pandoc citations, [@key]
    html: str  # safe; citations link to the list of references
    bibtex: str


def describe(*reports: SubjectReport) -> MethodsText:
    """Write the Methods text of one or more subjects; no claim that their scans do not state."""
    scans = [scan for report in reports for scan in report.scans]
    used = (scan.model for scan in scans if scan.model is not None)
    models = {(model.sha256, model.name, model.contrast): model for model in used}.values()
    methods = {model.method for model in models if model.method}
    enhancers = {name for name in methods & METHODS.keys() if task_of(name) == ENHANCE}
    versions: dict[str, str] = defaultdict(str)
    for name, version in dict.fromkeys(pair for report in reports for pair in report.versions):
        versions[name] += f" and {version}" if versions[name] else version
    rendered = template_of("methods.md.jinja").render(
        cited=cited,
        versions=versions,
        contrasts=sorted({scan.suffix for scan in scans}),
        masks=" ".join({scan.mask_method.lower() for scan in scans}),
        enhanced=any(scan.enhances for scan in scans),
        synthesized=any(not scan.enhances for scan in scans),
        fused=sorted({len(scan.parts) for scan in scans} - {0, 1}),
        enhanced_grids=sorted(
            {" x ".join(f"{side:g}" for side in scan.spacing) for scan in scans if scan.enhances}
        ),
        templates=sorted({_template(*template) for scan in scans for template in scan.templates}),
        models=list(models),
        used=sorted(methods - enhancers),
        enhancers=enhancers,
        splines=any(not FAMILIES[METHODS[name]].continuous for name in methods & METHODS.keys()),
        precisions=sorted({scan.precision for scan in scans} - {""}),
        seeds=sorted({scan.seed for scan in scans if scan.seed is not None}),
        grids=list(dict.fromkeys(grid for report in reports for grid in report.grids)),
    )
    paragraphs = (" ".join(paragraph.split()) for paragraph in rendered.split("\n\n"))
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"
    keys = tuple(dict.fromkeys(key for group in _CITATION.findall(text) for key in _keys(group)))
    return MethodsText(text, _html(text, keys), bibtex(keys))


def _keys(group: str) -> list[str]:
    return [key.strip().lstrip("@") for key in group.split(";")]


def _template(space: str, uri: str) -> str:
    own = "a file of the user's own"
    return f"{space} from {'TemplateFlow [@templateflow]' if uri.startswith('https:') else own}"


def _html(text: str, keys: tuple[str, ...]) -> str:
    known = works()

    def link(match: re.Match[str]) -> str:
        links = [
            f'<a href="#ref-{escape(name)}">{escape(known[name].short)}</a>'
            for name in _keys(match[1])
            if name in known
        ]
        return f" ({'; '.join(links)})" if links else ""

    body = _CITATION.sub(link, render_markdown(text))
    items = [f'<li id="ref-{escape(key)}">{known[key].html}</li>' for key in keys if key in known]
    references = f'<h3>References</h3><ol class="references">{"".join(items)}</ol>'
    return body + (references if items else "")
