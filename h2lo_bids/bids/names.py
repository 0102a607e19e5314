"""BIDS file names: reading them, and what a name that is nearly one should be.

The entities come from the file's own name, not from its path, so that a
dataset below a folder called ``sub-something`` is read correctly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.vocabulary import CONTRASTS

LONG_TO_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "modality": "mod",
    "inversion": "inv",
    "mtransfer": "mt",
    "processing": "proc",
    "resolution": "res",
    "density": "den",
    "description": "desc",
}
"""Entities by the names that PyBIDS and the specification give them, where these are longer."""

_BEFORE = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "mod", "echo", "flip", "inv")
_AFTER = ("mt", "part", "proc", "space", "chunk", "res", "den", "label", "desc")
ORDER: tuple[str, ...] = _BEFORE + _AFTER
"""Short names in the order in which BIDS wants them."""

NIFTI = (".nii.gz", ".nii")

_NEAR = {
    "T1w": ("t1", "mprage", "mp2rage", "unit1", "bravo", "spgr", "t1wrms"),
    "T2w": ("t2", "cube"),
}
"""Suffixes, in lower case, of images that may have been meant as one of those that are read; as
are T1W, T1weighted, and T1w1 or T1wa, which converters write of a series that gave several."""
_FORMS = re.compile(
    r"(?!.*\.(?:json|txt|log|md5|sha\d+|tsv|csv|png|svg|html)$)"
    r"\.(?:nii|mgz|mgh|img|hdr|mnc|nrrd|nhdr|mif|dcm|gz)(?:\.\w+)*",
    re.IGNORECASE,
)
"""Extensions of images in other formats or case, packed otherwise, or not whole."""

_PAIR = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)")


@dataclass(frozen=True)
class Name:
    """A file name taken apart: ordered entities, suffix and extension."""

    entities: tuple[tuple[str, str], ...]
    suffix: str
    extension: str

    def get(self, entity: str) -> str | None:
        """Give the label of an entity (short name), or None when absent."""
        return dict(self.entities).get(entity)

    @property
    def stem(self) -> str:
        """The name without its extension, in BIDS order."""
        pairs = sorted(self.entities, key=lambda pair: ORDER.index(pair[0]))
        return "_".join([*(f"{key}-{value}" for key, value in pairs), self.suffix])


def parse_name(filename: str) -> Name | None:
    """Take a BIDS file name apart."""
    base, dot, extension = filename.partition(".")
    *pairs, suffix = base.split("_")
    found = (match for match in map(_PAIR.fullmatch, pairs) if match)
    known = {match[1]: match[2] for match in found if match[1] in ORDER}
    if not dot or not re.fullmatch(r"[A-Za-z0-9]+", suffix) or len(known) < len(pairs):
        return None
    return Name(tuple(known.items()), suffix, dot + extension)


def identifier(name: str) -> str:
    """Return a name, or a part of one, as a word that a workflow may be called."""
    return name.replace("-", "_").replace("+", "plus")


def in_place(path: Path, name: Name) -> bool:
    """Check the order of entities, and that they agree with the folders."""
    session = [f"ses-{label}"] if (label := name.get("ses")) else []
    place = (f"sub-{name.get('sub')}", *session, "anat", name.stem + name.extension)
    return path.parts[-len(place) :] == place and name.extension in NIFTI


def looks_wanted(path: Path, name: Name | None, suffixes: tuple[str, ...]) -> bool:
    """Guess whether a file that is not named by the rules was meant as such an image."""
    if name is not None and name.suffix not in suffixes:
        return meant_suffix(name.suffix, suffixes) is not None
    *words, last = re.sub(r"\.nii(\.gz)?$", "", path.name.lower()).split("_")
    words += re.split(r"[^a-z0-9]+", last)
    return any(word.startswith(suffix.lower()) for word in words for suffix in suffixes) or (
        name is None and meant_suffix(words[-1], suffixes) is not None
    )


def words_of_label(label: str) -> set[str]:
    """Return the words of a label, in lower case, apart by any change of case or by digits."""
    found = re.findall(r"[A-Z]+|[a-z]+", label) + re.findall(r"[A-Z][a-z]+", label)
    return {word.lower() for word in found}


def meant_suffix(suffix: str, suffixes: Iterable[str]) -> str | None:
    """Return which of the suffixes that are read one like UNIT1, T1 or T1W stands for."""
    near = suffix.lower()
    # A letter or a number more is a converter's; T2wFLAIR or T1wmask is no image of the contrast.
    found = (
        s for s in suffixes
        if near in _NEAR.get(s, ()) or re.fullmatch(rf"{s.lower()}(eighted|[a-z]?\d*)", near)
    )  # fmt: skip
    return next(found, None)


def right_stem(name: str, suffixes: tuple[str, ...]) -> str | None:
    """Return the stem that a file of any image format should have, if it is of a contrast."""
    stem, dot, extension = name.partition(".")
    before, _, suffix = stem.rpartition("_")
    right = suffix if suffix in suffixes else meant_suffix(suffix, suffixes)
    known = before.lower().startswith("sub") and _FORMS.fullmatch(dot + extension)
    return f"{before}_{right}" if right and known else None


def rename(name: Name | None, path: Path) -> str:
    """Suggest the name that an image should have."""
    if name is None or name.get("sub") is None:
        form = "sub-<label>[_ses-<label>][_acq-<label>][_run-<index>]_T1w.nii.gz"
        return f"write {form}, or name it in .bidsignore if it is no input"
    better = right_name(name)
    if better == path.name:
        return "its subject or session is not that of its folder: move or rename it"
    several = name.suffix[3:] and name.suffix.startswith(CONTRASTS)
    return f"rename it to {better}{', with run-<index> if there are several' if several else ''}"


def right_name(name: Name) -> str:
    """Return the name of an image with its entities in order and a suffix that is read."""
    suffix = meant_suffix(name.suffix, CONTRASTS) or name.suffix
    extension = ".nii" if name.extension.endswith("nii") else ".nii.gz"
    return f"{name.stem.rpartition('_')[0]}_{suffix}{extension}"
