"""The figures of one subject under one method, the regions they are counted over, their files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.evaluation import catalogue, metrics
from h2lo_bids.evaluation.catalogue import CLIPPED, RELEASE
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.io import read_text, table_rows
from h2lo_bids.vocabulary import IDENTITY

IDENTITY_TITLE = "HF image"
"""Its row in Table 1."""

IDENTITY_TITLES = {"synthesize": IDENTITY_TITLE, "enhance": "LF image"}
"""Its row by task.

For enhancement it is the only baseline: on the pairs' grid the low-field image is what cubic or
linear interpolation makes of the thick-slice scans, so that the row is that of bicubic
interpolation, too.
"""

REGIONS = ("foreground", "whole")
"""As computed: over the voxels of `metrics.foreground`, or over the whole volume."""

PAPER = "paper"
"""The mix of Table 1: image metrics over the whole volume, the rest over the foreground."""

SCORED = (*METRICS, "nmi")
"""What a `Score` holds, in the order of the tables."""

MARK = "†"
"""Stands behind the name of a method that lacks folds or subjects."""

_WHOLE_IN_PAPER = ("psnr", "ssim", "ncc")


@dataclass(frozen=True)
class Score:
    """The metrics of one subject.

    Parameters
    ----------
    subject
        Its label, or ``label_session`` where a subject has several sessions.
    method
        The method's name; `IDENTITY` is the high-field image itself.
    fold
        Of the cross-validation, or None.
    region
        ``"foreground"`` or ``"whole"``; from `select` also ``"paper"``.
    values
        Keys as in `SCORED`. NaN where a metric is undefined.
    unclipped
        PSNR, SSIM and NCC under the release's convention; empty if they were not computed.
    """

    subject: str
    method: str
    fold: int | None
    region: str
    values: dict[str, float] = field(hash=False)
    unclipped: dict[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Realism:
    """How real one image looks.

    Parameters
    ----------
    kind
        ``"synthesized"``, ``"target"``: the pair's real low-field scan, or ``"reference"``:
        a real scan without partner.
    image
        The method, or the reference's file; empty for a target.
    subject, fold
        As in `Score`; a reference has none.
    values
        Keys as in `h2lo_bids.evaluation.catalogue.REALISM`; what is absent was not measured,
        NaN is undefined.
    """

    kind: str
    image: str
    subject: str
    fold: int | None
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
    """Compute all metrics of one subject in both regions.

    Parameters
    ----------
    predicted
        (X, Y, Z), what a model made; clipped to [0, 1] first, save for `Score.unclipped`.
    target
        (X, Y, Z), the real low-field volume, or for enhancement the high-field one, in [0, 1].
    high_field
        (X, Y, Z), in [0, 1]; decides the foreground.
    subject, method, fold
        As in `Score`.

    Returns
    -------
    tuple of Score
        One per region, in the order of `REGIONS`.

    Raises
    ------
    BadDataError
        If the shapes differ, a predicted voxel is not finite, or there is no
        foreground.
    """
    raw = np.asarray(predicted, np.float64)
    image = np.clip(raw, 0, 1)
    real = np.asarray(target, np.float64)
    where = metrics.foreground(high_field)
    if not image.shape == real.shape == where.shape:
        raise BadDataError(
            f"subject {subject}: the images to compare need one shape, not "
            f"{image.shape}, {real.shape} and {where.shape}"
        )
    if not np.isfinite(image).all():
        raise BadDataError(f"subject {subject}: {method} gave NaN voxels; fit the model again")
    if not where.any():
        raise BadDataError(
            f"subject {subject}: no voxel of the high-field image is above "
            f"{metrics.FOREGROUND}; prepare the pair again"
        )
    similar = metrics.ssim_map(image, real)
    same = np.array_equal(raw, image)
    also = similar if same else metrics.ssim_map(raw, real)
    scores = []
    for region, counted in zip(REGIONS, (where, None), strict=True):
        values = _values(image, real, similar, counted)
        unclipped = values if same else _image_values(raw, real, also, counted)
        unclipped = {name: unclipped[name] for name in _WHOLE_IN_PAPER}
        scores.append(Score(subject, method, fold, region, values, unclipped))
    return tuple(scores)


def under(scores: Sequence[Score], convention: str) -> tuple[Score, ...]:
    """Return scores under a convention, a key of `CONVENTIONS`.

    Raises
    ------
    BadDataError
        If they were written by a version that knew but one.
    """
    if convention == CLIPPED:
        return tuple(scores)
    for s in scores:
        if not s.unclipped:
            raise BadDataError(
                f"subject {s.subject}: {s.method} was scored by an earlier version, without "
                "--metrics-convention release; remove its fold and run again"
            )
    return tuple(replace(s, values={**s.values, **s.unclipped}) for s in scores)


def select(scores: Sequence[Score], region: str = PAPER) -> tuple[Score, ...]:
    """Keep one region's scores, or mix both as Table 1 does.

    Parameters
    ----------
    scores
        Of both regions, in any order.
    region
        ``"foreground"``, ``"whole"`` or ``"paper"``.

    Returns
    -------
    tuple of Score
        One per subject, method and fold, in order of appearance; duplicates, as
        the identity has in every method's folder, are dropped.

    Raises
    ------
    BadDataError
        If a subject lacks one of the regions that the mix needs.
    ValueError
        If there is no such region.
    """
    if region not in (*REGIONS, PAPER):
        raise ValueError(f"region {region!r} is not one of {(*REGIONS, PAPER)}")
    by_key = {(s.method, s.fold, s.subject, s.region): s for s in reversed(scores)}
    keys = list(dict.fromkeys((s.method, s.fold, s.subject) for s in scores))
    if region != PAPER:
        return tuple(by_key[*key, region] for key in keys if (*key, region) in by_key)
    mixed = []
    for key in keys:
        parts = [by_key.get((*key, name)) for name in REGIONS]
        if parts[0] is None or parts[1] is None:
            raise BadDataError(f"subject {key[2]}: the scores of {key[0]} lack a region")
        whole = {name: parts[1].values[name] for name in _WHOLE_IN_PAPER}
        values = {**parts[0].values, **whole}
        mixed.append(replace(parts[0], region=PAPER, values=values, unclipped=parts[1].unclipped))
    return tuple(mixed)


def titles_of(methods: Iterable[str], titles: Mapping[str, str] | None) -> dict[str, str]:
    """Return how tables call methods: by their title, else "HF image" or the method's name."""
    given = {IDENTITY: IDENTITY_TITLE, **(titles or {})}
    return {name: given.get(name, name) for name in methods}


