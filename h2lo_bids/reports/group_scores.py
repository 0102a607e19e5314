"""The scores of one contrast, collected or still lying with their folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from h2lo_bids.bids.results import result_path
from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.catalogue import CATALOGUE, CLIPPED, CONVENTIONS, Metric
from h2lo_bids.evaluation.scores import IDENTITY, Score, read_scores, select, under
from h2lo_bids.evaluation.statistics import by_participant, methods_of
from h2lo_bids.evaluation.table import Block, tabulate
from h2lo_bids.reports.group_data import Contrast, prefix, read_json, read_table

Participants = dict[str, dict[str, dict[str, float]]]
"""By metric and participant, the mean over folds by method."""


@dataclass(frozen=True)
class Results:
    """What was scored of one contrast, in the regions of the paper's Table 1.

    Attributes
    ----------
    block : Block
        Rows of the table, and paired tests between methods.
    participants : dict
        See `Participants`.
    convention : str
        A key of `h2lo_bids.evaluation.catalogue.CONVENTIONS`: that of the collected tables.
    """

    block: Block
    participants: Participants = field(default_factory=dict, hash=False)
    convention: str = CLIPPED

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that have a value, in the order of the tables."""
        summary = [value for row in self.block.rows for value in row.summary.values()]
        found = {value.metric for value in summary if not math.isnan(value.mean)}
        return tuple(metric for key, metric in CATALOGUE.items() if key in found)


def read_results(contrast: Contrast, out_dir: Path, level: str, problems: list[str]) -> Results:
    """Read the scores of a contrast, and their table if it is saved; else compute it.

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
    stem = _stem(contrast, out_dir, level)
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


def read_participants(
    contrast: Contrast, out_dir: Path, level: str, problems: list[str]
) -> Participants:
    """Read the scores of a contrast by participant; parameters as for `read_results`."""
    try:
        scores, _ = _scores(contrast, _stem(contrast, out_dir, level), problems)
        return _participants(select(scores))
    except H2loError as error:
        problems.append(f"{contrast.name}: the scores cannot be summarised ({error})")
        return {}


def _stem(contrast: Contrast, out_dir: Path, level: str) -> Path:
    return result_path(out_dir, f"{prefix(level)}_tables", contrast=contrast.name)


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
    told = metric.get("MetricsConvention") if isinstance(metric, dict) else None
    return told if told in CONVENTIONS else CLIPPED


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
    found: Participants = {}
    for metric in CATALOGUE:
        for method in methods_of(scores):
            mine = [score for score in scores if score.method == method]
            for name, value in by_participant(mine, metric).items():
                found.setdefault(metric, {}).setdefault(name, {})[method] = value
    return found
