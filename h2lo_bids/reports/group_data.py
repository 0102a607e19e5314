"""The files of a training or evaluation in the output folder, as far as it has come.

Nothing here fails on a fold that is under way or on a damaged file: what cannot
be read is skipped and named among the problems.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from h2lo_bids import io
from h2lo_bids.bids.derivatives import find_records, result_files, result_path
from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.catalogue import CATALOGUE, CLIPPED, CONVENTIONS, Metric
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES, Score, read_scores
from h2lo_bids.evaluation.splits import Fold, read_splits
from h2lo_bids.evaluation.table import Block, tabulate
from h2lo_bids.vocabulary import CONTRASTS, ENHANCE, SYNTHESIZE

_TABLES = {"evaluate": "evaluation_tables", ENHANCE: "enhancement_tables"}
_ENHANCER = re.compile(r"pfsr(-.+)?")
_FOLD = re.compile(r"fold-(\d{1,9})")
_CURVES = ("step", "l1", "gradient", "psnr")
_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {
    "fold": dict, "model": dict, "options": dict, "software": dict, "warnings": list, "task": str,
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
    """Everything of one contrast: its runs by method and fold, its planned splits, its scores."""

    name: str
    runs: tuple[Run, ...]
    splits: tuple[Fold, ...]
    titles: dict[str, str]  # of the methods of the table, then of others by their folders
    block: Block
    problems: list[str] = field(hash=False)  # of files, those of the whole page

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that have a value, in the order of the tables."""
        summary = [value for row in self.block.rows for value in row.summary.values()]
        known = {value.metric for value in summary if not math.isnan(value.mean)}
        return tuple(metric for key, metric in CATALOGUE.items() if key in known)

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
        for method in dict.fromkeys(run.method for run in self.runs):
            done = {run.fold for run in self.runs if run.method == method and run.record}
            lacking = [str(k) for k in self.folds if k not in done]
            if lacking and method != IDENTITY:
                what = f"{'fold' if len(lacking) == 1 else 'folds'} {', '.join(lacking)}"
                lines.append(f"{self.name}, {self.titles[method]}: {what} not finished")
        return tuple(lines)


def read_contrasts(
    out_dir: Path, level: str, problems: list[str], blocks: Mapping[str, Block] | None = None
) -> list[Contrast]:
    """Return the runs and splits of every contrast; problems of files are added, one line each."""
    table = result_files(out_dir, "splits")[0]
    splits = {} if level == "evaluate" else _read(read_splits, table, problems, {})
    root = out_dir / ("evaluation" if level == "evaluate" else "folds")
    contrasts = []
    for name in CONTRASTS:
        stem = result_path(out_dir, _TABLES.get(level, "group_tables"), contrast=name)
        scores, planned = Path(f"{stem}_scores.tsv"), splits.get(name, ())
        begun = planned or scores.exists() or (root / name).is_dir()
        if not begun and not find_records(out_dir, name):
            continue
        runs = []
        for run in _runs(root / name, level, scores, problems):
            recorded = run.record.get("fold")
            due = [fold.recorded for fold in planned if fold.index == run.fold]
            if planned and recorded is not None and recorded not in due:
                line = f"{name}, {run.name}: fitted on another division of the subjects; skipped"
                problems.append(line)
            else:
                runs.append(run)
        tasks = {level, *(run.record.get("task") for run in runs)}
        identity = IDENTITY_TITLES[ENHANCE if ENHANCE in tasks else SYNTHESIZE]
        titles = {IDENTITY: identity, **{run.method: run.method for run in runs}}
        titles |= {run.method: run.title for run in runs if run.record}  # others have none yet
        if blocks is None:
            block = _tabulate(name, runs, titles, stem, problems)
        else:
            block, titles = blocks.get(name, Block(name, ())), {}
        titles = block.titles | titles
        contrasts.append(Contrast(name, tuple(runs), planned, titles, block, problems))
    return contrasts


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
    """Read the rows of a TSV file."""
    rows: list[dict[str, str]] = _read(
        lambda file: list(io.table_rows(io.read_text(file), quoting=csv.QUOTE_NONE)),
        path, problems, [],
    )  # fmt: skip
    return rows


def _runs(folder: Path, level: str, table: Path, problems: list[str]) -> list[Run]:
    """Read the folds of a task's methods, or the models that the last evaluation's table names."""
    places: list[tuple[str, int | None, Path]]
    if level == "evaluate":
        named = {row.get("method") for row in read_table(table, problems)}
        places = [
            (path.name, None, path)
            for path in sorted(folder.glob("[!.]*"))
            if path.is_dir() and (path.name in named or not named)
        ]
    else:
        places = sorted(
            (path.parent.name, int(match[1]), path)
            for path in folder.glob("[!.]*/fold-*")
            if (match := _FOLD.fullmatch(path.name))
            and bool(_ENHANCER.fullmatch(path.parent.name)) == (level == ENHANCE)
        )
    runs = []
    for method, fold, path in places:
        record = {
            key: value
            for key, value in read_json(path / "record.json", problems).items()
            if isinstance(value, _FIELDS.get(key, object))
            and not (isinstance(value, float) and not math.isfinite(value))
        }
        runs.append(Run(method, fold, path, record, _history(path / "history.csv")))
    return runs


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


def _tabulate(
    name: str, runs: list[Run], titles: dict[str, str], stem: Path, problems: list[str]
) -> Block:
    """Compute a contrast's table from the scores of its folds as they are now."""
    # Methods, convention and reference are the last collection's, which left out other pairs.
    found = _by_fold(_read(read_scores, f"{stem}_scores.tsv", problems, ()))
    collected = {method for method, _ in found}
    for run in runs:
        if collected and run.method not in collected:
            problems.append(f"{name}, {run.name}: was not collected; not in the table")
            continue
        now = _by_fold(_read(read_scores, run.folder / "scores.tsv", problems, ()))
        found |= {key: own for key, own in now.items() if key[0] == run.method or key not in found}
    scores = [score for own in found.values() for score in own]
    scored = {score.method for score in scores} - {IDENTITY}
    versus = [row.get("versus") for row in read_table(f"{stem}_comparisons.tsv", problems)]
    metric = read_json(Path(f"{stem}_summary.json"), problems).get("metric")
    convention = str(metric.get("MetricsConvention")) if isinstance(metric, dict) else CLIPPED
    try:
        return tabulate(
            scores, titles, contrast=name,
            reference=next((method for method in versus if method in scored), None),
            convention=convention if convention in CONVENTIONS else CLIPPED,
        )  # fmt: skip
    except H2loError as error:
        problems.append(f"{name}: the scores cannot be summarised ({error})")
        return Block(name, ())


def _by_fold(scores: Iterable[Score]) -> dict[tuple[str, int | None], list[Score]]:
    """Group scores by method and fold."""
    found: dict[tuple[str, int | None], list[Score]] = {}
    for score in scores:
        found.setdefault((score.method, score.fold), []).append(score)
    return found
