"""The text for a methods section about a training, from what its folds recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.results import result_pattern
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.models.catalogue import cited
from h2lo_bids.training.foldjob import read_record
from h2lo_bids.wording import counted


def training_text(out_dir: Path) -> str:
    """Compose the text; empty if no fold is done.

    Parameters
    ----------
    out_dir
        Root of the derivative dataset.

    Returns
    -------
    str
        Markdown with citation keys of ``CITATION.bib``.
    """
    paths = sorted(out_dir.glob(result_pattern("fold", "/record.json")))
    records = [record for path in paths if (record := read_record(path.parent))]
    if not records:
        return ""
    fitted = {str(record.get("method")) for record in records} - {IDENTITY}
    named = f": {phrase}" if (phrase := cited(fitted)) else ""
    intro = (
        "Models of low-field MRI were fitted to paired high- and low-field scans with the BIDS App "
        f"*H2LO-BIDS* {__version__} [@h2lo]{named}. "
        "Inputs and outputs follow the Brain Imaging Data Structure [@bids]. The low-field scans "
        "were registered rigidly to the high-field ones with ANTs [@ants]; intensities were "
        "divided by their maximum inside the brain, outside of which voxels are zero."
    )
    contrasts = sorted({str(record.get("contrast")) for record in records})
    parts = [_of_contrast(name, records) for name in contrasts]
    simulated = [bool(record.get("simulated")) for record in records]
    if any(simulated):
        whose = "The pairs" if all(simulated) else "Some or all of the pairs"
        parts.append(f"{whose} were simulated, not acquired.")
    tail = "Processing relied on Nipype [@nipype], PyTorch [@pytorch] and NiBabel [@nibabel]."
    return "\n\n".join([intro, " ".join(parts), tail]) + "\n"


def _of_contrast(contrast: str, records: Iterable[Mapping[str, Any]]) -> str:
    own = [record for record in records if record.get("contrast") == contrast]
    fitted = [record for record in own if "steps" in record]
    others = list(dict.fromkeys(str(r.get("title")) for r in own if "steps" not in r))
    parts = [_of_fits(contrast, fitted)] if fitted else []
    if others:
        parts.append(f"{contrast}: {', '.join(others)} simulated the same test subjects.")
    return " ".join(parts)


def _of_fits(contrast: str, records: list[Mapping[str, Any]]) -> str:
    steps: dict[str, set[int]] = {}
    starts: dict[str, str] = {}
    for record in records:
        steps.setdefault(str(record.get("title")), set()).add(int(record["steps"]))
        if initial := record.get("initial"):
            starts[str(record.get("title"))] = f" from the weights of {initial.get('name')}"
    each = [f"{title} ({_steps(done)}{starts.get(title, '')})" for title, done in steps.items()]
    folds = {record["fold"]["index"] for record in records}
    return (
        f"{contrast}: {', '.join(each)} in {counted(len(folds), 'fold')} of cross-validation; "
        "weights were chosen on validation subjects and scored on test subjects that had no part "
        f"in the fit (seed {records[0].get('seed')})."
    )


def _steps(done: Iterable[int]) -> str:
    found = sorted({number for number in done if number})
    known = " to ".join(str(number) for number in dict.fromkeys([*found[:1], *found[-1:]]))
    return f"{known} steps" if known else "nothing to fit"
