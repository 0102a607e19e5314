"""Conditions, their images, and what a trial does with one scan, on made-up images."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from heads import white_noise
from shapes import stored
from skeletons import anat, scan_at

from h2lo_bids.bids.derivatives import result_files
from h2lo_bids.bids.discover import Discovery, ImageSource
from h2lo_bids.cli.checks import check_models_and_templates, check_usage, check_values
from h2lo_bids.cli.participant import SubjectTask
from h2lo_bids.cli.subject import examine
from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.outputs import NATIVE, output_paths
from h2lo_bids.reports.records import ScanReport
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.trial.condition import Condition, Images, conditions_of
from h2lo_bids.trial.scan import RECIPE, Examination
from h2lo_bids.trial.study import REGIONS


def settings(tmp_path, *condition, level="trial", **more):
    given = {"labels": (("lesion", tmp_path),), "out_dir": tmp_path / "out", **more}
    return Settings(tmp_path, level=level, condition=tuple(condition), **given)


def test_memory_that_a_label_takes_costs_its_scan_alone(tmp_path, monkeypatch):
    def costly(_, scan, found):
        if scan.suffix == "T1w":
            raise MemoryError
        return ()

    done = SimpleNamespace(run=lambda: SimpleNamespace(notes=[], rows=[[0] * 18]))
    monkeypatch.setattr("h2lo_bids.trial.scan.Examination", lambda _: done)
    monkeypatch.setattr("h2lo_bids.trial.condition.Images", lambda *_: ())
    monkeypatch.setattr("h2lo_bids.trial.report.draw_lesions", costly)  # the last step
    scans = [scan_at(tmp_path / "bids" / anat("01", None, suffix)) for suffix in ("T1w", "T2w")]
    found = Discovery(sources=tuple(ImageSource(scan, (scan,)) for scan in scans))
    records = [ScanReport(s.stem, s.relative_path, s.entities, s.suffix) for s in scans]
    task = SubjectTask(settings(tmp_path), "01", found, tmp_path)
    failed, (first, second) = examine(task, records, print)
    assert [(item.scan, item.exit_code) for item in failed] == [(scans[0].relative_path, 75)]
    assert first == records[0]
    assert second.regions


def test_a_word_without_equals_begins_a_condition(tmp_path):
    words = "thin lf-grid=2x2x2 thick lf-grid=1.6x1.6x5 noise-scale=2 slice-profile=gauss"
    thin, thick = conditions_of(settings(tmp_path, *words.split(), realisations=7))
    assert thin == Condition("thin", (2, 2, 2), realisations=7)
    assert thick == Condition("thick", (1.6, 1.6, 5), "gauss", None, 2, 7)
    assert [c.name for c in conditions_of(settings(tmp_path))] == ["scanner"]
    assert conditions_of(settings(tmp_path, level="participant")) == ()
    check_values(settings(tmp_path, "a", "b", "lf-grid=2x2x4", **THICK))
    check_values(settings(tmp_path, "a", "lf-grid=2x2x2", **GRIDS))
    check_values(settings(tmp_path, level="participant", **GRIDS))
    one = conditions_of(settings(tmp_path, "noise2", level="participant", realisations=1))
    assert one == (Condition("noise2", realisations=1),)


IDENTITY = replace(
    default_bundle("T1w", method="identity"), frame=Frame((20, 22, 24), (6.0, 6.0, 6.0))
)
"""On a grid as coarse as that of `images_of`."""
GRIDS = {"lf_grid": ((2.0, 2.0, 2.0), (1.6, 1.6, 5.0))}
THICK = {"slice_thickness": 8.0}


@pytest.mark.parametrize(
    ("words", "more", "line"),
    [
        ("a colour=2", {}, "the keys are lf-grid"),
        ("lf-grid=2x2x2", {}, "give the condition's name first"),
        ("lowfield", {}, "not one that other outputs have"),
        ("a a", {}, "not one that other outputs have"),
        ("a-b", {}, "letters and digits"),
        ("a anoise01", {}, "not one that other outputs have"),
        ("a slice-profile=round", {}, "the profiles are box"),
        ("a realisations=0", {}, "the observer needs noise"),
        ("a lf-grid=2x2x2 b slice-thickness=8", {}, "b: slice-profile and slice-thickness"),
        ("a noise-scale=2", THICK, "add --lf-grid"),
        ("a lf-grid=2x2x2 b", GRIDS, "lf-grid=XxYxZ for each"),
        ("", {"labels": ()}, "give --labels"),
        ("", {"labels": (("a", Path()), ("aT2w", Path()))}, "--labels aT2w: a name is of"),
    ],
)
def test_a_condition_that_makes_no_sense_is_one_line(tmp_path, words, more, line, refused):
    assert line in refused(UsageError, check_values, settings(tmp_path, *words.split(), **more))


def box(*ends):
    """Mark voxels on the grid of `images_of`."""
    mask = np.zeros((16, 18, 20), np.uint8)
    mask[tuple(slice(*pair) for pair in ends)] = 1
    return mask


def images_of(root, models, *words, level="trial", side=6.0, labels=("x",), threads=1):
    """Give the trial's images of a scan that is there, of a model."""
    given = tuple((name, root / name if len(labels) > 1 else root) for name in labels)
    options = Settings(root, root / "out", level, labels=given, condition=words, realisations=2)
    scan, affine = scan_at(root / "sub-01_T1w.nii.gz"), np.diag([side, side, side, 1])
    brain = box((3, 13), (3, 15), (3, 17))
    data = (50 + 50 * np.random.default_rng(0).random(brain.shape)) * brain
    data[8, 8, 8] = 1000
    paths = output_paths(root / "out", scan, (NATIVE,))
    arrays = dict.fromkeys(paths.values(), data) | {paths["mask"]: brain}
    # One volume of four dimensions, as converters write it.
    for path, array in {**arrays, scan.path: data[..., None]}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(stored(array, affine), path)
    how = EngineOptions(threads=threads)
    return Images(scan, options, how, lambda c: models[c.model and c.model.name])


