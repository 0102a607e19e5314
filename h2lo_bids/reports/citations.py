"""Which works are cited, from ``bids_app_spec/boilerplate.bib``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import bids_app_spec

_ENTRY = re.compile(r"^@(\w+)\s*\{\s*([^,\s]+)\s*,", re.MULTILINE)
_FIELD = re.compile(r"(\w+)\s*=\s*")
_ACCENTS = {
    '\\"': "\u0308",
    "\\'": "\u0301",
    "\\`": "\u0300",
    "\\^": "\u0302",
    "\\~": "\u0303",
    "\\c": "\u0327",
    "\\v": "\u030c",
}


@dataclass(frozen=True)
class Work:
    """One entry of the bibliography.

    Attributes
    ----------
    key : str
        Of the entry.
    bibtex : str
        The entry as written.
    fields : dict
        Lower-case names, values without braces.
    """

    key: str
    bibtex: str
    fields: dict[str, str]

    @property
    def authors(self) -> list[str]:
        """Names as ``Given Family``; a trailing ``others`` is kept."""
        names = re.split(r"\s+and\s+", self.fields.get("author", ""))
        return [" ".join(reversed([p.strip() for p in name.split(",", 1)])) for name in names]

    @property
    def short(self) -> str:
        """Author and year, for the running text."""
        names = re.split(r"\s+and\s+", self.fields.get("author", self.key))
        families = [name.split(",")[0].strip() for name in names]
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
        parts = [names + year, fields.get("title", ""), where]
        text = escape("".join(f"{part.rstrip('.')}. " for part in parts if part).strip())
        link = escape(self.link)
        return text + (f' <a href="{link}" rel="noopener noreferrer">{link}</a>' if link else "")

    @property
    def link(self) -> str:
        """Where the work is found, or an empty string."""
        if "doi" in self.fields:
            return "https://doi.org/" + self.fields["doi"]
        if self.fields.get("archiveprefix", "").lower() == "arxiv" or (
            self.fields.get("eprint", "")[:4].isdigit()
        ):
            return "https://arxiv.org/abs/" + self.fields["eprint"]
        url = self.fields.get("url", "")
        return url if url.startswith(("https://", "http://")) else ""


def works(text: str | None = None) -> dict[str, Work]:
    """Read a bibliography, by default that of the specification.

    Raises
    ------
    ValueError
        Braces are not balanced.
    """
    text = bids_app_spec.load("boilerplate.bib") if text is None else text
    found = {}
    for match in _ENTRY.finditer(text):
        end = _closing(text, text.index("{", match.start()))
        raw = text[match.start() : end + 1]
        found[match[2]] = Work(match[2], raw, _fields(text[match.end() : end]))
    return found


def bibtex(keys: Iterable[str], text: str | None = None) -> str:
    """Give the entries of these keys, in the given order; unknown keys are left out."""
    known = works(text)
    return "\n\n".join(known[key].bibtex for key in keys if key in known) + "\n"


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError("boilerplate.bib: braces are not balanced")


def _fields(body: str) -> dict[str, str]:
    values, position = {}, 0
    while match := _FIELD.search(body, position):
        start = match.end()
        if body[start : start + 1] == "{":
            position = _closing(body, start) + 1
            value = body[start + 1 : position - 1]
        else:
            mark = '"' if body[start : start + 1] == '"' else ","
            end = body.find(mark, start + 1)
            position = (len(body) if end < 0 else end) + (mark == '"')
            value = body[start:position].strip().strip('"')
        values[match[1].lower()] = _plain(value)
    return values


def _plain(value: str) -> str:
    import unicodedata

    for command, mark in _ACCENTS.items():
        pattern = re.escape(command) + (r"\s*\{(\w)\}|" + re.escape(command) + r"(\w)")
        value = re.sub(
            pattern,
            lambda match, mark=mark: unicodedata.normalize(  # type: ignore[misc]
                "NFC", (match[1] or match[2]) + mark
            ),
            value,
        )
    return re.sub(r"\s+", " ", value.replace("{", "").replace("}", "").replace("\\&", "&")).strip()
