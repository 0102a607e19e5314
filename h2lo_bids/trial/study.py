"""Tables of a trial, and how those of the study come from the ratings of every scan."""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import H2loError, NoMatchError
from h2lo_bids.evaluation.catalogue import columns, columns_of, write_table
from h2lo_bids.io import read_json
from h2lo_bids.reports.records import scan_failed
from h2lo_bids.settings import Settings
from h2lo_bids.trial import statistics as st
from h2lo_bids.trial.condition import HIGH, conditions_of
from h2lo_bids.trial.lesions import LESION
from h2lo_bids.trial.observer import CHANNELS
from h2lo_bids.wording import summarise

OBSERVERS = ("hotelling", "cnr")
DIAMETERS = (0, 3, 5, 7, 10, 15, math.inf)
CONTRASTS = (0, 0.1, 0.2, 0.35, 0.6, math.inf)
SPECIFICITY = 0.9
"""Share of the healthy places that a lesion which counts as seen is rated above."""
_DOSES = {
    "noise_scale": ("slice_thickness", "voxel_volume"),
    "slice_thickness": ("noise_scale",),
    "voxel_volume": ("noise_scale",),
}
"""What may differ between conditions, and, beside the model, must not when its effect is fitted."""
_UNRATED = {
    "hotelling": "which has too few others to be trained on",
    "cnr": "as their image shows no noise",
}
_CHANNELS = [f"channel{n}" for n in range(1, CHANNELS + 1)]
REGIONS = columns_of("trial_regions")
RATINGS = columns(
    condition="Condition of the trial; highfield is the high-field image",
    lesion="Number of the lesion, the largest first",
    place="0 for the lesion, 1 and above for its healthy places",
    kind="lesion, mirror (in the other hemisphere) or matched (similar tissue and depth)",
    realisation="Number of the noisy image",
    volume=("Volume of the part in the brain", "mm^3"),
    diameter=("Diameter of a ball of this volume", "mm"),
    length=("Longest extent of the lesion in any direction", "mm"),
    hf_contrast="Contrast of the lesion in the high-field image",
    cnr="Rating of the CNR observer",
    **dict.fromkeys(_CHANNELS, "Output of a Laguerre-Gauss channel"),
    segmented=("Volume found by the midpoint segmenter in the place and its ring", "mm^3"),
)
"""Columns of the tables of a scan's regions and lesions, and of the observers' ratings."""
TABLES = {
    name: columns_of(f"trial_{name}")
    for name in ("detectability", "sensitivity", "volumes", "comparisons", "dose")
}
"""Tables of a study, with their columns."""


@dataclass
class Study:
    """The figures of a study."""

    # Name and description of each, the high-field image first.
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Digest of the model by contrast and condition.
    models: dict[tuple[str, str], str] = field(default_factory=dict)
    training: set[str] = field(default_factory=set)  # kinds of data that models were trained on
    # Of each of `TABLES`, by the names of its columns.
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    # By (contrast, label): one row per condition, observer, participant and lesion.
    lesions: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_ratings(settings: Settings) -> tuple[pd.DataFrame, Study]:
    """Read the ratings of all scans, those of the run's labels first, and their conditions."""
    parts, study, unfit = [], Study({HIGH: {"text": "the high-field image"}}), []
    models, folder = study.models, settings.out_dir / "trial" / "ratings"
    asked = {c.name: c.described for c in conditions_of(settings)}
    labels = {name for name, _ in settings.labels}
    paths = sorted(folder.glob("*.tsv"))
    for path in sorted(paths, key=lambda path: path.stem.rpartition("_")[2] not in labels):
        try:
            content, table, fitted = _ratings_of(path, settings)
        except (H2loError, OSError, ValueError, KeyError, AssertionError, TypeError) as err:
            text = f"{path}: not used ({err}); run its participant again, or delete it"
            unfit.append((path, text))
            continue
        same = all(
            study.conditions.get(key, asked.get(key, value)) == value
            for key, value in content["Conditions"].items()
        )
        if not same or any(models.get(key, value) != value for key, value in fitted.items()):
            text = (
                f"{path}: has a condition of the same name and other options or another model; run "
                "all participants, and --collect, with the same --condition, --lf-grid and --model"
            )
            unfit.append((path, text))
            continue
        study.conditions |= content["Conditions"]
        models |= fitted
        study.training |= content["Training"]
        parts.append(table)
    study.notes += summarise(unfit)
    if not parts:
        raise NoMatchError(
            f"{folder}: holds no ratings that can be used"
            f"{' (' + study.notes[0] + ')' if unfit else ''}; run `h2lo bids_dir out_dir trial "
            "--labels NAME=PATH` first, with masks or probsegs of lesions"
        )
    return pd.concat(parts, ignore_index=True), study