def test_a_model_of_the_same_weights_that_is_used_otherwise_makes_another_image(tmp_path):
    robust = replace(IDENTITY, metadata=IDENTITY.metadata | {"scaling": "robust"})
    models = {None: IDENTITY}  # one voxel decides its scale
    *_, dark = images_of(tmp_path, models, "c").write()
    models[None] = robust
    *_, bright = images_of(tmp_path, models, "c").write()
    assert dark.data[dark.brain].mean() < 0.2 < 0.5 < bright.data[bright.brain].mean()
    models |= {"m": IDENTITY, "n": robust}
    *_, dark, bright = images_of(tmp_path, models, "dnoise", "model=m", "d", "model=n").write()
    assert list(tmp_path.rglob("*_desc-dnoise_T1w.nii.gz"))  # no draw of "d"
    assert dark.data[dark.brain].mean() < 0.2 < 0.5 < bright.data[bright.brain].mean()


def test_a_model_that_a_condition_cannot_use_is_told_before_the_work(tmp_path, refused):
    (bids := tmp_path / "raw").mkdir()

    def check(words, **more):
        asked = settings(bids, "a", words, out_dir=tmp_path / "out", **more)
        check_usage(asked)
        return check_models_and_templates(asked, ("T1w", "T2w"), print)

    model, plain = default_bundle("T1w").path, {"method": ("identity",)}
    for words, more, line in (
        (f"model={model}", {}, "a folder with a model for each contrast, or --contrast T1w"),
        (f"model={model}/weights.safetensors", {}, "is a part of a model; give the model's folder"),
        ("realisations=2", plain, "no noise model for the realisations of"),
    ):
        assert line in refused(UsageError, check, words, **more)
    assert check("realisations=0", level="participant", **plain)


def noisy(deviation):
    """Give a model of white noise on the grid of `images_of`."""
    noise = asdict(white_noise(deviation, (6.0,) * 3, (16, 18, 20)))
    return replace(IDENTITY, metadata=IDENTITY.metadata | {"noise": noise})


def test_conditions_of_one_grid_have_the_noise_of_their_models(tmp_path):
    models = {"quiet": noisy(0.0), "loud": noisy(0.02)}
    images = images_of(tmp_path, models, "a", "model=quiet", "b", "model=loud")
    for _, image, made in images.realisations(images.write(), 2):
        added = (made - image.data)[image.brain].std()
        assert added == pytest.approx({"a": 0, "b": 0.02}[image.name], rel=0.3)


