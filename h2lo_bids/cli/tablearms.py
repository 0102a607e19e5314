"""Table 2 of a benchmark: what its columns say of subjects and epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from h2lo_bids.cli.tablecosts import SHOWN, VALUES
from h2lo_bids.evaluation.layout import Shown, Value
from h2lo_bids.evaluation.paper import CITATION_2
from h2lo_bids.vocabulary import ENHANCE

_OURS = (
    Value("subjects_real", "Subjects whose pairs were trained on, the most of all folds"),
    Value("subjects_cohort", "Subjects of the cohort that were pretrained on"),
    Value("epochs_pretrain", "Epochs of pretraining, of the schedule"),
    Value("epochs_real", "Epochs with the real pairs, of the schedule"),
    Value("flip_rotate", "Whether patches were mirrored and turned"),
)


def arms_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tell whom an arm was trained on, and for how long.

    Parameters
    ----------
    records
        Of its finished folds.

    Returns
    -------
    dict
        By the keys of the further columns; empty for what is no arm.
    """
    options = records[0].get("options") or {} if records else {}
    schedule = options.get("schedule")
    if not schedule:
        return {}
    factor, cohort = schedule["factor"], options.get("cohort")
    turned = bool(options.get("flip_rotate"))
    real = "finetune" if cohort else "augmented" if turned else "real"
    return {
        "subjects_real": max(len(record["fold"]["train"]) for record in records),
        "subjects_cohort": cohort["subjects"] if cohort else None,
        "epochs_pretrain": factor * schedule["pretrain"] if cohort else None,
        "epochs_real": factor * schedule[real],
        "flip_rotate": turned,
    }


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return "" if value is None else f"{value:.4g}"


def subjects(values: Mapping[str, Any]) -> str:
    """Write the subjects as the paper does.

    Examples
    --------
    >>> subjects({"subjects_real": 13, "subjects_cohort": 147})
    '13+147'
    >>> subjects({"subjects_real": 13, "flip_rotate": True}), subjects({})
    ('13 (*8)', '')
    """
    real, cohort = _text(values, "subjects_real"), _text(values, "subjects_cohort")
    if cohort:
        return f"{real}+{cohort}"
    return f"{real} (*8)" if values.get("flip_rotate") else real


def epochs(values: Mapping[str, Any]) -> str:
    """Write the epochs as the paper does.

    Examples
    --------
    >>> epochs({"epochs_real": 50.0, "epochs_pretrain": 150.0}), epochs({"epochs_real": 2.0})
    ('150+50', '2')
    """
    real, first = _text(values, "epochs_real"), _text(values, "epochs_pretrain")
    return f"{first}+{real}" if first else real


TABLE_2: dict[str, Any] = {
    "name": "table2",
    "title": "Low-field enhancement: with and without synthetic pairs, on the same folds",
    "values": (*VALUES, *_OURS),
    "shown": (
        Shown("Subjects", subjects, "Real pairs, and the cohort's subjects to pretrain on"),
        Shown("Epochs", epochs, "Of the schedule: pretraining, and those with real pairs"),
        *(column for column in SHOWN if column.heading in ("Training (s)", "Steps", "Folds")),
    ),
    "citation": CITATION_2,
    "task": ENHANCE,
    "notes": ("Research use only: an enhanced image is not for diagnosis.",),
}
"""What Table 2 has of its own."""
