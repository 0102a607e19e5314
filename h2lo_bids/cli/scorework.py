"""Scoring models on prepared pairs, in a child process."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from h2lo_bids.cli.prepared import usable_pairs
from h2lo_bids.cli.settings import Settings
from h2lo_bids.cli.tasks import ScoreTask
from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.evaluation.tables import markdown_table, write_tables
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle
from h2lo_bids.training.foldjob import BUNDLE
from h2lo_bids.training.scoring import score_models

Send = Callable[[dict[str, Any]], None]


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
        ``{"event": "scored", "tables": [path]}``.

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
    for contrast, sources in task.sources.items():
        if contrast not in models:
            continue
        used, flagged = usable_pairs(settings, contrast, sources)
        for pair in flagged:
            say(
                f"warning: {contrast}: sub-{pair.name or pair.subject} left out, its registration "
                f"is doubtful: {'; '.join(pair.check.reasons)} (--keep-flagged-pairs keeps it)"
            )
        if not used:
            continue
        scores = score_models(
            models[contrast],
            used,
            device=settings.device,
            precision=settings.precision or "fp32",
            out_dir=settings.out_dir,
            progress=say,
        )
        stem = settings.out_dir / f"evaluation_{contrast}"
        summary = write_tables(stem, scores)
        send({"event": "table", "contrast": contrast, "text": markdown_table(summary)})
        tables.append(f"{stem}_table.md")
    if not tables:
        raise BadDataError(
            f"{settings.out_dir}: the registration check flagged every pair; look at the images, "
            "and keep them with --keep-flagged-pairs if they are well"
        )
    return {"event": "scored", "tables": tables}


def named_models(
    settings: Settings, contrasts: tuple[str, ...]
) -> dict[str, list[tuple[str, Bundle]]]:
    """Return the models of each contrast under names of their own.

    Without any, the embedded model of every contrast.

    Raises
    ------
    UsageError
        If a model is for a contrast of which there are no pairs.
    H2loError
        As `h2lo_bids.models.bundle.load_bundle`.
    """
    found: dict[str, list[tuple[str, Bundle]]] = {}
    if not settings.model:
        return {contrast: [("embedded", default_bundle(contrast))] for contrast in contrasts}
    for contrast, path in settings.model:
        only = contrasts[0] if len(contrasts) == 1 and path.is_file() else None
        bundle = load_bundle(path, contrast=contrast or only)
        if bundle.contrast not in contrasts:
            raise UsageError(
                f"--model {path}: is for {bundle.contrast}, and there are no pairs of it; the "
                f"pairs are {', '.join(contrasts)}"
            )
        own = found.setdefault(bundle.contrast, [])
        own.append((_unique(_name(bundle), [name for name, _ in own]), bundle))
    return found


def _name(bundle: Bundle) -> str:
    """Call a model by its folder or file, or, where every model's folder is called so, itself."""
    name = bundle.path.stem if bundle.path.is_file() else bundle.path.name
    if name == BUNDLE:
        name = str(bundle.metadata.get("name", name))
    return re.sub(r"[^\w.+-]+", "-", name).lstrip(".+-") or "model"


def _unique(name: str, taken: list[str]) -> str:
    base = name = f"model-{name}" if name == IDENTITY else name
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
