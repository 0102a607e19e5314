"""Collecting a trial: from the ratings of every scan to the tables of the study."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import NoMatchError
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.io import read_json
from h2lo_bids.trial import columns
from h2lo_bids.trial import statistics as st
from h2lo_bids.trial.condition import HIGH
from h2lo_bids.trial.lesions import LESION
from h2lo_bids.trial.observer import CHANNELS

OBSERVERS = ("hotelling", "cnr")
DIAMETERS = (0, 3, 5, 7, 10, 15, math.inf)
CONTRASTS = (0, 0.1, 0.2, 0.35, 0.6, math.inf)
_DOSES = ("noise_scale", "slice_thickness", "voxel_volume")
_CHANNELS = [f"channel{n}" for n in range(1, CHANNELS + 1)]


@dataclass
class Study:
    """The tables of a study, as rows below the columns of `h2lo_bids.trial.columns`.

    Parameters
    ----------
    conditions
        Name and text of each, the high-field image first.
    training
        Kinds of data that the models were trained on.
    lesions
        By (contrast, label): one row per condition, observer, participant and lesion.
    notes
        One line each.
    """

    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: tuple[str, ...] = ()
    detectability: list[list[Any]] = field(default_factory=list)
    sensitivity: list[list[Any]] = field(default_factory=list)
    volumes: list[list[Any]] = field(default_factory=list)
    comparisons: list[list[Any]] = field(default_factory=list)
    dose: list[list[Any]] = field(default_factory=list)
    lesions: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def tables(self) -> dict[str, tuple[list[list[Any]], columns.Columns]]:
        """Return rows and columns by the name of the file."""
        names = ("detectability", "sensitivity", "volumes", "comparisons", "dose")
        return {name: (getattr(self, name), getattr(columns, name.upper())) for name in names}


def read_ratings(out_dir: Path) -> tuple[pd.DataFrame, Study]:
    """Read the ratings of all scans, and what they say of the conditions.

    Raises
    ------
    NoMatchError
        If there are none.
    """
    parts, study, kinds = [], Study(conditions={HIGH: {"text": "the high-field image"}}), set()
    for path in sorted((out_dir / "trial" / "ratings").glob("*.tsv")):
        try:
            told = read_json(path.with_suffix(".json"))
            table = pd.read_csv(path, sep="\t", na_values="n/a")
            name = parse_name(Path(told["Scan"]).name)
            assert name is not None
            entities = dict(name.entities)
            table["subject"], table["contrast"] = entities["sub"], name.suffix
            table["scan"], table["label"] = told["Scan"], told["Label"]
            same = study.conditions | told["Conditions"] == told["Conditions"] | study.conditions
        except (OSError, ValueError, KeyError, AssertionError, TypeError) as err:
            study.notes.append(f"{path}: cannot be read ({err}); run its participant again")
            continue
        if not same:
            study.notes.append(
                f"{path}: has a condition of the same name and other options; run all participants "
                "with the same --condition"
            )
            continue
        study.conditions |= told["Conditions"]
        kinds |= set(told["Training"])
        parts.append(table)
    if not parts:
        raise NoMatchError(
            f"{out_dir / 'trial' / 'ratings'}: holds no ratings; run `h2lo bids_dir out_dir trial "
            "--labels NAME=PATH` first"
        )
    study.training = tuple(sorted(kinds))
    return pd.concat(parts, ignore_index=True), study


def collect(out_dir: Path, *, seed: int = 0) -> Study:
    """Compute every table of a study, and write them to ``out_dir/trial``.

    Parameters
    ----------
    out_dir
        Root of the derivative dataset, with ``trial/ratings``.
    seed
        Of the bootstrap.
    """
    ratings, study = read_ratings(out_dir)
    for key, table in ratings.groupby(["contrast", "label"], sort=True):
        _contrast((str(key[0]), str(key[1])), table, study, seed)
    for name, (rows, described) in study.tables().items():
        write_table(out_dir / "trial" / f"{name}.tsv", rows, described)
    return study


def _contrast(key: tuple[str, str], table: pd.DataFrame, study: Study, seed: int) -> None:
    subjects = table["subject"].nunique()
    if subjects < 2:
        study.notes.append(
            f"{key[0]}: one participant only: the Hotelling observer is trained on its other "
            "lesions, and nothing bounds what another person would show"
        )
    seen = []
    for condition in study.conditions:
        part = table[table["condition"] == condition]
        if len(part):
            seen += [_observe(key, part, condition, o, study, seed) for o in OBSERVERS]
            _volumes(key, part, condition, study)
    if not seen:
        return
    lesions = pd.concat(seen, ignore_index=True)
    study.lesions[key] = lesions
    for observer in OBSERVERS:
        own = lesions[lesions["observer"] == observer]
        _compare(key, own, observer, study)
        _dose(key, own, observer, study)


def _cases(part: pd.DataFrame, rating: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Return one row per lesion or place, and its ratings (cases, realisations)."""
    keys = ["subject", "scan", "lesion", "kind", "diameter", "hf_contrast"]
    cases = part.groupby(keys, sort=True, dropna=False, observed=True)
    number = cases.ngroup().to_numpy()
    draws, draw = np.unique(part["realisation"], return_inverse=True)
    wide = np.full((cases.ngroups, len(draws)), np.nan)
    wide[number, draw] = rating
    _, first = np.unique(number, return_index=True)
    whole = ~np.isnan(wide).any(axis=1)
    return part[keys].iloc[first[whole]].reset_index(drop=True), wide[whole]


