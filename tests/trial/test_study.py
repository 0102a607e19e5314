"""Conditions, the study's tables, the page and the reader set, on made-up ratings and images."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from skeletons import anat, scan_at

from h2lo_bids.bids.derivatives import result_files
from h2lo_bids.bids.discover import Discovery, ImageSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.checks import check_models_and_templates, check_usage, check_values
from h2lo_bids.cli.participant import SubjectTask
from h2lo_bids.cli.subject import examine
from h2lo_bids.errors import NoMatchError, UsageError
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.outputs import NATIVE, output_paths
from h2lo_bids.reports.records import Failure, ScanReport, write_scan_failure
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import PROBES, NoiseModel
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.trial.condition import Images, conditions_of
from h2lo_bids.trial.report import KEY, write_reader_set, write_trial_report
from h2lo_bids.trial.scan import RECIPE, Examination
from h2lo_bids.trial.study import RATINGS, SEVERAL, Study
from h2lo_bids.trial.study import collect as collect_with


def settings(tmp_path, *condition, level="trial", **more):
    given = {"labels": (("lesion", tmp_path),), "out_dir": tmp_path / "out", **more}
    return Settings(tmp_path, level=level, condition=tuple(condition), **given)


def test_memory_that_a_label_takes_costs_its_scan_alone(tmp_path, monkeypatch):
    def examine_one(images):
        if images.stem == "sub-01_T1w":
            raise MemoryError
        return SimpleNamespace(run=lambda: SimpleNamespace(notes=[], rows=[]))

    monkeypatch.setattr("h2lo_bids.trial.condition.Images", lambda scan, *_: scan)
    monkeypatch.setattr("h2lo_bids.trial.scan.Examination", examine_one)
    scans = [scan_at(tmp_path / "bids" / anat("01", None, suffix)) for suffix in ("T1w", "T2w")]
    found = Discovery(sources=tuple(ImageSource(scan, (scan,)) for scan in scans))
    records = [ScanReport(s.stem, s.relative_path, s.entities, s.suffix) for s in scans]
    failed, kept = examine(SubjectTask(settings(tmp_path), "01", found, tmp_path), records, print)
    assert [(item.scan, item.exit_code) for item in failed] == [(scans[0].relative_path, 75)]
    assert kept == records


def test_a_word_without_equals_begins_a_condition(tmp_path):
    words = "thin lf-grid=2x2x2 thick lf-grid=1.6x1.6x5 noise-scale=2 slice-profile=gauss"
    thin, thick = conditions_of(settings(tmp_path, *words.split(), realisations=7))
    assert (thin.name, thin.lf_grid, thin.noise_scale, thin.realisations) == (
        "thin", (2, 2, 2), 1, 7
    )  # fmt: skip
    assert (thick.grid.res, thick.noise_scale, thick.slice_profile) == ("1p6x1p6x5", 2, "gauss")
    assert thick.grid.response.profile == "gauss"
    assert [c.name for c in conditions_of(settings(tmp_path))] == ["scanner"]
    assert conditions_of(settings(tmp_path, level="participant")) == ()
    for given, drawn in ((None, 20), (1, 1)):
        (one,) = conditions_of(settings(tmp_path, "a", level="participant", realisations=given))
        assert one.realisations == drawn
    names = [c.name for c in conditions_of(settings(tmp_path, "noise2", "noise-scale=2"))]
    assert "noise2" in names


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "lf-grid=2"], "a lf-grid=2: '2' is not XxYxZ"),
        (["a", "colour=2"], "the keys are lf-grid"),
        (["lf-grid=2x2x2"], "give the condition's name first"),
        (["lowfield"], "not one that other outputs have"),
        (["a", "a"], "not one that other outputs have"),
        (["a-b"], "letters and digits"),
        (["lowfieldnoise02"], "not one that other outputs have"),
        (["a", "anoise01"], "not one that other outputs have"),
        (["a", "slice-profile=round"], "the profiles are box"),
        (["a", "realisations=0"], "the observer needs noise"),
        (["a", "lf-grid=2x2x2", "b", "slice-thickness=8"], "b: slice-profile and slice-thickness"),
    ],
)
def test_a_condition_that_makes_no_sense_is_one_line(tmp_path, words, line, refused):
    assert line in refused(UsageError, check_values, settings(tmp_path, *words))


def images_of(root, models, *words, level="trial"):
    """Give the trial's images of a scan that is there, of a model."""
    options = Settings(root, root / "out", level, labels=(("x", root),), condition=words)
    scan, shape = (
        Scan(root / "sub-01_T1w.nii.gz", "01", None, "T1w", (("sub", "01"),)),
        (16, 18, 20),
    )
    affine, brain = np.diag([6.0, 6, 6, 1]), np.zeros(shape, np.uint8)
    brain[3:-3, 3:-3, 3:-3] = 1
    data = (50 + 50 * np.random.default_rng(0).random(shape)) * brain
    data[8, 8, 8] = 1000
    paths = output_paths(root / "out", scan, (NATIVE,))
    for path in (scan.path, *paths.values()):
        array = brain if path == paths["mask"] else data
        if path == scan.path:
            array = array[..., None]  # one volume of four dimensions, as converters write it
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)
    return Images(scan, options, EngineOptions(), lambda c: models[c.model and c.model.name])


