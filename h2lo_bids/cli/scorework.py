"""Scoring models on prepared pairs, in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.bids.fieldstrength import field_strength
from h2lo_bids.cli.checks import synthstrip_weights
from h2lo_bids.cli.modelchoice import named_models
from h2lo_bids.cli.prepared import all_flagged, flagged_line, usable_pairs
from h2lo_bids.cli.tasks import ScoreTask
from h2lo_bids.errors import BadDataError, H2loError
from h2lo_bids.evaluation.realism import Appearance, appearance
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.evaluation.table import write_tables
from h2lo_bids.imaging.brain import extract_brain
from h2lo_bids.imaging.conform import conform
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import resample_mask
from h2lo_bids.io import read_json
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.training.scoring import score_models
from h2lo_bids.vocabulary import Send


def score(task: ScoreTask, send: Send) -> dict[str, Any]:
    """Score the models on every contrast's pairs and write the tables.

    Parameters
    ----------
    task
        What was prepared.
    send
        Takes ``said``, ``note`` and ``table`` events.

    Returns
    -------
    dict
        ``{"event": "scored", "tables": [path], "lost": [[high-field scan, line]],
        "unusable": [[reference, line]]}``.

    Raises
    ------
    UsageError
        If a model is for a contrast of which there are no pairs.
    BadDataError
        If every pair is flagged.
    """
    settings = task.settings
    models = named_models(settings, tuple(task.sources))

    def say(line: str) -> None:
        warning = line.startswith("warning: ")
        text = line.removeprefix("warning: ")
        send({"event": "note", "level": "warning" if warning else "", "text": text})

    tables = []
    lost: list[list[str]] = []
    unusable: list[list[str]] = []
    for contrast, sources in task.sources.items():
        if contrast not in models:
            continue
        used, flagged = usable_pairs(settings, contrast, sources)
        for pair in flagged:
            say(f"warning: {flagged_line(pair)}; skipped without --keep-flagged-pairs")
        if not used:
            continue
        scores = score_models(
            models[contrast],
            used,
            device=settings.device,
            precision=settings.precision or "fp32",
            seed=settings.random_seed,
            out_dir=settings.out_dir,
            references=read_references(settings, contrast, used[0].frame, unusable),
            progress=say,
            lost=lambda pair, line: lost.append([pair.sources[0].split(":", 2)[2], line]),
        )
        stem = settings.out_dir / f"evaluation_{contrast}"
        # All of a contrast are of one task, or scoring would have refused them.
        titles = {IDENTITY: IDENTITY_TITLES[models[contrast][0][1].task]}
        table = write_tables(stem, scores, titles, convention=settings.metrics_convention)
        send({"event": "table", "contrast": contrast, "text": table.to_md()})
        tables.append(f"{stem}_table.md")
    for own, path in settings.realism_reference:
        if own not in models:
            say(f"warning: {path}: not used, as no {own} model is evaluated")
    if not tables:
        raise all_flagged(settings)
    return {"event": "scored", "tables": tables, "lost": lost, "unusable": unusable}


def read_references(
    settings: Settings, contrast: str, frame: Frame, unusable: list[list[str]]
) -> dict[str, Appearance]:
    """Measure the real low-field scans that ``--realism-reference`` names for a contrast.

    Each is put on the pairs' frame as the scans of pairs are, so that all are compared alike.

    Parameters
    ----------
    settings
        Uses ``realism_reference`` and how the brain is found; a scan that has no skull keeps
        what is not 0.
    contrast
        ``"T1w"`` or ``"T2w"``.
    frame
        Of the pairs.
    unusable
        Extended by file and line of each that cannot be used.

    Returns
    -------
    dict
        By the file's name, or the path where two have one name.
    """
    method = "auto" if settings.skull_strip == "skip" else settings.skull_strip
    found: dict[str, Appearance] = {}
    for path in (path for own, path in settings.realism_reference if own == contrast):
        try:
            name = path.name if path.name not in found else str(path)
            found[name] = _reference(path, frame, method, synthstrip_weights(settings))
        except H2loError as err:
            unusable.append([str(path), str(err)])
    return found


def _reference(path: Path, frame: Frame, method: str, weights: Path | None) -> Appearance:
    _check_low_field(path)
    image = load_checked(path).image
    mask = extract_brain(image, method=method, weights=weights).image
    placed = conform(image, frame, mask=mask)
    inside = np.asarray(resample_mask(mask, placed.shape, placed.affine).dataobj) > 0
    found = appearance(np.asarray(placed.dataobj), inside, frame.spacing)
    if np.isnan(found.median):
        raise BadDataError(f"{path}: no positive value in its brain; look at the image")
    return found


def _check_low_field(path: Path) -> None:
    """Refuse a reference whose sidecar, where there is one, says that it is a high-field scan."""
    sidecar = path.with_name(f"{path.name.partition('.nii')[0]}.json")
    if not sidecar.exists():
        return
    try:
        content = read_json(sidecar)
    except (OSError, ValueError) as err:
        raise BadDataError(f"{sidecar}: cannot be read as JSON ({err}); mend it") from err
    strength = field_strength(content if isinstance(content, dict) else {})
    if strength.tesla is not None and not strength.low:
        raise BadDataError(
            f"{path}: is no low-field scan, but of {strength.tesla:g} T by {strength.source} in "
            "its sidecar; give another one, or correct the sidecar"
        )
