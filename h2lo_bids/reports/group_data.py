"""What a training or evaluation has left in the output folder, as far as it has come.

Nothing here fails on a fold that is under way or on a damaged file: what cannot
be read is skipped and named among the problems.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from h2lo_bids.bids.derivatives import find_records, result_files, result_path, result_pattern
from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.catalogue import CATALOGUE, CLIPPED, CONVENTIONS, Metric
from h2lo_bids.evaluation.scores import (
    IDENTITY,
    IDENTITY_TITLES,
    Score,
    read_scores,
    select,
    under,
)
from h2lo_bids.evaluation.splits import PARTS, Fold, read_splits
from h2lo_bids.evaluation.statistics import by_participant, scored_methods
from h2lo_bids.evaluation.table import Block, tabulate
from h2lo_bids.io import parse_json, read_text, table_rows
from h2lo_bids.vocabulary import CONTRASTS, ENHANCE, SYNTHESIZE

_PREFIX = {"evaluate": "evaluation", "enhance": "enhancement"}
_ENHANCER = re.compile(r"pfsr(-.+)?")
_NUMBER = re.compile(r"\d{1,9}")
_FOLD = re.compile(rf"fold-({_NUMBER.pattern})")
_CURVES = ("step", "loss", "l1", "gradient", "psnr", "seconds")


@dataclass(frozen=True)
class Run:
    """One fold of one method, or one model that was evaluated."""

    method: str
    title: str
    fold: int | None
    folder: Path
    record: dict[str, Any] = field(hash=False)
    history: dict[str, npt.NDArray[np.float64]] = field(hash=False)

    @property
    def done(self) -> bool:
        """Whether the fold has ended."""
        return bool(self.record)

    @property
    def pictures(self) -> Path:
        """Slices and histograms of its test subjects."""
        return self.folder / "pictures.npz"

    @property
    def name(self) -> str:
        """For the reader."""
        return self.title if self.fold is None else f"{self.title}, fold {self.fold}"


@dataclass(frozen=True)
class Contrast:
    """Everything of one contrast: its runs by method and fold, and its splits as planned."""

    name: str
    runs: tuple[Run, ...] = ()
    splits: tuple[Fold, ...] = ()
    task: str = SYNTHESIZE

    @cached_property
    def titles(self) -> dict[str, str]:
        """Methods in the order of their folders, and how tables call them."""
        return {
            IDENTITY: IDENTITY_TITLES[self.task],
            **{run.method: run.title for run in self.runs},
        }

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that were planned or begun."""
        begun = {run.fold for run in self.runs if run.fold is not None}
        return tuple(sorted(begun | {fold.index for fold in self.splits}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Folds that were planned and have not ended, in words."""
        lines = []
        for method, title in self.titles.items():
            if method == IDENTITY or not self.folds:
                continue
            done = {run.fold for run in self.runs if run.method == method and run.done}
            if lacking := [str(k) for k in self.folds if k not in done]:
                word = "fold" if len(lacking) == 1 else "folds"
                lines.append(f"{self.name}, {title}: {word} {', '.join(lacking)} not finished")
        if self.folds and not self.runs:
            lines.append(f"{self.name}: no fold of any method has begun")
        return tuple(lines)


def read_contrasts(out_dir: Path, level: str) -> tuple[tuple[Contrast, ...], tuple[str, ...]]:
    """Find the runs and splits of every contrast, and the problems of files, one line each.

    Level ``"evaluate"`` looks into ``evaluation``, any other into ``folds``, of which
    ``"enhance"`` takes the enhancers and any other the rest.
    """
    problems: list[str] = []
    task = ENHANCE if level == "enhance" else SYNTHESIZE
    table = result_files(out_dir, "splits")[0]
    splits = {} if level == "evaluate" else _splits(table, problems)
    root = out_dir / ("evaluation" if level == "evaluate" else "folds")
    names = {contrast for contrast in CONTRASTS if (root / contrast).is_dir()} | set(splits)
    scored = result_pattern(_tables(level), "_scores.tsv")
    names |= {path.name.split("_")[1] for path in out_dir.glob(scored)} & {*CONTRASTS}
    names |= {contrast for contrast in CONTRASTS if find_records(out_dir, contrast)}
    contrasts = []
    for name in sorted(names):
        runs = _runs(root / name, level, problems)
        planned = splits.get(name, ())
        if level == "evaluate":
            stem = result_path(out_dir, _tables(level), contrast=name)
            runs = _scored_together(runs, Path(f"{stem}_scores.tsv"), problems)
        kept = tuple(run for run in runs if _of_these_splits(run, planned))
        problems += [
            f"{name}, {run.name}: fitted on another division of the subjects; skipped"
            for run in runs
            if run not in kept
        ]
        contrasts.append(Contrast(name, kept, planned, task))
    return tuple(contrasts), tuple(problems)


def _tables(level: str) -> str:
    """Name the tables of a level, as io_spec.json does."""
    return f"{_PREFIX.get(level, 'group')}_tables"


def read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    """Read an object; an empty one, and a problem, when there is none."""
    try:
        content = parse_json(read_text(path))
        if isinstance(content, dict):
            return content
        reason = "not an object"
    except OSError as error:
        reason = error.strerror or "unreadable"
    except ValueError:
        reason = "not JSON"
    problems.append(f"{path.name} in {path.parent}: cannot be read ({reason}); skipped")
    return {}


def read_table(path: Path, problems: list[str]) -> list[dict[str, str]]:
    """Read a TSV file; an absent one is empty."""
    try:
        return list(table_rows(read_text(path), quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        problems.append(f"{path.name}: cannot be read ({error}); skipped")
        return []


def _splits(path: Path, problems: list[str]) -> dict[str, tuple[Fold, ...]]:
    try:
        return {name: folds for name, folds in read_splits(path).items() if name in CONTRASTS}
    except H2loError as error:
        problems.append(str(error).replace(str(path), path.name))
        return {}


def _runs(folder: Path, level: str, problems: list[str]) -> list[Run]:
    if level == "evaluate":
        places: list[tuple[int | None, Path]] = [
            (None, path) for path in sorted(folder.glob("[!.]*")) if path.is_dir()
        ]
    else:
        numbered = [(_FOLD.fullmatch(path.name), path) for path in folder.glob("[!.]*/fold-*")]
        places = sorted(
            ((int(match[1]), path) for match, path in numbered if match),
            key=lambda place: (place[1].parent.name, place[0] or 0),
        )
        enhancers = level == "enhance"
        places = [p for p in places if bool(_ENHANCER.fullmatch(p[1].parent.name)) == enhancers]
    return [_run(fold, path, problems) for fold, path in places]


def _run(fold: int | None, folder: Path, problems: list[str]) -> Run:
    method = folder.name if fold is None else folder.parent.name
    path = folder / "record.json"
    record = read_json(path, problems) if path.is_file() else {}
    title = str(record.get("title") or method)
    return Run(method, title, fold, folder, record, _history(folder / "history.csv"))


def _scored_together(runs: list[Run], table: Path, problems: list[str]) -> list[Run]:
    """Keep the models of the last evaluation: an earlier one may have had other pairs."""
    named = {row.get("method") for row in read_table(table, problems)}
    return [run for run in runs if run.method in named or not named]


def _of_these_splits(run: Run, splits: tuple[Fold, ...]) -> bool:
    """Return whether a run is of the present splits, not of those of an earlier run."""
    recorded = run.record.get("fold")
    if not splits or not isinstance(recorded, dict):
        return True
    planned = next((fold for fold in splits if fold.index == run.fold), None)
    if planned is None:
        return False
    named = {part: recorded.get(part) for part in PARTS}
    return all(
        isinstance(names, list) and sorted(map(str, names)) == sorted(getattr(planned, part))
        for part, names in named.items()
    )


def _history(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Read the columns of a log that may still be written to."""
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [
                [number_of(row.get(name)) for name in _CURVES] for row in csv.DictReader(stream)
            ]
    except (OSError, ValueError, csv.Error):
        rows = []
    table = np.array(rows, np.float64).reshape(-1, len(_CURVES))
    table = table[np.isfinite(table[:, 0])]
    return dict(zip(_CURVES, table.T, strict=True))


def number_of(value: Any) -> float:
    """Read a cell; NaN where it holds no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


Participants = dict[str, dict[str, dict[str, float]]]
"""By metric and participant, the mean over folds by method."""


@dataclass(frozen=True)
class Results:
    """Scores of one contrast, in the regions of the paper's Table 1."""

    block: Block
    participants: Participants = field(default_factory=dict, hash=False)
    convention: str = CLIPPED

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that have a value, in the order of the tables."""
        summary = [value for row in self.block.rows for value in row.summary.values()]
        known = {value.metric for value in summary if not math.isnan(value.mean)}
        return tuple(metric for key, metric in CATALOGUE.items() if key in known)


def read_results(contrast: Contrast, out_dir: Path, level: str, problems: list[str]) -> Results:
    """Read the scores of a contrast, and their table if it is saved; else compute it.

    Folds that were scored after the last collection are added to it; `problems` is extended by
    what could not be read.
    """
    stem = result_path(out_dir, _tables(level), contrast=contrast.name)
    empty = Results(Block(contrast.name, ()))
    try:
        scores, convention = _scores(contrast, stem, problems)
        if not scores:
            return empty
        reference = _reference(Path(f"{stem}_comparisons.tsv"), scores, problems)
        block = tabulate(
            scores, contrast.titles, contrast=contrast.name, reference=reference, stem=stem
        )
        return Results(block, _participants(select(scores)), convention)
    except H2loError as error:
        problems.append(f"{contrast.name}: the scores cannot be summarised ({error})")
        return empty


def _scores(contrast: Contrast, stem: Path, problems: list[str]) -> tuple[tuple[Score, ...], str]:
    """Read the scores under the convention of what was collected."""
    scores = _read(Path(f"{stem}_scores.tsv"), problems)
    collected = {(score.method, score.fold) for score in scores}
    for run in contrast.runs:
        later = _read(run.folder / "scores.tsv", problems)
        scores += [score for score in later if (score.method, score.fold) not in collected]
    convention = _convention(stem, problems) if scores else CLIPPED
    return under(scores, convention), convention


def _convention(stem: Path, problems: list[str]) -> str:
    """Find the convention of what was collected."""
    sidecar = Path(f"{stem}_summary.json")
    metric = read_json(sidecar, problems).get("metric") if sidecar.is_file() else None
    name = metric.get("MetricsConvention") if isinstance(metric, dict) else None
    return name if name in CONVENTIONS else CLIPPED


def _reference(path: Path, scores: Sequence[Score], problems: list[str]) -> str | None:
    """Find the method that the collected tests compare with, which the user chose."""
    scored = {score.method for score in scores} - {IDENTITY}
    versus = (row.get("versus", "") for row in read_table(path, problems))
    return next((method for method in versus if method in scored), None)


def _read(path: Path, problems: list[str]) -> list[Score]:
    if not path.is_file():
        return []
    try:
        return list(read_scores(path))
    except H2loError as error:
        problems.append(f"{error}")
        return []


def _participants(scores: tuple[Score, ...]) -> Participants:
    values: Participants = {}
    for metric in CATALOGUE:
        for method in scored_methods(scores):
            mine = [score for score in scores if score.method == method]
            for name, value in by_participant(mine, metric).items():
                values.setdefault(metric, {}).setdefault(name, {})[method] = value
    return values