def _observe(
    key: tuple[str, str],
    part: pd.DataFrame,
    condition: str,
    observer: str,
    study: Study,
    seed: int,
) -> pd.DataFrame:
    """Add the rows of one condition and observer; return what it sees of each lesion."""
    is_lesion = (part["kind"] == LESION).to_numpy()
    if observer == "cnr":
        rating = part["cnr"].to_numpy()
    else:
        single = part["subject"].nunique() < 2
        groups = part["lesion" if single else "subject"].to_numpy()
        rating = st.hotelling_ratings(part[_CHANNELS].to_numpy(), is_lesion, groups)
    cases, values = _cases(part, rating)
    lesion = (cases["kind"] == LESION).to_numpy(dtype=bool)
    row: list[Any] = [*key, condition, observer, cases["subject"].nunique(), int(lesion.sum()),
                      int((~lesion).sum())]  # fmt: skip
    nothing = cases[lesion].assign(condition=condition, observer=observer, seen=np.nan)
    if not lesion.any() or lesion.all():
        study.detectability.append([*row, *[None] * 14])
        study.notes.append(
            f"{key[0]} {condition}: the {observer} observer has no "
            f"{'healthy place' if lesion.all() else 'lesion'} to compare"
        )
        return nothing
    found = st.area(
        values[lesion].T, values[~lesion].T, cases["subject"][lesion].to_numpy(),
        cases["subject"][~lesion].to_numpy(), seed=seed,
    )  # fmt: skip
    share = (values[lesion] > st.threshold(values[~lesion].ravel())).mean(axis=1)
    seen = nothing.assign(seen=share)
    fit = st.diameter_seen(seen["diameter"].to_numpy(), share, seen["subject"].to_numpy(dtype=str))
    study.detectability.append(
        [*row, found.auc, found.low, found.high, found.boot_low, found.boot_high,
         st.detectability(found.auc), *st.sensitivity(share), fit.diameter, fit.low, fit.high,
         fit.intercept, fit.slope]
    )  # fmt: skip
    for by, edges, of in (
        ("diameter", DIAMETERS, seen["diameter"]),
        ("contrast", CONTRASTS, seen["hf_contrast"].abs()),
    ):
        for low, high in itertools.pairwise(edges):
            inside = ((of >= low) & (of < high)).to_numpy()
            if inside.any():
                study.sensitivity.append(
                    [*row[:4], by, float(low), float(high), int(inside.sum()),
                     *st.sensitivity(share[inside])]
                )  # fmt: skip
    return seen


def _volumes(key: tuple[str, str], part: pd.DataFrame, condition: str, study: Study) -> None:
    """Compare each participant's segmented with the true volume, mean over realisations."""
    own = part[part["kind"] == LESION]
    by_lesion = own.groupby(["subject", "scan", "lesion"])[["volume", "segmented"]].mean()
    totals = by_lesion.groupby("subject").sum() / 1000
    found = st.agreement(totals["volume"].to_numpy(), totals["segmented"].to_numpy())
    study.volumes.append([*key, condition, found.n, found.bias, found.low, found.high, found.icc])


def _compare(key: tuple[str, str], lesions: pd.DataFrame, observer: str, study: Study) -> None:
    """Compare conditions pairwise by each participant's sensitivity."""
    table = lesions.pivot_table(index="subject", columns="condition", values="seen")
    names = [name for name in study.conditions if name in table.columns]
    for one, other in itertools.combinations(names, 2):
        gap = (table[other] - table[one]).dropna().to_numpy()
        spread = float(gap.std(ddof=1)) if len(gap) > 1 else math.nan
        mean = float(gap.mean()) if len(gap) else math.nan
        study.comparisons.append(
            [*key, other, observer, one, len(gap), mean, spread,
             st.subjects_needed(gap, 0.8), st.subjects_needed(gap, 0.9)]
        )  # fmt: skip


def _dose(key: tuple[str, str], lesions: pd.DataFrame, observer: str, study: Study) -> None:
    """Fit what each quantity that differs between conditions does to seeing lesions."""
    own = lesions[(lesions["condition"] != HIGH) & lesions["seen"].notna()]
    for quantity in _DOSES:
        dose = own["condition"].map(
            {name: told.get(quantity) for name, told in study.conditions.items()}
        )
        if dose.isna().any() or dose.nunique() < 2:
            continue
        found = st.dose_response(
            own["seen"].to_numpy(), dose.to_numpy(dtype=float), own["diameter"].to_numpy(),
            own["subject"].to_numpy(dtype=str),
        )  # fmt: skip
        if found is not None:
            study.dose.append(
                [*key, observer, quantity, found.odds, found.low, found.high, found.p]
            )


def rows_of(study: Study, table: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table by their columns' names."""
    rows, described = study.tables()[table]
    for row in rows:
        yield dict(zip(described, row, strict=True))
