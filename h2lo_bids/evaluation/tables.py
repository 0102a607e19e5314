"""The evaluation's tables: TSV files with JSON sidecars, and Table 1 in Markdown.

A missing, undefined or infinite number is ``n/a``, as BIDS has it. The same
values give the same bytes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.evaluation import columns
from h2lo_bids.evaluation.catalogue import CATALOGUE
from h2lo_bids.evaluation.coverage import MARK, coverage_notes, incomplete
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.places import places
from h2lo_bids.evaluation.scores import (
    CLIPPED,
    CONVENTIONS,
    IDENTITY,
    IDENTITY_TITLE,
    PAPER,
    REGIONS,
    RELEASE,
    SCORED,
    Realism,
    Score,
    under,
)
from h2lo_bids.evaluation.statistics import Comparison, Summary, compare, summarise
from h2lo_bids.io import atomic_write_text, write_json

EMPHASIS = {1: "**{}**", 2: "<u>{}</u>"}
"""How Markdown sets the best and the second of a column."""

_MISSING = "n/a"
_KEYS = ("participant_id", "session_id", "method", "fold", "region")
_SUMMARY = ("method", "metric", "region", "n", "mean", "std", "std_over", "ci_low", "ci_high")
_COMPARISON = (
    "method", "versus", "metric", "region", "n", "difference", "ci_low", "ci_high", "better",
    "statistic", "p", "p_holm",
)  # fmt: skip


def write_scores(
    path: str | Path, scores: Sequence[Score], titles: Mapping[str, str] | None = None
) -> Path:
    """Write one line per subject, method, fold and region, and the sidecar.

    Parameters
    ----------
    path
        The ``.tsv`` file; the sidecar has the same name and ``.json``.
    scores
        In the order of the lines.
    titles
        Of the methods, for the sidecar; see `markdown_table`.

    Returns
    -------
    Path
        The TSV file.
    """
    also = tuple(dict.fromkeys(name for s in scores for name in s.unclipped))
    rows = [
        [
            *_person(s.subject), s.method, s.fold, s.region,
            *(s.values.get(name) for name in SCORED), *(s.unclipped.get(name) for name in also),
        ]
        for s in scores
    ]  # fmt: skip
    titles = _titles((s.method for s in scores), titles)
    header = (*_KEYS, *SCORED, *(f"{name}_{RELEASE}" for name in also))
    return write_table(Path(path), header, rows, columns.of_scores(titles, also))


def write_realism(
    path: str | Path, rows: Sequence[Realism], titles: Mapping[str, str] | None = None
) -> Path:
    """Write one line per image, and the sidecar.

    Parameters
    ----------
    path
        The ``.tsv`` file.
    rows
        In the order of the lines.
    titles
        As in `write_scores`.
    """
    measures = columns.REALISM
    lines = [
        [*_person(r.subject), r.kind, r.image or None, r.fold, *map(r.values.get, measures)]
        for r in rows
    ]
    sidecar = columns.of_realism(
        _titles((r.image for r in rows if r.kind == "synthesized"), titles)
    )
    return write_table(Path(path), tuple(sidecar), lines, sidecar)


def read_scores(path: str | Path) -> tuple[Score, ...]:
    """Read what `write_scores` wrote, digit by digit; ``n/a`` becomes NaN.

    Raises
    ------
    MissingInputError
        If the file cannot be read.
    BadDataError
        If a column is missing or a value makes no sense.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInputError(
            f"{path}: cannot read these scores ({error.strerror}); score the subjects again"
        ) from error
    except UnicodeDecodeError as error:
        raise BadDataError(f"{path}: not a table of scores; score the subjects again") from error
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    scores: list[Score] = []
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return tuple(scores)
            scores.append(_score(row))
        except (csv.Error, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise BadDataError(
                f"{path}: line {rows.line_num} is not a subject's scores; score the subjects again"
            ) from error


def write_summary(
    path: str | Path,
    summary: Sequence[Summary],
    titles: Mapping[str, str] | None = None,
    convention: str = CLIPPED,
) -> Path:
    """Write one line per method and metric, with the fold means, and the sidecar.

    Parameters
    ----------
    path
        The ``.tsv`` file.
    summary
        From `h2lo_bids.evaluation.statistics.summarise`.
    titles
        As in `write_scores`.
    convention
        A key of `h2lo_bids.evaluation.scores.CONVENTIONS`, for the sidecar.
    """
    folds = sorted({fold for row in summary for fold, _ in row.fold_means})
    lines = []
    for row in summary:
        means = dict(row.fold_means)
        values = [row.method, row.metric, row.region, row.n, row.mean, row.std, row.over]
        lines.append([*values, row.low, row.high, *(means.get(fold) for fold in folds)])
    header = (*_SUMMARY, *(f"fold_{fold}" for fold in folds))
    titles = _titles((row.method for row in summary), titles)
    return write_table(Path(path), header, lines, columns.of_summary(titles, folds, convention))


def write_comparisons(
    path: str | Path,
    comparisons: Sequence[Comparison],
    titles: Mapping[str, str] | None = None,
    convention: str = CLIPPED,
) -> Path:
    """Write one line per pair of methods and metric, and the sidecar.

    Parameters
    ----------
    path
        The ``.tsv`` file.
    comparisons
        From `h2lo_bids.evaluation.statistics.compare`.
    titles, convention
        As in `write_summary`.
    """
    lines = [
        [c.method, c.versus, c.metric, c.region, c.n, c.difference, c.low, c.high,
         c.better or None, c.statistic, c.p, c.p_holm]
        for c in comparisons
    ]  # fmt: skip
    titles = _titles((name for c in comparisons for name in (c.method, c.versus)), titles)
    sidecar = columns.of_comparisons(titles, convention)
    return write_table(Path(path), _COMPARISON, lines, sidecar)


def markdown_table(
    summary: Sequence[Summary],
    titles: Mapping[str, str] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    partial: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """Lay out a summary as Table 1 of the paper.

    Parameters
    ----------
    summary
        Of one region.
    titles
        What the rows are called, by method; None or a missing one takes the
        method's name, and "HF image" for the identity.
    metrics
        The columns.
    partial
        Methods that lack folds or subjects of the others: they are marked, and
        take no place.
    notes
        Sentences below the table.

    Returns
    -------
    str
        Markdown: a row per method, mean ± standard deviation, the best mean of
        each column in bold and, among three or more, the second underlined.
    """
    names = list(dict.fromkeys(row.method for row in summary))
    known = {(row.method, row.metric): row for row in summary}
    called = _titles(names, titles)
    lines = [
        "| Method | " + " | ".join(CATALOGUE[m].heading for m in metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    ranked = [name for name in names if name not in partial]
    marks = {metric: _marks(ranked, known, metric) for metric in metrics}
    for name in sorted(names, key=lambda name: name != IDENTITY):
        cells = [
            marks[metric].get(name, "{}").format(_cell(known.get((name, metric)), metric))
            for metric in metrics
        ]
        head = called[name].replace("|", "&#124;") + (f" {MARK}" if name in partial else "")
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def write_tables(
    stem: str | Path,
    scores: Sequence[Score],
    titles: Mapping[str, str] | None = None,
    *,
    region: str = PAPER,
    reference: str | None = None,
    seed: int = 0,
    folds: Sequence[int] = (),
    wanted: Sequence[str] = (),
    convention: str = CLIPPED,
) -> tuple[Summary, ...]:
    """Write everything that follows from the scores of one contrast.

    Parameters
    ----------
    stem
        What the files' names begin with, for example ``out/group_T1w``: they go on
        ``_scores.tsv``, ``_summary.tsv``, ``_comparisons.tsv``, each with a ``.json``,
        and ``_table.md``.
    scores
        Of all methods, subjects, folds and regions.
    titles
        As in `markdown_table`.
    region, reference, seed
        As in `summarise` and `compare`.
    folds, wanted
        What was planned; what lacks is told below the table, as in `coverage_notes`.
    convention
        A key of `h2lo_bids.evaluation.scores.CONVENTIONS`: of all but the scores, which hold
        both.

    Returns
    -------
    tuple of Summary
        What was written to the summary.
    """
    write_scores(f"{stem}_scores.tsv", scores, titles)
    scores = under(scores, convention)
    summary = summarise(scores, region, seed=seed)
    write_summary(f"{stem}_summary.tsv", summary, titles, convention)
    compared = compare(scores, region, reference=reference, seed=seed)
    write_comparisons(f"{stem}_comparisons.tsv", compared, titles, convention)
    notes = coverage_notes(scores, _titles((s.method for s in scores), titles), folds, wanted)
    notes = (*notes, CONVENTIONS[convention])
    table = markdown_table(summary, titles, partial=incomplete(scores), notes=notes)
    atomic_write_text(f"{stem}_table.md", table)
    return summary


def write_table(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], sidecar: Mapping[str, Any]
) -> Path:
    """Write rows as TSV, with what the columns mean beside it in JSON."""
    lines = ["\t".join(header), *("\t".join(_text(value) for value in row) for row in rows)]
    atomic_write_text(path, "\n".join(lines) + "\n")
    write_json(path.with_suffix(".json"), sidecar)
    return path


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return _MISSING
    # The shortest text that reads back as the same number.
    return repr(float(value)) if isinstance(value, float) else " ".join(str(value).split())


def _person(subject: str) -> tuple[str | None, str | None]:
    """Return participant and session of a subject's name."""
    label, _, session = subject.partition("_")
    return f"sub-{label}" if label else None, f"ses-{session}" if session else None


def _score(row: Mapping[str, str]) -> Score:
    subject = row["participant_id"].removeprefix("sub-")
    if row["session_id"] != _MISSING:
        subject += "_" + row["session_id"].removeprefix("ses-")
    fold = None if row["fold"] == _MISSING else int(row["fold"])
    if not subject or row["region"] not in REGIONS:
        raise ValueError(row["region"])
    values = {name: math.nan if row[name] == _MISSING else float(row[name]) for name in SCORED}
    unclipped = {
        name: math.nan if row[key] == _MISSING else float(row[key])
        for name in SCORED
        if (key := f"{name}_{RELEASE}") in row
    }
    return Score(subject, row["method"], fold, row["region"], values, unclipped)


def _titles(methods: Iterable[str], titles: Mapping[str, str] | None) -> dict[str, str]:
    given = {IDENTITY: IDENTITY_TITLE, **(titles or {})}
    return {name: given.get(name, name) for name in methods}


def _marks(
    names: Sequence[str], known: Mapping[tuple[str, str], Summary], metric: str
) -> dict[str, str]:
    """Say how the cells of the best and of the second method are set."""
    means = {name: known[name, metric].mean for name in names if (name, metric) in known}
    ranked = places(means, higher=CATALOGUE[metric].higher)
    return {name: EMPHASIS[place] for name, place in ranked.items()}


def _cell(row: Summary | None, metric: str) -> str:
    if row is None or not math.isfinite(row.mean):
        return _MISSING
    digits = CATALOGUE[metric].digits
    spread = f" ± {row.std:.{digits}f}" if math.isfinite(row.std) else ""
    return f"{row.mean:.{digits}f}{spread}"