def incomplete(scores: Sequence[Score]) -> tuple[str, ...]:
    """Name the methods that lack a fold or a subject that another one has.

    Their means are over other subjects, and so are not to be compared.
    """
    covered = _covered(scores)
    most = set().union(*covered.values()) if covered else set()
    return tuple(name for name, scored in covered.items() if scored != most)


def coverage_notes(
    scores: Sequence[Score],
    titles: Mapping[str, str],
    folds: Sequence[int] = (),
    wanted: Sequence[str] = (),
) -> tuple[str, ...]:
    """Name the missing folds and subjects, one sentence per method; empty if there are none.

    `folds` are those that were planned; without them, those that any method has. `wanted` are
    methods that were asked for.
    """
    covered = _covered(scores)
    everyone = set().union(*covered.values()) if covered else set()
    planned = sorted({*folds, *(fold for _, fold in everyone if fold is not None)})
    lines = []
    for name in dict.fromkeys([*covered, *wanted]):
        scored = covered.get(name, set())
        title = titles.get(name, name)
        done = {fold for _, fold in scored}
        lacking = [fold for fold in planned if fold not in done]
        if not scored:
            lines.append(f"{title}: no fold is finished; it is not in the table.")
            continue
        if lacking and name != IDENTITY:
            lines.append(
                f"{title} {MARK}: {len(planned) - len(lacking)} of {len(planned)} folds; "
                f"{_folds(lacking)} not finished."
            )
        missed = [(who, fold) for who, fold in everyone - scored if fold in done]
        for who, fold in sorted(missed, key=lambda item: (item[1] or 0, item[0])):
            where = "" if fold is None else f" of fold {fold}"
            lines.append(f"{title} {MARK}: sub-{who}{where} not scored.")
    return tuple(lines)


def _covered(scores: Sequence[Score]) -> dict[str, set[tuple[str, int | None]]]:
    covered: dict[str, set[tuple[str, int | None]]] = {}
    for s in scores:
        covered.setdefault(s.method, set()).add((s.subject, s.fold))
    return covered


def _folds(lacking: Sequence[int]) -> str:
    word = "fold" if len(lacking) == 1 else "folds"
    return f"{word} {', '.join(map(str, lacking))} {'is' if len(lacking) == 1 else 'are'}"


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
    return catalogue.write_table(path, lines, catalogue.of_realism(titles))


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
        text = read_text(path)
    except OSError as error:
        raise MissingInputError(
            f"{path}: cannot read these scores ({error.strerror}); score the subjects again"
        ) from error
    except ValueError as error:
        raise BadDataError(f"{path}: not a table of scores; score the subjects again") from error
    scores: list[Score] = []
    try:
        for row in table_rows(text, quoting=csv.QUOTE_NONE):
            scores.append(_score(row))
    except (KeyError, ValueError) as error:
        raise BadDataError(
            f"{path}: line {len(scores) + 2} is not a subject's scores; score the subjects again"
        ) from error
    return tuple(scores)


def _values(
    image: np.ndarray, target: np.ndarray, similar: np.ndarray, where: np.ndarray | None
) -> dict[str, float]:
    p, q = metrics.histogram(image, where), metrics.histogram(target, where)
    return {
        **_image_values(image, target, similar, where),
        "wass": metrics.wasserstein(p, q),
        "hncc": metrics.histogram_ncc(p, q),
        "bhat": metrics.bhattacharyya(p, q),
        "js": metrics.jensen_shannon(p, q),
        "nmi": metrics.nmi(image, target, where),
    }


def _image_values(
    image: np.ndarray, target: np.ndarray, similar: np.ndarray, where: np.ndarray | None
) -> dict[str, float]:
    return {
        "psnr": metrics.psnr(image, target, where),
        "ssim": metrics.mean_ssim(similar, where),
        "ncc": metrics.ncc(image, target, where),
    }


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
