"""The scores of one contrast, collected or still lying with their folds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.catalogue import CATALOGUE, Metric
from h2lo_bids.evaluation.scores import CLIPPED, CONVENTIONS, IDENTITY, Score, select, under
from h2lo_bids.evaluation.statistics import (
    Comparison,
    Summary,
    by_participant,
    compare,
    methods_of,
    summarise,
)
from h2lo_bids.evaluation.tables import read_scores
from h2lo_bids.reports.group_data import Contrast, read_json, read_table, table_path


@dataclass(frozen=True)
class Results:
    """What was scored of one contrast, in the regions of the paper's Table 1.

    Attributes
    ----------
    summary : dict
        By (method, metric).
    comparisons : tuple of Comparison
        Paired tests between methods.
    participants : dict
        By metric and participant, the mean over folds by method.
    convention : str
        A key of `h2lo_bids.evaluation.scores.CONVENTIONS`: that of the collected tables.
    """

    summary: dict[tuple[str, str], Summary] = field(default_factory=dict, hash=False)
    comparisons: tuple[Comparison, ...] = ()
    participants: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict, hash=False)
    convention: str = CLIPPED

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the summary, the high-field image first."""
        return tuple(dict.fromkeys(method for method, _ in self.summary))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that have a value, in the order of the tables."""
        found = {key for (_, key), value in self.summary.items() if not math.isnan(value.mean)}
        return tuple(metric for key, metric in CATALOGUE.items() if key in found)


def read_results(contrast: Contrast, out_dir: Path, level: str, problems: list[str]) -> Results:
    """Read and summarise the scores of a contrast.

    Folds that were scored after the last collection are added to what was
    collected.

    Parameters
    ----------
    contrast : Contrast
        What was found.
    out_dir : Path
        Root of the derivatives.
    level : str
        As in :func:`h2lo_bids.reports.group.write_group_report`.
    problems : list of str
        Extended by what could not be read.
    """
    scores = _read(table_path(out_dir, level, contrast.name, "scores"), problems)
    collected = {(score.method, score.fold) for score in scores}
    for run in contrast.runs:
        later = _read(run.folder / "scores.tsv", problems)
        scores += [score for score in later if (score.method, score.fold) not in collected]
    if not scores:
        return Results()
    convention = _convention(table_path(out_dir, level, contrast.name, "summary"), problems)
    try:
        scores = list(under(scores, convention))
        chosen = select(scores)
        summary = {(row.method, row.metric): row for row in summarise(scores)}
        tests = table_path(out_dir, level, contrast.name, "comparisons")
        comparisons = compare(scores, reference=_reference(tests, scores, problems))
    except H2loError as error:
        problems.append(f"{contrast.name}: the scores cannot be summarised ({error})")
        return Results()
    return Results(summary, comparisons, _participants(chosen), convention)


def _convention(summary: Path, problems: list[str]) -> str:
    """Find the convention of what was collected."""
    sidecar = summary.with_suffix(".json")
    metric = read_json(sidecar, problems).get("metric") if sidecar.is_file() else None
    told = metric.get("MetricsConvention") if isinstance(metric, dict) else None
    return told if told in CONVENTIONS else CLIPPED


def _reference(path: Path, scores: list[Score], problems: list[str]) -> str | None:
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


def _participants(scores: tuple[Score, ...]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for metric in CATALOGUE:
        for method in methods_of(scores):
            mine = [score for score in scores if score.method == method]
            for name, value in by_participant(mine, metric).items():
                found.setdefault(metric, {}).setdefault(name, {})[method] = value
    return found
