"""The study's tables, the page and the reader set, on made-up ratings."""

from __future__ import annotations

import json
import math
from collections import Counter

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from h2lo_bids.bids.derivatives import result_files
from h2lo_bids.errors import NoMatchError
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.reports.records import Failure, write_scan_failure
from h2lo_bids.settings import Settings
from h2lo_bids.trial.condition import conditions_of
from h2lo_bids.trial.report import KEY, write_reader_set, write_trial_report
from h2lo_bids.trial.statistics import SEVERAL
from h2lo_bids.trial.study import RATINGS, Study
from h2lo_bids.trial.study import collect as collect_with

CONDITIONS = {"quiet": 1.0, "loud": 3.0}
DIAMETERS = np.array([2.5, 4, 6, 9, 14])


def asked(out_dir, *condition):
    labels = (("lesion", out_dir),)
    return Settings(out_dir / "raw", out_dir, "trial", condition=condition, labels=labels)


def collect(out_dir, *condition):
    return collect_with(asked(out_dir, *condition))


def write_ratings(
    out_dir, subjects, realisations=8, seed=0, signal=1.0, conditions=None, label="lesion"
):
    """Ratings of which the separation grows with the diameter and falls with the noise."""
    conditions = conditions or CONDITIONS
    for subject in range(1, subjects + 1):
        rng, rows = np.random.default_rng([seed, subject]), []
        for condition, noise, count in (
            ("highfield", 0.4, 1), *((c, n, realisations) for c, n in conditions.items())
        ):  # fmt: skip
            for lesion, diameter in enumerate(DIAMETERS, start=1):
                for place, kind in enumerate(("lesion", "mirror")):
                    d = signal * (kind == "lesion") * 0.6 * diameter / noise
                    for number in range(1, count + 1):
                        rating, others = d + rng.normal(), rng.normal(0, 1, 3)
                        volume = math.pi * diameter**3 / 6
                        rows.append(
                            [condition, lesion, place, kind, number, volume, diameter, diameter + 1,
                             0.3, rating, rating + 0.1 * rng.normal(), *others, 1.1 * volume]
                        )  # fmt: skip
        scan = f"sub-{subject:04d}_T2w"
        (out_dir / "raw").mkdir(exist_ok=True)
        (out_dir / "raw" / f"{scan}.nii.gz").touch()
        path, *_ = result_files(out_dir, "trial_ratings", scan=f"{scan}_{label}")
        write_table(path, rows, RATINGS)
        content = json.loads(path.with_suffix(".json").read_text()) | {
            "Scan": f"{scan}.nii.gz",
            "Label": label,
            "Training": ["simulated"],
            "Conditions": {
                name: {"text": name, "noise_scale": noise, "slice_thickness": None,
                       "voxel_volume": 8.0, "grid": "2x2x2"}
                for name, noise in conditions.items()
            },
            "Models": dict.fromkeys(conditions, "of this digest"),
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    write_ratings(out, 10)
    return out, collect(out)


def test_detectability_is_that_of_the_ratings(study):
    _, found = study
    rows = {(r["condition"], r["observer"]): r for r in found.rows["detectability"]}
    for condition, noise in CONDITIONS.items():
        truth = np.mean(  # lesions of any size against any healthy place
            [norm.cdf(0.6 * d / noise / math.sqrt(2)) for d in DIAMETERS]
        )
        assert rows[condition, "cnr"]["auc"] == pytest.approx(truth, abs=0.04)
        # One channel tells, the others are noise: Hotelling finds it.
        assert rows[condition, "hotelling"]["auc"] == pytest.approx(truth, abs=0.06)
        assert rows[condition, "cnr"]["boot_low"] < truth < rows[condition, "cnr"]["boot_high"]
    assert rows["quiet", "cnr"]["diameter80"] < rows["loud", "cnr"]["diameter80"]
    cut = norm.ppf(0.9)
    share = np.mean([norm.cdf(0.6 * d - cut) for d in DIAMETERS])
    assert rows["quiet", "cnr"]["sensitivity"] == pytest.approx(share, abs=0.025)


def test_sensitivity_rises_with_size_and_volumes_agree(study):
    _, found = study
    bins = [
        r["sensitivity"] for r in found.rows["sensitivity"]
        if (r["condition"], r["observer"], r["by"]) == ("loud", "cnr", "diameter")
    ]  # fmt: skip
    assert len(bins) == len(DIAMETERS)
    assert bins[0] < bins[2] < bins[-1]
    volume = next(r for r in found.rows["volumes"] if r["condition"] == "loud")
    true = sum(math.pi * d**3 / 6 for d in DIAMETERS) / 1000
    assert volume["bias"] == pytest.approx(0.1 * true, rel=1e-6)


def test_noise_lowers_the_odds_and_few_participants_show_it(study):
    _, found = study
    dose = next(r for r in found.rows["dose"] if r["quantity"] == "noise_scale")
    assert dose["high"] < 1
    gap = next(
        r for r in found.rows["comparisons"]
        if (r["versus"], r["condition"], r["observer"]) == ("quiet", "loud", "cnr")
    )  # fmt: skip
    assert gap["difference"] < -0.1
    assert 2 <= gap["needed80"] <= gap["needed90"] < 20


def test_a_condition_on_the_scans_own_grid_leaves_the_effect_of_thickness_to_the_others(tmp_path):
    write_ratings(tmp_path, 8, conditions={"own": 1.0, "thin": 1.0, "thick": 3.0})
    told = {"own": (None, None), "thin": (2.0, 8.0), "thick": (5.0, 20.0)}
    for path in (tmp_path / "trial" / "ratings").glob("*.json"):
        content = json.loads(path.read_text())
        for name, (thickness, volume) in told.items():
            content["Conditions"][name] |= {
                "noise_scale": 1.0, "slice_thickness": thickness, "voxel_volume": volume
            }  # fmt: skip
        path.write_text(json.dumps(content))
    rows = [row for row in collect(tmp_path).rows["dose"] if row["observer"] == "cnr"]
    assert [row["quantity"] for row in rows] == ["slice_thickness", "voxel_volume"]
    assert all(row["high"] < 1 for row in rows)


def test_conditions_are_compared_by_the_lesions_that_both_show(tmp_path):
    write_ratings(tmp_path, 3, conditions={"all": 3.0, "some": 3.0})
    for path in (tmp_path / "trial" / "ratings").glob("*.tsv"):
        table = pd.read_csv(path, sep="\t")
        same = table[table["condition"] == "all"].assign(condition="some")
        same = same[(same["kind"] != "lesion") | (same["lesion"] > 2)]  # the small ones are hidden
        pd.concat([table[table["condition"] != "some"], same]).to_csv(path, sep="\t", index=False)
    (row,) = (
        r for r in collect(tmp_path).rows["comparisons"]
        if (r["versus"], r["condition"], r["observer"]) == ("all", "some", "cnr")
    )  # fmt: skip
    assert (row["subjects"], row["difference"]) == (3, 0)


def test_the_smallest_lesion_is_the_smallest_rated_above_all_healthy_places(tmp_path):
    write_ratings(tmp_path, 4, realisations=2, signal=50.0)  # all are far above
    row = next(r for r in collect(tmp_path).rows["detectability"] if r["condition"] == "quiet")
    assert (row["subjects_seen"], row["smallest"], row["smallest_sd"]) == (4, 3.5, 0)
    for path in (tmp_path / "trial" / "ratings").glob("sub-000[12]*.tsv"):
        table = pd.read_csv(path, sep="\t")
        table.loc[(table["kind"] == "mirror") & (table["lesion"] == 1), ["cnr", "channel1"]] = 1e4
        table.to_csv(path, sep="\t", index=False)
    row = [r for r in collect(tmp_path).rows["detectability"] if r["condition"] == "quiet"][1]
    assert (row["observer"], row["subjects_seen"], row["smallest"]) == ("cnr", 2, 3.5)


def test_the_page_tells_figures_and_limits_and_loads_nothing(study):
    out, found = study
    text = write_trial_report(out, found, ["raw", "out", "trial"]).read_text()
    assert "What this cannot say" in text
    assert "trained on simulated pairs" in text
    assert text.count("<svg") == 4
    assert "31 of 33" in text
    assert "87: 67-76." in text  # of Arnold et al., with its link
    assert 'href="https://doi.org/10.1016/j.mri.2021.12.007"' in text
    for word in ('src="http', 'href="http://', "<script src"):
        assert word not in text


@pytest.mark.parametrize(("people", "way"), [(SEVERAL, "boot"), (SEVERAL - 1, "delong")])
def test_areas_are_drawn_with_the_intervals_of_participants(tmp_path, monkeypatch, people, way):
    drawn = {}
    monkeypatch.setattr(
        "h2lo_bids.reports.charts.intervals", lambda points, label: drawn.update({label: points})
    )
    write_ratings(tmp_path, people)
    found = collect(tmp_path)
    write_trial_report(tmp_path, found, ["raw", "out", "trial"])
    row = next(
        r for r in found.rows["detectability"] if (r["condition"], r["observer"]) == ("loud", "cnr")
    )
    *_, (_, name, figures) = drawn["T2w cnr AUC"]
    assert (name, figures) == ("loud", (row["auc"], row[f"{way}_low"], row[f"{way}_high"]))


def test_no_signal_is_chance(tmp_path):
    write_ratings(tmp_path, 8, signal=0.0)
    for row in collect(tmp_path).rows["detectability"]:
        if row["condition"] != "highfield":
            assert row["auc"] == pytest.approx(0.5, abs=0.1)


def test_few_participants_are_told_and_still_rated(tmp_path):
    write_ratings(tmp_path, 1)
    found = collect(tmp_path)
    assert sum("1 participant only: the Hotelling" in note for note in found.notes) == 1
    row = next(r for r in found.rows["detectability"] if r["condition"] == "quiet")
    assert row["auc"] > 0.7
    assert "boot_low" not in row
    write_ratings(tmp_path, SEVERAL)
    assert collect(tmp_path).notes == []


@pytest.mark.parametrize("part", ["Conditions", "Models"])
def test_damaged_or_differing_ratings_are_named_and_the_rest_counts(tmp_path, part):
    write_ratings(tmp_path, 3)
    folder = tmp_path / "trial" / "ratings"
    (folder / "sub-0001_T2w_lesion.json").write_text("{")
    other = folder / "sub-0002_T2w_lesion.json"
    content = json.loads(other.read_text())
    content[part]["quiet"] = {"text": "quiet", "noise_scale": 7}
    other.write_text(json.dumps(content))
    found = collect(tmp_path)
    assert sum("sub-0001" in note and "run its participant" in note for note in found.notes) == 1
    assert sum("sub-0003" in note and "same --condition" in note for note in found.notes) == 1
    assert {row["subjects"] for row in found.rows["detectability"]} == {1}
    with pytest.raises(NoMatchError, match="holds no ratings"):
        collect(tmp_path / "none")


BROKEN = Failure("trial", "its label is broken")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda out: write_scan_failure(out, "sub-0002_T2w", BROKEN), "failed since then"),
        (lambda out: (out / "raw/sub-0002_T2w.nii.gz").unlink(), "no longer has its scan"),
    ],
)
def test_ratings_of_a_scan_that_failed_since_or_is_gone_do_not_count(tmp_path, spoil, why):
    write_ratings(tmp_path, 3)
    spoil(tmp_path)
    found = collect(tmp_path)
    assert sum("sub-0002" in note and why in note for note in found.notes) == 1
    assert {row["subjects"] for row in found.rows["detectability"]} == {2}


