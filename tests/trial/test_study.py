"""The study's tables, the page and the reader set, on made-up ratings."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import product

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from report_samples import Page, assert_sealed
from scipy.stats import norm

from h2lo_bids.bids.derivatives import result_files
from h2lo_bids.errors import NoMatchError
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.io import write_json
from h2lo_bids.reports.records import Failure, write_scan_failure
from h2lo_bids.settings import Settings
from h2lo_bids.trial.condition import HIGH, conditions_of
from h2lo_bids.trial.report import KEY, write_reader_set, write_trial_report
from h2lo_bids.trial.statistics import SEVERAL
from h2lo_bids.trial.study import OBSERVERS, RATINGS, Study
from h2lo_bids.trial.study import collect as collect_with

CONDITIONS = {"quiet": 1.0, "loud": 3.0}
DIAMETERS = np.array([2.5, 4, 6, 9, 14])


def asked(out_dir, *condition):
    labels = (("lesion", out_dir),)
    return Settings(out_dir / "raw", out_dir, "trial", condition=condition, labels=labels)


def collect(out_dir, *condition):
    return collect_with(asked(out_dir, *condition))


def write_ratings(
    out_dir, subjects, realisations=2, signal=1.0, conditions=CONDITIONS, label="lesion"
):
    """Ratings of which the separation grows with the diameter and falls with the noise."""
    drawn = {"highfield": (0.4, 1)} | {c: (n, realisations) for c, n in conditions.items()}
    lesions, places = enumerate(DIAMETERS, start=1), enumerate(("lesion", "mirror"))
    cases = [*product(drawn.items(), lesions, places)]
    told = {name: {"text": name, "noise_scale": noise} for name, noise in conditions.items()}
    models = dict.fromkeys(conditions, "of this digest")
    (out_dir / "raw").mkdir(exist_ok=True)
    for subject in range(1, subjects + 1):
        rng, rows = np.random.default_rng([0, subject]), []
        for (condition, (noise, count)), (lesion, diameter), (place, kind) in cases:
            volume = math.pi * diameter**3 / 6
            what = [volume, diameter, diameter + 1, 0.3]
            for number in range(1, count + 1):
                rating = signal * (kind == "lesion") * 0.6 * diameter / noise + rng.normal()
                channels = [rating + 0.1 * rng.normal(), *rng.normal(0, 1, 3)]
                seen = [*what, rating, *channels, 1.1 * volume]
                rows.append([condition, lesion, place, kind, number, *seen])
        scan = f"sub-{subject:04d}_T2w"
        (out_dir / "raw" / f"{scan}.nii.gz").touch()
        path, sidecar, _ = result_files(out_dir, "trial_ratings", scan=f"{scan}_{label}")
        write_table(path, rows, RATINGS)
        content = {"Scan": f"{scan}.nii.gz", "Label": label, "Training": ["simulated"]}
        write_json(sidecar, content | {"Conditions": told, "Models": models})


def tell(out_dir, files, part="Conditions", **changes):
    """Have ratings say otherwise of their conditions."""
    for path in (out_dir / "trial" / "ratings").glob(files):
        content = json.loads(path.read_text())
        content[part] |= changes
        write_json(path, content)


def edit(out_dir, files, change):
    """Change the tables of ratings."""
    for path in (out_dir / "trial" / "ratings").glob(files):
        change(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)


def row_of(found, table, **wanted):
    (row,) = (row for row in found.rows[table] if wanted.items() <= row.items())
    return row


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    write_ratings(out, 10, realisations=8)
    return collect(out)


def test_the_figures_of_a_study_are_those_of_the_ratings(study):
    rows = {(r["condition"], r["observer"]): r for r in study.rows["detectability"]}
    for condition, noise in CONDITIONS.items():
        # Of lesions of any size against any healthy place.
        truth = norm.cdf(0.6 * DIAMETERS / noise / math.sqrt(2)).mean()
        own = rows[condition, "cnr"]
        assert own["auc"] == pytest.approx(truth, abs=0.04)
        assert own["boot_low"] < truth < own["boot_high"]
        # One channel tells, the others are noise: Hotelling finds it.
        assert rows[condition, "hotelling"]["auc"] == pytest.approx(truth, abs=0.06)
    assert rows["quiet", "cnr"]["diameter80"] < rows["loud", "cnr"]["diameter80"]
    share = norm.cdf(0.6 * DIAMETERS - norm.ppf(0.9)).mean()
    assert rows["quiet", "cnr"]["sensitivity"] == pytest.approx(share, abs=0.025)
    loud = {"condition": "loud", "observer": "cnr"}
    sizes = loud | {"by": "diameter"}
    bins = [r["sensitivity"] for r in study.rows["sensitivity"] if sizes.items() <= r.items()]
    assert len(bins) == len(DIAMETERS)
    assert bins[0] < bins[2] < bins[-1]
    true = math.pi / 6 * (DIAMETERS**3).sum() / 1000
    assert row_of(study, "volumes", condition="loud")["bias"] == pytest.approx(0.1 * true, rel=1e-6)
    assert row_of(study, "dose", quantity="noise_scale", observer="cnr")["high"] < 1
    gap = row_of(study, "comparisons", versus="quiet", **loud)
    assert gap["difference"] < -0.1
    assert 2 <= gap["needed80"] <= gap["needed90"] < 20


def test_a_condition_on_the_scans_own_grid_leaves_the_effect_of_thickness_to_the_others(tmp_path):
    write_ratings(tmp_path, 8, 3, conditions={"own": 1.0, "thin": 1.0, "thick": 3.0})
    for name, *grid in (("own", None, None), ("thin", 2.0, 8.0), ("thick", 5.0, 20.0)):
        slices = dict(zip(("slice_thickness", "voxel_volume"), grid, strict=True))
        tell(tmp_path, "*.json", **{name: {"noise_scale": 1.0, **slices}})
    rows = [row for row in collect(tmp_path).rows["dose"] if row["observer"] == "cnr"]
    assert [row["quantity"] for row in rows] == ["slice_thickness", "voxel_volume"]
    assert all(row["high"] < 1 for row in rows)


def test_conditions_are_compared_by_the_lesions_that_both_show(tmp_path):
    def hide(table):
        same = table[table["condition"] == "all"].assign(condition="some")
        same = same[(same["kind"] != "lesion") | (same["lesion"] > 2)]  # the small ones are hidden
        return pd.concat([table[table["condition"] != "some"], same])

    write_ratings(tmp_path, 5, conditions={"all": 3.0, "some": 3.0})
    edit(tmp_path, "*.tsv", hide)
    row = row_of(collect(tmp_path), "comparisons", versus="all", condition="some", observer="cnr")
    assert (row["subjects"], row["difference"]) == (5, 0)


def test_the_smallest_lesion_is_the_smallest_rated_above_all_healthy_places(tmp_path):
    def call_ill(table):
        first = (table["kind"] == "mirror") & (table["lesion"] == 1)
        return table.assign(cnr=table["cnr"].where(~first, 1e4))

    write_ratings(tmp_path, 5, signal=50.0)  # all lesions are far above
    edit(tmp_path, "sub-000[123]*.tsv", call_ill)
    row = row_of(collect(tmp_path), "detectability", condition="quiet", observer="cnr")
    assert (row["subjects_seen"], row["smallest"], row["smallest_sd"]) == (2, 3.5, 0)


def test_the_page_loads_nothing_tells_of_few_people_and_draws_areas_with_their_intervals(
    study, tmp_path, monkeypatch
):
    text = write_trial_report(tmp_path, study, ["raw", "out", "trial"]).read_text()
    assert_sealed(Page(text))
    assert text.count("<svg") == 4
    assert "trained on simulated pairs" in text
    assert study.notes == []
    drawn = {}
    monkeypatch.setattr(
        "h2lo_bids.reports.charts.intervals", lambda points, label: drawn.update({label: points})
    )
    write_ratings(tmp_path, SEVERAL - 1)
    few = collect(tmp_path)
    assert sum("4 participants only: the Hotelling" in note for note in few.notes) == 1
    for of, way in ((few, "delong"), (study, "boot")):
        write_trial_report(tmp_path, of, ["raw", "out", "trial"])
        row = row_of(of, "detectability", condition="loud", observer="cnr")
        *_, (_, name, figures) = drawn["T2w cnr AUC"]
        assert (name, figures) == ("loud", (row["auc"], row[f"{way}_low"], row[f"{way}_high"]))


def test_damaged_pictures_of_a_scan_cost_the_page_its_examples_alone(tmp_path):
    row = {"condition": "scanner", "observer": OBSERVERS[0], "subject": "01", "lesion": 1.0}
    rows = [{**row, "diameter": 5.0, "seen": seen, "scan": f"sub-01_{suffix}.nii.gz"}
            for seen, suffix in ((1.0, "T1w"), (0.0, "T2w"))]  # fmt: skip
    conditions = {name: {"text": "what it is"} for name in (HIGH, "scanner")}
    study = Study(conditions, lesions={("T1w", "lesion"): pd.DataFrame(rows)})
    folder = tmp_path / "trial/ratings"
    folder.mkdir(parents=True)
    planes = {f"{name}_1": np.eye(8) for name in conditions}
    np.savez(folder / "sub-01_T1w_lesion.npz", **planes)
    (folder / "sub-01_T2w_lesion.npz").write_bytes(b"PK\x03\x04 broken")
    page = write_trial_report(tmp_path, study, ["BIDS", "OUT", "trial"]).read_text()
    assert page.count("<h4>scanner: ") == 1
    assert "largest missed" not in page


def test_ratings_that_cannot_be_used_are_named_and_the_rest_counts(tmp_path):
    # Conditions may be called so, though tables may have such words for what is absent.
    write_ratings(tmp_path, 7, conditions={"null": 1.0, "NA": 3.0})
    (tmp_path / "trial" / "ratings" / "sub-0001_T2w_lesion.json").write_text("{")
    tell(tmp_path, "sub-0003*.json", null={"text": "null", "noise_scale": 7})
    tell(tmp_path, "sub-0004*.json", "Models", null="of another")
    write_scan_failure(tmp_path, "sub-0005_T2w", Failure("trial", "its label is broken"))
    (tmp_path / "raw/sub-0006_T2w.nii.gz").unlink()
    edit(tmp_path, "sub-0007*.tsv", lambda table: table[:0])
    found = collect(tmp_path)
    reasons = {1: "run its participant", 3: "same --condition", 4: "same --condition",
               5: "failed since then", 6: "no longer has its scan", 7: "no image"}  # fmt: skip
    for subject, why in reasons.items():
        assert sum(f"sub-000{subject}" in note and why in note for note in found.notes) == 1
    rows = found.rows["detectability"]
    assert {row["subjects"] for row in rows} == {1}
    assert [row["condition"] for row in rows[::2]] == ["highfield", "null", "NA"]
    assert sum("1 participant only: the Hotelling" in note for note in found.notes) == 1
    assert not any("boot_low" in row for row in rows)
    write_trial_report(tmp_path, found, ["raw", "out", "trial"])  # of one person alone, too
    with pytest.raises(NoMatchError, match="holds no ratings"):
        collect(tmp_path / "none")


def test_a_condition_is_what_this_run_says_and_not_what_an_earlier_one_said(tmp_path):
    write_ratings(tmp_path, 3)
    write_ratings(tmp_path, 2, label="earlier")
    told = conditions_of(asked(tmp_path, "loud"))[0].described
    tell(tmp_path, "sub-000[23]*_lesion.json", loud=told)
    found = collect(tmp_path, "loud")
    rows = found.rows["detectability"]
    assert {(row["label"], row["subjects"]) for row in rows} == {("lesion", 2)}
    assert sum("(3 files: " in note and "same --condition" in note for note in found.notes) == 1


def test_the_reader_set_is_balanced_blinded_and_has_its_key_apart(tmp_path):
    rng, affine = np.random.default_rng(0), np.diag([-2.0, 2.0, 4.0, 1.0])  # towards the left
    names = ["desc-preproc", *(f"desc-{d}noise01" for d in ("thin", "thick", "ofanearlierrun"))]
    # Of earlier runs, in which "thin" was another scanner or of another model, are others.
    runs = (("", "2 mm", "m"), ("res-5_", "5 mm", "m"), ("res-2_", "2 mm", "n"))
    for subject, name, (res, text, model) in product(range(1, 5), names, runs):
        image = nib.Nifti1Image(rng.random((8, 9, 6)).astype(np.float32), affine)
        image.header["descrip"] = f"sub-{subject}"
        said = {"Sources": [f"bids:raw:sub-{subject}_T1w.nii.gz"]}
        said |= {"Condition": {"text": text, "model": model}} if "noise" in name else {}
        stem = tmp_path / f"sub-{subject}/anat/sub-{subject}_{res}{name}_T1w"
        write_json(stem.with_suffix(".json"), said)
        nib.save(image, stem.with_suffix(".nii.gz"))
    rated = pd.DataFrame({"scan": [f"sub-{subject}_T1w.nii.gz" for subject in (1, 2, 3)]})
    study = Study(
        {"highfield": {}, "thin": {"text": "2 mm"}, "thick": {"text": "2 mm"}},
        {("T1w", "thin"): "m", ("T1w", "thick"): "m"},
        lesions={("T1w", "lesion"): rated},
    )
    (note,) = write_reader_set(tmp_path, study, 6, seed=1)
    assert "it is of another condition of this name" in note
    assert "(12 images: " in note  # of three participants, two conditions and two earlier runs
    key = pd.read_csv(tmp_path / "trial" / KEY, sep="\t")
    assert Counter(key["condition"]) == {"highfield": 2, "thin": 2, "thick": 2}
    assert list(key["condition"]) != sorted(key["condition"])
    assert key["source"].is_unique
    assert not key["source"].str.contains("res-|sub-4").any()
    assert len([*(tmp_path / "trial" / "reader_set").iterdir()]) == 12
    for image, source in zip(key["image"], key["source"], strict=True):
        made = nib.load(tmp_path / "trial" / "reader_set" / f"{image}.nii.gz")
        assert np.array_equal(made.get_fdata(), nib.load(tmp_path / source).get_fdata()[::-1])
        assert np.array_equal(made.affine, np.diag([2, 2, 4, 1]))
        assert made.header["descrip"].tobytes().strip(b"\0") == b""
    for number, text in ((1, "{"), (2, None)):
        damaged = tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_desc-thinnoise01_T1w.json"
        damaged.write_text(text) if text else damaged.unlink()
    *notes, last = write_reader_set(tmp_path, study, 99, seed=1)
    assert last == "--reader-set 99: there are 7 images only"
    lines = [n for n in notes if "desc-thinnoise01_T1w.nii.gz: not in the reader set" in n]
    assert sum("No such file" in n for n in lines) == sum("Expecting" in n for n in lines) == 1