def _ratings_of(
    path: Path, settings: Settings
) -> tuple[dict[str, Any], pd.DataFrame, dict[tuple[str, str], Any]]:
    """Read the ratings of one scan and label, and the model of each contrast and condition."""
    content = read_json(path.with_suffix(".json"))
    # A condition may be called "null".
    table = pd.read_csv(
        path, sep="\t", dtype={"condition": str}, keep_default_na=False, na_values="n/a"
    )
    name = parse_name(Path(content["Scan"]).name)
    assert name is not None
    table = table.assign(
        subject=name.get("sub"), contrast=name.suffix, scan=content["Scan"],
        label=content["Label"],
    )  # fmt: skip
    missing = set(RATINGS) - set(table)
    assert not missing, f"no column {', '.join(sorted(missing))}"
    assert len(table), "no image shows any of its lesions"
    fitted = {(name.suffix, key): content["Models"][key] for key in content["Conditions"]}
    if scan_failed(settings.out_dir, Path(content["Scan"]).name.partition(".")[0]):
        raise ValueError("its scan failed since then")
    if not os.path.lexists(settings.bids_dir / content["Scan"]):
        raise ValueError(f"{settings.bids_dir} no longer has its scan")
    return content | {"Training": set(content["Training"])}, table, fitted


def collect(settings: Settings) -> Study:
    """Compute every table of a study from ``out_dir/trial/ratings``, and write them there."""
    ratings, study = read_ratings(settings)
    for (contrast, label), table in ratings.groupby(["contrast", "label"], sort=True):
        key = {"contrast": str(contrast), "label": str(label)}
        if (count := table["subject"].nunique()) < st.SEVERAL:
            study.notes.append(
                f"{contrast}: {count} participant{'s' * (count > 1)} only: the Hotelling observer "
                "is trained on their other lesions, and areas have no interval by the bootstrap"
            )
        seen = []
        for condition in study.conditions:
            part = table[table["condition"] == condition]
            if len(part):
                keys = key | {"condition": condition}
                seen += [
                    _observe(keys | {"observer": o}, part, study, settings.random_seed)
                    for o in OBSERVERS
                ]
                _volumes(keys, part, study)
        lesions = study.lesions[key["contrast"], key["label"]] = pd.concat(seen, ignore_index=True)
        for observer in OBSERVERS:
            part = lesions[lesions["observer"] == observer]
            _compare(key | {"observer": observer}, part, study)
            _dose(key | {"observer": observer}, part, study)
    for name, described in TABLES.items():
        rows = [[row.get(column) for column in described] for row in study.rows[name]]
        write_table(settings.out_dir / "trial" / f"{name}.tsv", rows, described)
    return study