def test_a_condition_may_be_called_null(tmp_path):
    write_ratings(tmp_path, 2, conditions={"null": 1.0, "NA": 3.0})
    rows = collect(tmp_path).rows["detectability"]
    assert [row["condition"] for row in rows[::2]] == ["highfield", "null", "NA"]


@pytest.mark.parametrize(("name", "words"), [("loud", ["loud"]), ("scanner", [])])
def test_a_condition_is_what_this_run_says_and_not_what_an_earlier_one_said(tmp_path, name, words):
    write_ratings(tmp_path, 3, conditions={"quiet": 1.0, name: 3.0})
    write_ratings(tmp_path, 2, conditions={"quiet": 1.0, name: 3.0}, label="earlier")
    for path in (tmp_path / "trial" / "ratings").glob("sub-000[23]*_lesion.json"):
        content = json.loads(path.read_text())
        content["Conditions"][name] = conditions_of(asked(tmp_path, *words))[0].described
        path.write_text(json.dumps(content))
    found = collect(tmp_path, *words)
    assert {(row["label"], row["subjects"]) for row in found.rows["detectability"]} == {
        ("lesion", 2)
    }
    assert sum("(3 files: " in note and "same --condition" in note for note in found.notes) == 1


@pytest.mark.slow
def test_a_thousand_participants_are_collected(tmp_path):
    write_ratings(tmp_path, 1000, realisations=4)
    rows = collect(tmp_path).rows["detectability"]
    assert {row["subjects"] for row in rows} == {1000}


