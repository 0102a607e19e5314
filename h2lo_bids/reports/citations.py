"""Which works are cited, from ``bids_app_spec/references.yml``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from html import escape

import bids_app_spec


@dataclass(frozen=True)
class Work:
    """One entry of the bibliography.

    Attributes
    ----------
    key : str
        Of the entry.
    fields : dict
        As BibTeX names and writes them; braces keep capitals.
    """

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