def test_a_model_of_the_same_weights_that_is_used_otherwise_makes_another_image(tmp_path):
    greatest = default_bundle("T1w", method="identity")  # one voxel decides its scale
    robust = replace(greatest, metadata=greatest.metadata | {"scaling": "robust"})
    models = {None: greatest}
    *_, dark = images_of(tmp_path, models, "c").write()
    models[None] = robust
    *_, bright = images_of(tmp_path, models, "c").write()
    assert dark.data[dark.brain].mean() < 0.2 < 0.5 < bright.data[bright.brain].mean()
    models |= {"m": greatest, "n": robust}
    *_, dark, bright = images_of(tmp_path, models, "dnoise", "model=m", "d", "model=n").write()
    assert list(tmp_path.rglob("*_desc-dnoise_T1w.nii.gz"))  # no draw of "d"
    assert dark.data[dark.brain].mean() < 0.2 < 0.5 < bright.data[bright.brain].mean()


@pytest.mark.parametrize(
    ("words", "more", "line"),
    [
        (["model=T1w"], {}, "a folder with a model for each contrast, or --contrast T1w"),
        (["model=T1w/weights.safetensors"], {}, "is a part of a model; give the model's folder"),
        (["realisations=2"], {"method": ("identity",)}, "no noise model for the realisations of"),
        (["realisations=0"], {"method": ("identity",), "level": "participant"}, None),
    ],
)
def test_a_model_that_a_condition_cannot_use_is_told_before_the_work(
    tmp_path, words, more, line, refused
):
    words = [word.replace("T1w", str(default_bundle("T1w").path)) for word in words]
    (bids := tmp_path / "raw").mkdir()
    asked = settings(bids, "a", *words, out_dir=tmp_path / "out", **more)

    def check():
        check_usage(asked)
        return check_models_and_templates(asked, ("T1w", "T2w"), print)

    if line is None:
        assert check()
    else:
        assert line in refused(UsageError, check)


def test_conditions_of_one_grid_have_the_noise_of_their_models(tmp_path):
    size = {"spacing": (6.0,) * 3, "shape": (16, 18, 20)}
    spectrum = {"frequencies": ((0.0, 1.0),) * 3, "power": (0.0,) * 8, "quantiles": tuple(PROBES)}
    models, bundle = {}, default_bundle("T1w", method="identity")
    for name, deviation in (("quiet", 0.0), ("loud", 0.02)):
        noise = NoiseModel((0.5,), (deviation,), **spectrum, **size).to_dict()
        models[name] = replace(bundle, metadata=bundle.metadata | {"noise": noise})
    images = images_of(tmp_path, models, "a", "model=quiet", "b", "model=loud")
    for _, image, noisy in images.realisations(images.write(), 2):
        added = (noisy - image.data)[image.brain].std()
        assert added == pytest.approx({"a": 0, "b": 0.02}[image.name], rel=0.3)
    # One without draws needs no noise model.
    models["plain"] = bundle
    words = ("c", "model=plain", "realisations=0", "d", "model=loud", "realisations=2")
    images_of(tmp_path, models, *words, level="participant").write()
    drawn = {path.name.split("_desc-")[1] for path in tmp_path.rglob("*_desc-[cd]*_T1w.nii.gz")}
    assert drawn == {f"{name}_T1w.nii.gz" for name in ("c", "d", "dnoise01", "dnoise02")}


def examined(root, lesion, *words):
    """Examine images whose model has some noise, with a mask of lesions; return the notes."""
    bundle = default_bundle("T1w", method="identity")
    size = {"spacing": (6.0,) * 3, "shape": (16, 18, 20), "quantiles": tuple(PROBES)}
    noise = NoiseModel(
        (0.5,), (0.02,), frequencies=((0.0, 1.0),) * 3, power=(0.0,) * 8, **size
    ).to_dict()
    models = {None: replace(bundle, metadata=bundle.metadata | {"noise": noise})}
    path = root / "sub-01" / "anat" / "sub-01_label-lesion_mask.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(lesion, np.diag([6.0, 6, 6, 1])), path)
    return Examination(images_of(root, models, *words)).run().notes


