"""The files of a training or evaluation in the output folder, as far as it has come.

Nothing here fails on a fold that is under way or on a damaged file: what cannot
be read is skipped and named among the problems.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from h2lo_bids import io
from h2lo_bids.bids.derivatives import find_records, result_files, result_path, result_pattern
from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.catalogue import CATALOGUE, CLIPPED, CONVENTIONS, Metric
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES, Score, read_scores
from h2lo_bids.evaluation.splits import PARTS, Fold, read_splits
from h2lo_bids.evaluation.table import Block, tabulate
from h2lo_bids.vocabulary import CONTRASTS, ENHANCE, SYNTHESIZE

_TABLES = {"evaluate": "evaluation_tables", "enhance": "enhancement_tables"}
_ENHANCER = re.compile(r"pfsr(-.+)?")
_FOLD = re.compile(r"fold-(\d{1,9})")
_CURVES = ("step", "loss", "l1", "gradient", "psnr", "seconds")
_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {
    "fold": dict, "model": dict, "options": dict, "software": dict, "warnings": list,
    "parameters": int, "seconds": _NUMBER, "best_step": _NUMBER, "best_psnr": _NUMBER,
    "identity_psnr": _NUMBER,
}  # fmt: skip
"""Fields of a fold's record that the report relies on; one of another type counts as absent."""


@dataclass(frozen=True)
class Run:
    """One fold of one method, or one model that was evaluated; not done without a record."""

    method: str
    fold: int | None
    folder: Path
    record: dict[str, Any] = field(hash=False)
    history: dict[str, npt.NDArray[np.float64]] = field(hash=False)

    @property
    def title(self) -> str:
        """What tables call the method."""
        return str(self.record.get("title") or self.method)

    @property
    def name(self) -> str:
        """For the reader."""
        return self.title if self.fold is None else f"{self.title}, fold {self.fold}"


@dataclass(frozen=True)
class Contrast:
    """Everything of one contrast: its runs by method and fold, its splits as planned, its scores.

    Scores are in the regions of the paper's Table 1.
    """

    name: str
    runs: tuple[Run, ...]
    splits: tuple[Fold, ...]
    task: str
    block: Block

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that have a value, in the order of the tables."""
        summary = [value for row in self.block.rows for value in row.summary.values()]
        known = {value.metric for value in summary if not math.isnan(value.mean)}
        return tuple(metric for key, metric in CATALOGUE.items() if key in known)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Methods in the order of their folders, and what tables call them."""
        return {IDENTITY: IDENTITY_TITLES[self.task], **{r.method: r.title for r in self.runs}}

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that were planned or begun."""
        begun = {run.fold for run in self.runs if run.fold is not None}
        return tuple(sorted(begun | {fold.index for fold in self.splits}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Folds that were planned and have not ended, in words."""
        if self.folds and not self.runs:
            return (f"{self.name}: no fold of any method has begun",)
        lines = []
        for method, title in self.titles.items():
            done = {run.fold for run in self.runs if run.method == method and run.record}
            lacking = [str(k) for k in self.folds if k not in done]
            if lacking and method != IDENTITY:
                word = "fold" if len(lacking) == 1 else "folds"
                lines.append(f"{self.name}, {title}: {word} {', '.join(lacking)} not finished")
        return tuple(lines)


def read_contrasts(out_dir: Path, level: str, problems: list[str]) -> list[Contrast]:
    """Return the runs and splits of every contrast; problems of files are added, one line each.

    Level ``"evaluate"`` looks into ``evaluation``, any other into ``folds``, of which
    ``"enhance"`` takes the enhancers and any other the rest.
    """
    table = result_files(out_dir, "splits")[0]
    splits = {} if level == "evaluate" else _read(read_splits, table, problems, {})
    root = out_dir / ("evaluation" if level == "evaluate" else "folds")
    scored = result_pattern(_TABLES.get(level, "group_tables"), "_scores.tsv")
    names = {path.name.split("_")[1] for path in out_dir.glob(scored)} | {*splits}
    names |= {c for c in CONTRASTS if (root / c).is_dir() or find_records(out_dir, c)}
    contrasts = []
    for name in sorted(names & {*CONTRASTS}):
        planned = splits.get(name, ())
        if level == "evaluate":
            runs = _evaluated(root / name, f"{_stem(out_dir, level, name)}_scores.tsv", problems)
        else:
            runs = _fits(root / name, level, problems)
        kept = tuple(run for run in runs if _of_these_splits(run, planned))
        problems += [
            f"{name}, {run.name}: fitted on another division of the subjects; skipped"
            for run in runs
            if run not in kept
        ]
        task = ENHANCE if level == "enhance" else SYNTHESIZE
        contrast = Contrast(name, kept, planned, task, Block(name, ()))
        contrasts.append(_scored(contrast, _stem(out_dir, level, name), problems))
    return contrasts