def _observe(key: dict[str, Any], part: pd.DataFrame, study: Study, seed: int) -> pd.DataFrame:
    """Add the rows of one condition and observer; return what it sees of each lesion."""
    if key["observer"] == "cnr":
        rating = part["cnr"].to_numpy()
    else:
        few = part["subject"].nunique() < st.SEVERAL
        groups = part["subject"] + (" " + part["lesion"].astype(str) if few else "")
        lesion, sizes = (part["kind"] == LESION).to_numpy(), part["diameter"].to_numpy()
        channels = part[_CHANNELS].to_numpy()
        rating = st.hotelling_ratings(channels, lesion, groups.to_numpy(str), sizes)
    case = ["scan", "lesion", "place"]
    wide = part.assign(rating=rating).pivot(index=case, columns="realisation", values="rating")
    unrated = int(wide.isna().any(axis=1).sum())
    if unrated:
        study.notes.append(
            f"{key['contrast']} {key['condition']}: {unrated} lesions or healthy places without a "
            f"rating of the {key['observer']} observer, {_UNRATED[key['observer']]}; skipped"
        )
    wide = wide.dropna()
    cases = part.drop_duplicates(case).set_index(case).loc[wide.index].reset_index()
    lesion, values = (cases["kind"] == LESION).to_numpy(bool), wide.to_numpy()
    lesions, subjects = cases[lesion].reset_index(drop=True), cases["subject"].to_numpy(str)
    row = key | {
        "subjects": len(np.unique(subjects)),
        "lesions": len(lesions),
        "healthy": int((~lesion).sum()),
    }
    study.rows["detectability"].append(row)
    seen = lesions.assign(condition=key["condition"], observer=key["observer"], seen=np.nan)
    if not lesion.any() or lesion.all():
        study.notes.append(
            f"{key['contrast']} {key['condition']}: the {key['observer']} observer has no "
            f"{'healthy place' if lesion.any() else 'lesion'} to compare"
        )
        return seen
    positive, negative = values[lesion], values[~lesion]
    row |= st.area(values.T, lesion, subjects, seed=seed)
    seen["seen"] = (positive > np.quantile(negative, SPECIFICITY, method="higher")).mean(axis=1)
    share, sizes = seen["seen"].to_numpy(), seen["diameter"].to_numpy()
    whose = subjects[lesion]
    row |= {"dprime": st.detectability(row["auc"])} | st.sensitivity(share, whose)
    row |= st.diameter_seen(sizes, share, whose)
    # As a reader calls lesions: none who is healthy is called ill.
    most = pd.DataFrame(negative).groupby(subjects[~lesion]).max().reindex(whose)
    clear = (positive > most.to_numpy()).mean(axis=1) >= 0.5
    smallest = seen["length"][clear].groupby(whose[clear]).min()
    row |= {"subjects_seen": len(smallest), "smallest": smallest.mean()}
    row |= {"smallest_sd": smallest.std()}
    contrasts = seen["hf_contrast"].abs().to_numpy()
    for by, edges, measure in (("diameter", DIAMETERS, sizes), ("contrast", CONTRASTS, contrasts)):
        for low, high in itertools.pairwise(edges):
            inside = (measure >= low) & (measure < high)
            if inside.any():
                ends = {"by": by, "low": float(low), "high": float(high)}
                summary = {"lesions": int(inside.sum())} | st.sensitivity(
                    share[inside], whose[inside]
                )
                study.rows["sensitivity"].append(key | ends | summary)
    return seen


def _volumes(key: dict[str, Any], part: pd.DataFrame, study: Study) -> None:
    """Compare each participant's segmented with the true volume, mean over realisations."""
    lesions = part[part["kind"] == LESION]
    by_lesion = lesions.groupby(["subject", "scan", "lesion"])[["volume", "segmented"]].mean()
    totals = by_lesion.groupby(["subject", "scan"]).sum().groupby("subject").mean() / 1000
    agreement = st.agreement(totals["volume"].to_numpy(), totals["segmented"].to_numpy())
    study.rows["volumes"].append(key | {"subjects": len(totals)} | agreement)


def _compare(key: dict[str, Any], lesions: pd.DataFrame, study: Study) -> None:
    """Compare conditions pairwise by each participant's sensitivity to lesions that both show."""
    table = lesions.pivot(index=["subject", "scan", "lesion"], columns="condition", values="seen")
    names = [name for name in study.conditions if name in table.columns]
    for one, other in itertools.combinations(names, 2):
        gap = (table[other] - table[one]).dropna().groupby("subject").mean()
        study.rows["comparisons"].append(
            key | {
                "condition": other, "versus": one, "subjects": len(gap),
                "difference": gap.mean(), "sd": gap.std(),
                "needed80": st.subjects_needed(gap.to_numpy(), 0.8),
                "needed90": st.subjects_needed(gap.to_numpy(), 0.9),
            }
        )  # fmt: skip


def _dose(key: dict[str, Any], lesions: pd.DataFrame, study: Study) -> None:
    """Fit what each quantity that differs between conditions does to seeing lesions."""
    rated = lesions[lesions["seen"].notna()]
    for quantity, others in _DOSES.items():
        # Neither the high-field image nor a scan's own grid has a thickness.
        known = {n: of for n, of in study.conditions.items() if of.get(quantity) is not None}
        alike = {
            name: str([study.models.get((key["contrast"], name)), *(of.get(o) for o in others)])
            for name, of in known.items()
        }
        part = rated[rated["condition"].isin(known)]
        dose = part["condition"].map({name: of[quantity] for name, of in known.items()})
        if dose.nunique() < 2:
            continue
        fit = st.dose_response(
            part["seen"].to_numpy(), dose.to_numpy(float), part["diameter"].to_numpy(),
            part["subject"].to_numpy(str), part["condition"].map(alike).to_numpy(str),
        )  # fmt: skip
        if fit:
            study.rows["dose"].append(key | {"quantity": quantity} | fit)
