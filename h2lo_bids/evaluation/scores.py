"""The figures of one subject under one method, the regions they are counted over, their files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.evaluation import catalogue, metrics
from h2lo_bids.evaluation.catalogue import CLIPPED, RELEASE
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.io import read_text, table_rows
from h2lo_bids.vocabulary import ENHANCE, IDENTITY, SYNTHESIZE
from h2lo_bids.wording import listed

IDENTITY_TITLES = {SYNTHESIZE: "HF image", ENHANCE: "LF image"}
"""The identity's row by task; for enhancement it is that of bicubic interpolation, too."""

REGIONS = ("foreground", "whole")
"""As computed: over the voxels of `metrics.foreground`, or over the whole volume."""

PAPER = "paper"
"""The mix of Table 1: image metrics over the whole volume, the rest over the foreground."""

SCORED = (*METRICS, "nmi")
"""What a `Score` holds, in the order of the tables."""

MARK = "†"
"""Stands behind the name of a method that lacks folds, subjects or figures."""

_WHOLE_IN_PAPER = ("psnr", "ssim", "ncc")


@dataclass(frozen=True)
class Score:
    """The metrics of one subject."""

    subject: str  # its label, or label_session where a subject has several sessions
    method: str  # IDENTITY is the high-field image itself
    fold: int | None  # of the cross-validation
    region: str  # "foreground" or "whole"; from `select` "paper"
    values: dict[str, float] = field(hash=False)  # keys as in SCORED; NaN where undefined
    # PSNR, SSIM and NCC under the release's convention; empty if they were not computed.
    unclipped: dict[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Realism:
    """How real one image looks."""

    kind: str  # "synthesized", "target" of the pair, or "reference": a scan without partner
    image: str  # the method, or the reference's file; empty for a target
    subject: str  # as in Score; a reference has none
    fold: int | None
    # Keys as in catalogue.REALISM; what is absent was not measured, NaN is undefined.
    values: Mapping[str, float] = field(hash=False)


def score(
    predicted: np.ndarray,
    target: np.ndarray,
    high_field: np.ndarray,
    *,
    subject: str,
    method: str,
    fold: int | None = None,
) -> tuple[Score, ...]:
    """Compute all metrics of one subject, one `Score` per region of `REGIONS`.

    Images are (X, Y, Z), in [0, 1]: what a model made, which is clipped first, save for
    `Score.unclipped`; the real one; and the high-field one, which decides the foreground.
    """
    raw = np.asarray(predicted, np.float64)
    image = np.clip(raw, 0, 1)
    real = np.asarray(target, np.float64)
    where = metrics.foreground(high_field)
    if not np.isfinite(image).all():
        raise BadDataError(f"subject {subject}: {method} gave NaN voxels; fit the model again")
    if not where.any():
        raise BadDataError(
            f"subject {subject}: no voxel of the high-field image is above "
            f"{metrics.FOREGROUND}; prepare the pair again"
        )
    similar, inside = metrics.ssim_map(image, real), np.array_equal(raw, image)
    also = similar if inside else metrics.ssim_map(raw, real)
    scores = []
    for region, counted in zip(REGIONS, (where, None), strict=True):
        values = metrics.image_metrics(image, real, counted, similar)
        unclipped = values if inside else metrics.image_metrics(raw, real, counted, also)
        values = values | metrics.histogram_metrics(image, real, counted)
        values["nmi"] = metrics.nmi(image, real, counted)
        scores.append(Score(subject, method, fold, region, values, unclipped))
    return tuple(scores)


def under(scores: Sequence[Score], convention: str) -> tuple[Score, ...]:
    """Return scores under a convention, a key of `CONVENTIONS`."""
    if convention == CLIPPED:
        return tuple(scores)
    for s in scores:
        if not s.unclipped:
            raise BadDataError(
                f"subject {s.subject}: {s.method} was scored by an earlier version, without "
                "--metrics-convention release; remove its fold and run again"
            )
    return tuple(replace(s, values={**s.values, **s.unclipped}) for s in scores)


def select(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Mix both regions as Table 1 does: one score per subject, method and fold; drop duplicates."""
    by_key: dict[tuple[str, int | None, str], dict[str, Score]] = {}
    for s in scores:
        by_key.setdefault((s.method, s.fold, s.subject), {}).setdefault(s.region, s)
    mixed = []
    for (method, _, subject), parts in by_key.items():
        if len(parts) < len(REGIONS):
            raise BadDataError(f"subject {subject}: the scores of {method} lack a region")
        inside, whole = (parts[region] for region in REGIONS)
        values = {**inside.values, **{name: whole.values[name] for name in _WHOLE_IN_PAPER}}
        mixed.append(replace(inside, region=PAPER, values=values, unclipped=whole.unclipped))
    return tuple(mixed)


def titles_of(methods: Iterable[str], titles: Mapping[str, str] | None) -> dict[str, str]:
    """Return how tables call methods: by their title, else "HF image" or the method's name."""
    given = {IDENTITY: IDENTITY_TITLES[SYNTHESIZE], **(titles or {})}
    return {name: given.get(name, name) for name in methods}


def coverage(
    scores: Sequence[Score],
    titles: Mapping[str, str],
    folds: Sequence[int] = (),
    wanted: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the methods that lack a fold, subject or finite figure, and a sentence for each."""
    # Their means are over other subjects, and so are not to be compared.
    covered: dict[str, set[tuple[str, int | None]]] = {}
    undefined: dict[str, dict[str, list[str]]] = {}
    for s in select(scores):
        covered.setdefault(s.method, set()).add((s.subject, s.fold))
        if names := [n for n in SCORED if not math.isfinite(s.values.get(n, math.nan))]:
            what = ", ".join(catalogue.CATALOGUE[n].title for n in names)
            whose = undefined.setdefault(s.method, {}).setdefault(what, [])
            whose.append(f"sub-{s.subject}{_of_fold(s.fold)}")
    everyone = set().union(*covered.values())
    planned = sorted({*folds, *(fold for _, fold in everyone if fold is not None)})
    lines = []
    for name, scored in covered.items():
        title, done = f"{titles.get(name, name)} {MARK}", {fold for _, fold in scored}
        lacking = [str(fold) for fold in planned if fold not in done]
        if lacking and name != IDENTITY:
            word = "fold {} is" if len(lacking) == 1 else "folds {} are"
            lines.append(
                f"{title}: {len(planned) - len(lacking)} of {len(planned)} folds; "
                f"{word.format(', '.join(lacking))} not finished."
            )
        missed = [(who, fold) for who, fold in everyone - scored if fold in done]
        for who, fold in sorted(missed, key=lambda item: (item[1] or 0, item[0])):
            lines.append(f"{title}: sub-{who}{_of_fold(fold)} was not scored.")
        for what, whose in undefined.get(name, {}).items():
            lines.append(f"{title}: no finite {what} for {listed(whose)}.")
    never = "not in the table, as no fold with these pairs and options is finished."
    lines += [f"{titles.get(name, name)}: {never}" for name in wanted if name not in covered]
    partial = (name for name in covered if name in undefined or covered[name] != everyone)
    return tuple(partial), tuple(lines)


def _of_fold(fold: int | None) -> str:
    return "" if fold is None else f" of fold {fold}"


def write_scores(
    path: str | Path, scores: Sequence[Score], titles: Mapping[str, str] | None = None
) -> Path:
    """Write one line per subject, method, fold and region as TSV, and the sidecar."""
    also = tuple(dict.fromkeys(name for s in scores for name in s.unclipped))
    rows = [
        [*_person(s.subject), s.method, s.fold, s.region,
         *map(s.values.get, SCORED), *map(s.unclipped.get, also)]
        for s in scores
    ]  # fmt: skip
    titles = titles_of((s.method for s in scores), titles)
    return catalogue.write_table(path, rows, catalogue.of_scores(titles, also))


def write_realism(
    path: str | Path, rows: Sequence[Realism], titles: Mapping[str, str] | None = None
) -> Path:
    """Write one line per image as TSV, and the sidecar."""
    measures = catalogue.REALISM
    lines = [
        [*_person(r.subject), r.kind, r.image or None, r.fold, *map(r.values.get, measures)]
        for r in rows
    ]
    titles = titles_of((r.image for r in rows if r.kind == "synthesized"), titles)
    return catalogue.write_table(
        path, lines, catalogue.of_methods("realism", titles, "", **measures)
    )


def read_scores(path: str | Path) -> tuple[Score, ...]:
    """Read what `write_scores` wrote, digit by digit; ``n/a`` becomes NaN."""
    scores: list[Score] = []
    remedy = "score the subjects again"
    try:
        for row in table_rows(read_text(Path(path)), quoting=csv.QUOTE_NONE):
            scores.append(_score(row))
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (KeyError, ValueError) as error:
        line = len(scores) + 2
        raise BadDataError(f"{path}: line {line} is not a subject's scores; {remedy}") from error
    return tuple(scores)


def _person(subject: str) -> tuple[str | None, str | None]:
    """Return participant and session of a subject's name."""
    label, _, session = subject.partition("_")
    return f"sub-{label}" if label else None, f"ses-{session}" if session else None


def _score(row: Mapping[str, str]) -> Score:
    subject = row["participant_id"].removeprefix("sub-")
    if row["session_id"] != catalogue.MISSING:
        subject += "_" + row["session_id"].removeprefix("ses-")
    fold = None if row["fold"] == catalogue.MISSING else int(row["fold"])
    if not subject or row["region"] not in REGIONS:
        raise ValueError(row["region"])
    values = {name: catalogue.number(row[name]) for name in SCORED}
    unclipped = {
        name: catalogue.number(row[key]) for name in SCORED if (key := f"{name}_{RELEASE}") in row
    }
    return Score(subject, row["method"], fold, row["region"], values, unclipped)