def test_draws_of_another_noise_scale_are_not_left_beside_the_new_ones(tmp_path):
    models, plain = {None: noisy(0.02), "plain": IDENTITY}, ("d", "model=plain", "realisations=0")
    for words, count in (("realisations=3", 3), ("realisations=2", 3), ("noise-scale=2", 2)):
        images_of(tmp_path, models, "c", words, *plain, level="participant").write()
        drawn = [path.name.split("_desc-")[1][:8] for path in tmp_path.rglob("*_desc-*noise*")]
        assert sorted(drawn) == sorted([f"cnoise{n:02d}" for n in range(1, count + 1)] * 2)


def save_label(root, kind, data, side):
    path = root / anat("01", None, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(stored(data > 0, np.diag([side, side, side, 1])), path)


def examined(root, lesion, *words, side=6.0, threads=1):
    """Examine images whose model has some noise, with a mask of lesions; return the notes."""
    save_label(root, "mask", lesion, side)
    images = images_of(root, {None: noisy(0.02)}, *words, side=side, threads=threads)
    return Examination(images).run().notes


def test_a_run_that_resumes_tells_the_same_and_keeps_ratings_of_its_recipe(tmp_path, monkeypatch):
    lesion = box((4, 12), (4, 14), (4, 16))  # nearly all of the brain
    told = [examined(tmp_path, lesion, "c")]
    assert sum("1 of 1 lesions have no healthy place" in text for text in told[0]) == 1
    table, *_ = result_files(tmp_path / "out", "trial_ratings", scan="sub-01_T1w_x")
    table.write_text(earlier := "of an earlier release")
    for recipe in (RECIPE, RECIPE + 1):
        monkeypatch.setattr("h2lo_bids.trial.scan.RECIPE", recipe)
        told.append(examined(tmp_path, lesion, "c", threads=2))  # of another --nprocs
        assert (table.read_text() == earlier) == (recipe == RECIPE)
    assert told[0] == told[1] == told[2]


def test_the_ring_of_a_region_holds_no_lesion_of_another_label(tmp_path):
    region, lesion = box((6, 8), (8, 10), (8, 12)), box((9, 11), (7, 11), (7, 13))  # beside it
    save_label(tmp_path / "a", "dseg", region, 2.0)
    save_label(tmp_path / "b", "mask", lesion, 2.0)
    images = images_of(tmp_path, {None: noisy(0.02)}, side=2.0, labels=("a", "b"))
    high, *_ = images.write()
    bright = np.where(lesion, 1e3, high.data)  # and unlike any tissue
    for path in (images.paths["preproc"], images.paths["lowfield_native"]):
        nib.save(stored(bright, high.affine), path)
    row = next(row for row in Examination(images).run().rows if row[2] == "a")
    assert row[list(REGIONS).index("hf_contrast")] > -0.4


def test_lesions_that_a_grid_does_not_show_are_counted(tmp_path):
    lesion = box(*[(3, n, n - 7) for n in (16, 18, 20)])  # corners: 15 mm voxels reach as far out
    notes = examined(tmp_path, lesion, "c", "lf-grid=15x6x6")
    (note,) = (text for text in notes if "not in the brain of c" in text)
    assert "all, 1, 2 and 6 more" in note
    (note, *_) = examined(tmp_path / "whole", box((3, 13), (3, 15), (3, 17)), "c")
    assert "x all, 1: not in the brain of highfield, or without healthy brain around" in note


def test_a_label_is_what_fills_the_voxels_whatever_the_slices_of_conditions(tmp_path):
    lesion = box((7, 9), (8, 10), (10, 14))  # all of the slice from 20 to 25 mm, 3 mm of the next
    thin, thick = (
        (f"c{kind}", "lf-grid=2x2x5", f"slice-profile={kind}") for kind in ("box", "gauss")
    )
    measured = []
    for number, words in enumerate((thick, thin + thick)):
        examined(root := tmp_path / str(number), lesion, *words, side=2.0)
        (path,) = root.rglob("*_res-2x2x5_desc-x_probseg.nii.gz")
        share = nib.load(path).get_fdata(dtype=np.float32)
        assert share[share > 0] == pytest.approx([1, 0.6] * 4)
        assert "box slice profile of 5 mm" in Path(str(path)[:-7] + ".json").read_text()
        (table,) = root.rglob("*_desc-regions_stats.tsv")
        lines = table.read_text().splitlines()
        measured.append([line for line in lines if line.startswith("cgauss")])
    assert measured[0] == measured[1] != []