def test_a_run_that_resumes_tells_the_same_and_keeps_ratings_of_its_recipe(tmp_path, monkeypatch):
    lesion = np.zeros((16, 18, 20), np.uint8)
    lesion[4:12, 4:14, 4:16] = 1  # nearly all of the brain
    told = [examined(tmp_path, lesion, "c") for _ in range(2)]
    assert told[0] == told[1]
    assert sum("1 of 1 lesions have no healthy place" in text for text in told[1]) == 1
    table, *_ = result_files(tmp_path / "out", "trial_ratings", scan="sub-01_T1w_x")
    table.write_text(earlier := "of an earlier release")
    for recipe in (RECIPE, RECIPE + 1):
        monkeypatch.setattr("h2lo_bids.trial.scan.RECIPE", recipe)
        examined(tmp_path, lesion, "c")
        assert (table.read_text() == earlier) == (recipe == RECIPE)


def test_lesions_that_a_grid_does_not_show_are_counted(tmp_path):
    lesion = np.zeros((16, 18, 20), np.uint8)
    lesion[np.ix_((3, 12), (3, 14), (3, 16))] = 1  # corners, beyond which 15 mm voxels reach as far
    notes = examined(tmp_path, lesion, "c", "lf-grid=15x6x6")
    (note,) = (text for text in notes if "not in the brain of c" in text)
    assert "all, 1, 2 and 6 more" in note


def test_slices_without_a_grid_are_refused(tmp_path, refused):
    for words in ((), ("a", "noise-scale=2")):
        asked = settings(tmp_path, *words, slice_thickness=8.0)
        assert "add --lf-grid" in refused(UsageError, check_values, asked)
    check_values(settings(tmp_path, "a", "b", "lf-grid=2x2x4", slice_thickness=8.0))


def test_of_several_grids_a_condition_says_which_it_has(tmp_path, refused):
    grids = {"lf_grid": ((2.0, 2.0, 2.0), (1.6, 1.6, 5.0))}
    for words in ((), ("a", "lf-grid=2x2x2", "b")):
        asked = settings(tmp_path, *words, **grids)
        assert "lf-grid=XxYxZ for each" in refused(UsageError, check_values, asked)
    check_values(settings(tmp_path, "a", "lf-grid=2x2x2", **grids))
    check_values(settings(tmp_path, level="participant", **grids))


@pytest.mark.parametrize("names", [["my-lesions"], ["brain"], ["a", "a"], ["a", "aT2w"]])
def test_a_label_needs_a_name_that_no_other_output_has(tmp_path, names, refused):
    labels = tuple((name, tmp_path) for name in names)
    for level in ("trial", "participant"):
        asked = settings(tmp_path, level=level, labels=labels)
        assert f"--labels {names[-1]}: a name is of" in refused(UsageError, check_values, asked)


def test_a_trial_needs_labels(tmp_path, refused):
    assert "give --labels" in refused(UsageError, check_values, settings(tmp_path, labels=()))


CONDITIONS = {"quiet": 1.0, "loud": 3.0}
DIAMETERS = np.array([2.5, 4, 6, 9, 14])


def collect(out_dir, *condition):
    return collect_with(settings(out_dir / "raw", *condition, out_dir=out_dir))


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


def test_ratings_of_a_scan_that_failed_since_then_do_not_count(tmp_path):
    write_ratings(tmp_path, 3)
    write_scan_failure(tmp_path, "sub-0002_T2w", Failure("trial", "its label is broken"))
    found = collect(tmp_path)
    assert sum("sub-0002" in note and "failed since then" in note for note in found.notes) == 1
    assert {row["subjects"] for row in found.rows["detectability"]} == {2}


def test_a_condition_may_be_called_null(tmp_path):
    write_ratings(tmp_path, 2, conditions={"null": 1.0, "NA": 3.0})
    rows = collect(tmp_path).rows["detectability"]
    assert [row["condition"] for row in rows[::2]] == ["highfield", "null", "NA"]


def test_a_scan_that_left_the_dataset_does_not_count(tmp_path):
    write_ratings(tmp_path, 3)
    (tmp_path / "raw" / "sub-0002_T2w.nii.gz").unlink()
    found = collect(tmp_path)
    assert sum("sub-0002" in note and "no longer has its scan" in note for note in found.notes) == 1
    assert {row["subjects"] for row in found.rows["detectability"]} == {2}


@pytest.mark.parametrize(("name", "words"), [("loud", ["loud"]), ("scanner", [])])
def test_a_condition_is_what_this_run_says_and_not_what_an_earlier_one_said(tmp_path, name, words):
    write_ratings(tmp_path, 3, conditions={"quiet": 1.0, name: 3.0})
    write_ratings(tmp_path, 2, conditions={"quiet": 1.0, name: 3.0}, label="earlier")
    for path in (tmp_path / "trial" / "ratings").glob("sub-000[23]*_lesion.json"):
        content = json.loads(path.read_text())
        content["Conditions"][name] = conditions_of(settings(tmp_path, *words))[0].described
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