def _stem(out_dir: Path, level: str, contrast: str) -> Path:
    """Name what the tables of a level begin with."""
    return result_path(out_dir, _TABLES.get(level, "group_tables"), contrast=contrast)


def _read(parse: Callable[[Path], Any], path: str | Path, problems: list[str], nothing: Any) -> Any:
    """Read a file; `nothing`, and a problem, when it is damaged, and nothing when it is absent."""
    path = Path(path)
    try:
        return parse(path) if os.path.lexists(path) else nothing
    except H2loError as error:
        problems.append(str(error))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        problems.append(f"{path.name} in {path.parent}: cannot be read ({reason}); skipped")
    return nothing


def read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    """Read an object; an empty one where it is absent, and with a problem where it is damaged."""
    content = _read(io.read_json, path, problems, {})
    if isinstance(content, dict):
        return content
    problems.append(f"{path.name} in {path.parent}: not an object; skipped")
    return {}


def read_table(path: str | Path, problems: list[str]) -> list[dict[str, str]]:
    """Read a TSV file."""

    def rows(file: Path) -> list[dict[str, str]]:
        return list(io.table_rows(io.read_text(file), quoting=csv.QUOTE_NONE))

    table: list[dict[str, str]] = _read(rows, path, problems, [])
    return table


def _fits(folder: Path, level: str, problems: list[str]) -> list[Run]:
    """Read the folds of the methods of a task."""
    runs = [
        _run(path.parent.name, int(match[1]), path, problems)
        for path in folder.glob("[!.]*/fold-*")
        if (match := _FOLD.fullmatch(path.name))
        and bool(_ENHANCER.fullmatch(path.parent.name)) == (level == "enhance")
    ]
    return sorted(runs, key=lambda run: (run.method, run.fold or 0))


def _evaluated(folder: Path, table: str, problems: list[str]) -> list[Run]:
    """Read the models of the last evaluation: an earlier one may have had other pairs."""
    named = {row.get("method") for row in read_table(table, problems)}
    return [
        _run(path.name, None, path, problems)
        for path in sorted(folder.glob("[!.]*"))
        if path.is_dir() and (path.name in named or not named)
    ]


def _run(method: str, fold: int | None, folder: Path, problems: list[str]) -> Run:
    record = {
        key: value
        for key, value in read_json(folder / "record.json", problems).items()
        if isinstance(value, _FIELDS.get(key, object))
        and not (isinstance(value, float) and not math.isfinite(value))
    }
    return Run(method, fold, folder, record, _history(folder / "history.csv"))


def _of_these_splits(run: Run, splits: tuple[Fold, ...]) -> bool:
    """Return whether a run is of the present splits, not of those of an earlier run."""
    recorded = run.record.get("fold")
    if not splits or recorded is None:
        return True
    planned = [fold for fold in splits if fold.index == run.fold]
    return any(
        all(recorded.get(part) == list(getattr(fold, part)) for part in PARTS) for fold in planned
    )


def _history(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Read the columns of a log that may still be written to."""
    import pandas as pd

    try:
        table = pd.read_csv(path, on_bad_lines="skip", dtype=str)
    except (OSError, ValueError):
        table = pd.DataFrame()
    table = table.reindex(columns=list(_CURVES)).apply(pd.to_numeric, errors="coerce")
    table = table[np.isfinite(table["step"].astype(float))]
    return {name: table[name].to_numpy(float) for name in _CURVES}


def _scored(contrast: Contrast, stem: Path, problems: list[str]) -> Contrast:
    """Read the scores of a contrast and compute their table.

    Folds that were scored after the last collection are added. The convention and the method
    that others are tested against are those of the collection.
    """
    scores: list[Score] = [*_read(read_scores, f"{stem}_scores.tsv", problems, ())]
    collected = {(score.method, score.fold) for score in scores}
    for run in contrast.runs:
        later = _read(read_scores, run.folder / "scores.tsv", problems, ())
        scores += [score for score in later if (score.method, score.fold) not in collected]
    scored = {score.method for score in scores} - {IDENTITY}
    versus = [row.get("versus") for row in read_table(f"{stem}_comparisons.tsv", problems)]
    reference = next((method for method in versus if method in scored), None)
    try:
        convention = _convention(Path(f"{stem}_summary.json"), problems)
        block = tabulate(
            scores, contrast.titles, contrast=contrast.name, reference=reference,
            convention=convention,
        )  # fmt: skip
        return replace(contrast, block=block)
    except H2loError as error:
        problems.append(f"{contrast.name}: the scores cannot be summarised ({error})")
        return contrast


def _convention(sidecar: Path, problems: list[str]) -> str:
    """Return the convention of what was collected."""
    metric = read_json(sidecar, problems).get("metric")
    name = metric.get("MetricsConvention") if isinstance(metric, dict) else None
    return name if name in CONVENTIONS else CLIPPED