def test_the_reader_set_is_balanced_blinded_and_has_its_key_apart(tmp_path):
    rng, affine = np.random.default_rng(0), np.diag([-2.0, 2.0, 4.0, 1.0])  # towards the left
    for subject in range(1, 7):
        anat = tmp_path / f"sub-{subject}" / "anat"
        anat.mkdir(parents=True)
        names = [f"desc-{d}noise01" for d in ("thin", "thick", "lowfield", "ofanearlierrun")]
        for name in ("desc-preproc", "res-model_desc-preproc", *names):
            image = nib.Nifti1Image(rng.random((8, 9, 6)).astype(np.float32), affine)
            image.header["descrip"] = f"sub-{subject}"
            nib.save(image, anat / f"sub-{subject}_{name}_T1w.nii.gz")
            # Of earlier runs, in which "thin" was another scanner or of another model, are others.
            for res, text, model in (
                ("", "2 mm", "m"),
                ("res-5_", "5 mm", "m"),
                ("res-2_", "2 mm", "n"),
            ):
                plain = anat / f"sub-{subject}_{res}{name}_T1w.nii.gz"
                nib.save(image, plain)
                said = {"Sources": [f"bids:raw:sub-{subject}_T1w.nii.gz"]}
                said |= {"Condition": {"text": text, "model": model}} if "noise" in name else {}
                plain.with_name(plain.name.replace("nii.gz", "json")).write_text(json.dumps(said))
    rated = pd.DataFrame({"scan": [f"sub-{subject}_T1w.nii.gz" for subject in range(1, 6)]})
    study = Study(
        {"highfield": {}, "thin": {"text": "2 mm"}, "thick": {"text": "2 mm"}},
        {("T1w", "thin"): "m", ("T1w", "thick"): "m"},
        lesions={("T1w", "lesion"): rated},
    )
    (note,) = write_reader_set(tmp_path, study, 9, seed=1)
    assert "it is of another condition of this name" in note
    assert "(20 images: " in note  # of five participants, two conditions and two earlier runs
    key = pd.read_csv(tmp_path / "trial" / KEY, sep="\t")
    assert Counter(key["condition"]) == {"highfield": 3, "thin": 3, "thick": 3}
    assert key["source"].is_unique
    files = sorted(p.name for p in (tmp_path / "trial" / "reader_set").iterdir())
    assert len(files) == 18
    for image, source in zip(key["image"], key["source"], strict=True):
        made = nib.load(tmp_path / "trial" / "reader_set" / f"{image}.nii.gz")
        assert np.array_equal(made.get_fdata(), nib.load(tmp_path / source).get_fdata()[::-1])
        assert nib.aff2axcodes(made.affine) == ("R", "A", "S")
        assert made.header["descrip"].tobytes().strip(b"\0") == b""
        assert np.allclose(made.affine[:3, 3], 0)
    assert list(key["condition"]) != sorted(key["condition"])
    assert not key["source"].str.contains("res-|sub-6").any()
    for number, text in ((1, "{"), (2, None)):
        damaged = tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_desc-thinnoise01_T1w.json"
        damaged.write_text(text) if text else damaged.unlink()
    *notes, last = write_reader_set(tmp_path, study, 99, seed=1)
    assert last == "--reader-set 99: there are 13 images only"
    lines = [n for n in notes if "desc-thinnoise01_T1w.nii.gz: not in the reader set" in n]
    assert sum("No such file" in n for n in lines) == sum("Expecting" in n for n in lines) == 1
