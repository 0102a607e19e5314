"""Which scan stands for its session when there are several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bids_app_spec
from h2lo_bids.bids.names import Name, words_of_label
from h2lo_bids.bids.orientation import read_grid

PREFERENCE = (
    "a whole head in one volume, then no contrast agent, "
    "then acq-MPRAGE (CUBE for T2w) before other acquisitions, "
    "then intensity-corrected rec- before plain, then the lowest run"
)

_AGENT = re.compile(r"(post|gd|gad[a-z]*|contrast|ce)+")
_NO_AGENT = re.compile(r"(pre|no|non|none|without|wo)(gd|gad[a-z]*|contrast|ce)*")


def rank(path: Path, name: Name) -> tuple[Any, ...]:
    """Give the sorting key of a scan: what its header shows, then its name.

    Parameters
    ----------
    path : Path
        The image; only its header is read. One whose content is not there ranks
        as if it showed a whole head.
    name : Name
        Of the image.

    Returns
    -------
    tuple
        Whether a side of its field of view is below 100 mm, whether it has
        several volumes, then as `preference`.
    """
    grid = read_grid(path)
    partial, several = (grid.partial, grid.volumes > 1) if grid else (False, False)
    return (partial, several, *preference(name))


def has_agent(name: Name) -> bool:
    """Tell whether a name says that a contrast agent was given.

    Examples
    --------
    >>> from h2lo_bids.bids.names import parse_name
    >>> labels = ("MPRAGEgd", "T1post", "MPRAGECE", "preGad", "MPRAGE", "SPACE")
    >>> [has_agent(parse_name(f"sub-1_acq-{label}_T1w.nii")) for label in labels]
    [True, True, True, False, False, False]
    """
    sequences = "|".join(bids_app_spec.load("io_spec.json")["preference"]["acq"])
    found = "ce" in dict(name.entities)
    for entity, label in name.entities:
        if entity in ("sub", "ses"):
            continue
        rest = re.sub(rf"(?i:{sequences}|t[12]w?|3d)", " ", label)
        words = words_of_label(rest)
        if any(_NO_AGENT.fullmatch(word) for word in words):
            return False
        found |= any(_AGENT.fullmatch(word) for word in words)
    return found


def preference(name: Name) -> tuple[Any, ...]:
    """Give a sorting key; the scan with the smallest is taken.

    In this order: without before with contrast agent (``ce``, or a label with a
    word such as ``gd`` or ``post``); by acquisition,
    the sequences of ``io_spec.json`` in their order (a label counts when it
    contains the sequence's name), then no ``acq``, then all others; an
    intensity-corrected reconstruction (``rec-SCIC``, ``rec-NORM`` ...) before
    a plain one before any other, because the brightest voxel sets the scale of
    the whole image, and without the correction that voxel is the one nearest
    to the coil; without ``task``; ``part`` absent before ``part-mag``; the
    lowest run, none counting as zero; and last the name itself.

    So of ds005752's ``acq-MPRAGE``, ``acq-MPRAGE_rec-SCIC`` and
    ``acq-FSPGR_rec-SCIC``, each with runs, ``acq-MPRAGE_rec-SCIC_run-1`` is taken.

    Parameters
    ----------
    name : Name
        Of the image.

    Returns
    -------
    tuple
    """
    order = bids_app_spec.load("io_spec.json")["preference"]
    corrected = tuple(word.lower() for word in order["rec"])
    rec, run = name.get("rec"), name.get("run") or "0"
    return (
        has_agent(name),
        _rank(name.get("acq"), order["acq"]),
        1 if rec is None else 0 if rec.lower().startswith(corrected) else 2,
        name.get("task") is not None,
        name.get("part") is not None,
        int(run) if run.isdigit() else 0,
        name.stem,
    )


def not_an_input(name: Name, filtered: Iterable[str]) -> str | None:
    """Say why an image is no magnitude image of a whole head, if so.

    Parameters
    ----------
    name : Name
        Of a T1w or T2w image.
    filtered : iterable of str
        Entities that the user's filters name: those were chosen on purpose.

    Returns
    -------
    str or None
        The reason, with the remedy.
    """
    spec = bids_app_spec.load("io_spec.json")
    asked = set(filtered)
    for entity, label in name.entities:
        if entity not in spec["entities"]:
            # No output could be named after it.
            return f"BIDS knows no {entity}-{label} in the name of a {name.suffix}; rename it"
        labels = spec["exclude"].get(entity)
        if labels is not None and entity not in asked and (labels == "*" or label in labels):
            return (
                f"{entity}-{label} is not a plain magnitude image; "
                f"take it with --filter {entity}={label}"
            )
    return None


def _rank(label: str | None, order: list[str]) -> int:
    if label is None:
        return len(order)
    for rank, word in enumerate(order):
        if word.lower() in label.lower():
            return rank
    return len(order) + 1
