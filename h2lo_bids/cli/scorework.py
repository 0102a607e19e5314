"""Scoring models on prepared pairs, in a child process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from h2lo_bids.cli.modelchoice import named_models
from h2lo_bids.cli.prepared import usable_pairs
from h2lo_bids.cli.tasks import ScoreTask
from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.scores import CONVENTIONS, IDENTITY, IDENTITY_TITLES
from h2lo_bids.evaluation.tables import markdown_table, write_tables
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
        ``{"event": "scored", "tables": [path], "lost": [[high-field scan, line]]}``.

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
            seed=settings.random_seed,
            out_dir=settings.out_dir,
            progress=say,
            lost=lambda pair, line: lost.append([pair.sources[0].split(":", 2)[2], line]),
        )
        stem = settings.out_dir / f"evaluation_{contrast}"
        # All of a contrast are of one task, or scoring would have refused them.
        titles = {IDENTITY: IDENTITY_TITLES[models[contrast][0][1].task]}
        how = settings.metrics_convention
        summary = write_tables(stem, scores, titles, convention=how)
        text = markdown_table(summary, titles, notes=(CONVENTIONS[how],))
        send({"event": "table", "contrast": contrast, "text": text})
        tables.append(f"{stem}_table.md")
    if not tables:
        raise BadDataError(
            f"{settings.out_dir}: the registration check flagged every pair; look at the images, "
            "and keep them with --keep-flagged-pairs if they are well"
        )
    return {"event": "scored", "tables": tables, "lost": lost}
