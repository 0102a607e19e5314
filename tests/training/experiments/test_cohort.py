"""A cohort's derivatives become pairs, and no test subject gets into any stage."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from heads import make
from prepared_pairs import FRAME, SHAPE, fold_of, write_pair, write_pairs, write_scan
from problems import SMALL, ball_pair
from scipy.ndimage import rotate
from skeletons import scan_at

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.cli.pairs import unprepared
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.io import write_json
from h2lo_bids.models.bundle import METADATA, Bundle, default_bundle, load_bundle, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import FitTask
from h2lo_bids.training.experiments.cohort import Cohort, find_cohort, split_cohort
from h2lo_bids.training.experiments.crossvalidation import run_fold
from h2lo_bids.training.experiments.fits import job_of_fold, plan_folds, run_fit
from h2lo_bids.training.experiments.leaks import check_no_leak, training_subjects
from h2lo_bids.training.pairs import find_prepared

SHA = default_bundle("T1w").sha256


def asking(folder: Path, **how: Any) -> Settings:
    """The settings of an enhancer of a group, but for some."""
    usual = {"bids_dir": folder, "out_dir": folder / "out", "level": "group", "task": "enhance"}
    return Settings(**{**usual, "device": "cpu", **how})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cohort"
    write_scan(folder, "u1", 11, ("lowfield", "lowfieldnoise01", "lowfieldnoise02"))
    write_scan(folder, "u2", 12, ("lowfield", "lowfieldstd"))
    # Other grids' images are not taken for scans of their own.
    other = folder / "sub-u1" / "ses-A" / "anat"
    (other / "sub-u1_ses-A_res-model_desc-preproc_T1w.nii.gz").write_bytes(b"")
    return folder


def test_pairs_are_on_the_frame_centred_and_normalised(root, tmp_path):
    cohort = Cohort(find_cohort([root], "T1w"), seed=1)
    said: list[str] = []

    def pairs(cohort):
        opened = cohort.open(FRAME, tmp_path / "cache", say=said.append)
        return {pair.name: pair for part in opened for pair in part}

    made_of = pairs(cohort)
    assert len(made_of) == len(said) == 4
    first = made_of["u1_ses-A_T1w_lowfield"]
    assert (first.shape, first.task) == (SHAPE, "enhance")
    given = ball_pair("u1", 11, (26, 20, 22))
    # Axes in RAS order, no voxel interpolated: the same brain voxels in mirrored order.
    for made, source in ((first.hf, given.lf), (first.lf, given.hf)):
        brain = source[::-1][given.mask[::-1]]
        np.testing.assert_allclose(made[first.mask], brain / brain.max(), atol=1e-3)
        assert not made[~first.mask].any()
    low, high = (np.argwhere(first.mask).min(0), np.argwhere(first.mask).max(0))
    assert np.abs((low + high) / 2 - (np.array(SHAPE) - 1) / 2).max() <= 0.5
    assert ({n: p.kept for n, p in pairs(cohort).items()}, len(said)) == (
        {n: p.kept for n, p in made_of.items()}, 4
    )  # fmt: skip
    write_scan(root, "u2", 99)
    name = "u2_ses-A_T1w_lowfield"
    assert pairs(cohort)[name].kept != made_of[name].kept


def test_a_given_model_makes_the_low_field_images(root, tmp_path):
    bundle = fold_bundle(tmp_path)
    cohort = Cohort(find_cohort([root], "T1w", low=False), bundle=bundle)
    (pair,), (held,) = cohort.open(FRAME, tmp_path / "c")
    assert {pair.name, held.name} == {"u1_ses-A_T1w_identity", "u2_ses-A_T1w_identity"}
    np.testing.assert_array_equal(pair.hf, pair.lf)  # the identity's
    with pytest.raises(UsageError, match="is on another grid than the pairs"):
        cohort.open(Frame(SHAPE), tmp_path / "c")


def test_a_model_that_makes_nothing_is_blamed_not_the_scan(root, tmp_path):
    model = H2lo(SMALL).eval()
    model.bias.data.fill_(-9.0)
    bundle = save_bundle(tmp_path / "m", model, contrast="T1w", frame=FRAME, metadata={}, card="x")
    cohort = Cohort(find_cohort([root], "T1w"), bundle=bundle)
    with pytest.raises(BadDataError, match=r"/m: makes an empty image of sub-u\d_ses-A_desc-prep"):
        cohort.open(FRAME, tmp_path / "cache")


def test_the_split_is_by_subject_and_seed():
    labels = [f"{n:03d}" for n in range(10)]
    train, held = split_cohort(labels, 42)
    assert (len(train), len(held)) == (8, 2)
    assert sorted(train + held) == labels
    assert split_cohort(labels[::-1], 42) == (train, held)
    assert len({split_cohort(labels, seed)[1] for seed in range(20)}) > 5
    assert split_cohort(["a"], 1) == (("a",), ())


def test_what_is_wrong_is_one_line(root, refused):
    def line(kind):
        return refused(kind, find_cohort, [root], "T1w")

    with pytest.raises(UsageError, match="no desc-preproc image of T2w; run the participant"):
        find_cohort([root], "T2w")
    anat = root / "sub-u2" / "ses-A" / "anat"
    write_scan(root, "u2", 12, sha256="")
    assert "does not say which model made the image" in line(BadDataError)
    for sidecar in root.glob("sub-*/*/anat/*desc-lowfield*.json"):  # high-field images as they are
        told = {"ModelMethod": "identity", "ModelName": "identity_T1w", "ModelSha256": SHA}
        sidecar.write_text(json.dumps(told))
    assert "no synthesized desc-lowfield image of T1w" in line(UsageError)
    (anat / "sub-u2_ses-A_desc-lowfield_T1w.json").unlink()
    assert "sub-u2_ses-A_desc-lowfield_T1w.json: cannot be read" in line(BadDataError)


def test_a_cohort_of_another_scale_than_the_pairs_is_told(root, tmp_path):
    """The same heads are 15 to 20 dB apart between both scales."""
    pairs = write_pairs(tmp_path / "out", 3)
    settings = asking(tmp_path, folds="0")

    def warnings(*roots):
        sources, said = tuple(pair.sources[0] for pair in pairs), []
        plan_folds(replace(settings, pretrain_derivatives=roots), {"T1w": sources}, said.append)
        return [event["text"] for event in said if event.get("level") == "warning"]

    other = tmp_path / "other"
    write_scan(other, "u3", 13, scaling="robust")
    assert warnings(root) == []
    (line,) = warnings(root, other)
    assert line.startswith(
        "T1w: the images to pretrain on are scaled by two tissues, and pairs are"
    )
    with pytest.raises(UsageError, match=r"sub-u3_.*: is scaled by two .* with --method identity"):
        find_cohort([root, other], "T1w", low=False)


def fold_bundle(tmp_path: Path) -> Bundle:
    """A bundle of a real fold: 01 and 02 trained, 03 validated, 04 was tested."""
    job = fold_of(write_pairs(tmp_path / "out", 4), tmp_path, method="identity")
    return load_bundle(run_fold(job) / "bundle")


def test_no_test_subject_gets_into_any_stage(root, tmp_path):
    bundle = fold_bundle(tmp_path)
    pairs = write_pairs(tmp_path / "out", 4)
    cohort = Cohort(find_cohort([root], "T1w"), bundle=bundle)

    def check(tested, cohort=cohort, bundles=(bundle,)):
        check_no_leak(tested, cohort, bundles)

    check(pairs[3:])
    # Whoever trained or chose the model may not be tested.
    for index, label in ((0, "01"), (2, "03")):
        with pytest.raises(UsageError, match=f"was trained on sub-{label}, a test subject"):
            check(pairs[index : index + 1])
    # Another site has a sub-01, too: its image is another person's.
    write_pair(tmp_path / "site", "01", 101)
    check(find_prepared(tmp_path / "site", contrast="T1w"))
    # The same person, whose head lay otherwise in another session.
    write_pair(tmp_path / "turned", "01", 1)
    (turned,) = find_prepared(tmp_path / "turned", contrast="T1w")
    image = nib.load(turned.hf)
    data = rotate(image.get_fdata(), 15, (1, 2), reshape=False, order=1)
    nib.save(nib.Nifti1Image(data.astype(np.float32), image.affine), turned.hf)
    with pytest.raises(UsageError, match="was trained on sub-01, a test subject, or one of that"):
        check([turned])
    # The same fold's model, tampered with: it does not say.
    path = bundle.path / METADATA
    told = json.loads(path.read_text())
    del told["training_data"]["subjects"]
    path.write_text(json.dumps(told))
    with pytest.raises(UsageError, match="does not say whom it was trained on"):
        check(pairs[3:], bundles=[load_bundle(bundle.path)])
    # Images that a model made of which nothing is known here.
    check(pairs[3:], Cohort(cohort.scans))  # the embedded model made these
    write_scan(root, "u2", 12, sha256="1" * 64)
    unknown = Cohort(find_cohort([root], "T1w"))
    with pytest.raises(UsageError, match=r"mine \(111111111111\).* is unknown here"):
        check(pairs[3:], unknown)
    check((), unknown)  # nobody is tested


def test_the_enhancer_of_a_group_is_pretrained_on_what_participant_wrote(root, tmp_path):
    pairs = write_pairs(tmp_path / "out", 3)
    how = {"pretrain_derivatives": (root,), "schedule_factor": 1e-3, "features": 2}
    settings = asking(tmp_path, folds="0", **how)
    sources = tuple(pair.sources[0] for pair in pairs)
    plan = plan_folds(settings, {"T1w": sources}, silent)["T1w"]
    assert (plan.folds, len(plan.held)) == ((), 1)
    run_fit(FitTask(settings, "T1w", "pfsr", plan, None, 1), silent)
    bundle = load_bundle(tmp_path / "out/models/pfsr_T1w", task="enhance")
    training = bundle.metadata["training_data"]
    assert training["subjects"]["validation"] == [*plan.held]
    # Whom it has seen in pretraining is a training subject, too.
    cohort = find_cohort((root,), "T1w")
    assert training["subjects"]["cohort"] == sorted({scan.subject for scan in cohort})
    assert training_subjects(bundle) >= {scan.subject for scan in cohort}
    assert {*training["fingerprints"]} == training_subjects(bundle)
    stages = settings.work.glob("training/T1w/pfsr/final_*/*/last.pt")
    assert {path.parent.name for path in stages} == {"pretrain", "finetune"}


def test_the_simulator_of_a_cohort_is_found_in_a_folder_of_models(tmp_path):
    job = fold_of(write_pairs(tmp_path / "out", 4), tmp_path, method="arnold")
    shutil.copytree(run_fold(job) / "bundle", tmp_path / "models" / "mine_T1w")
    maker = load_bundle(tmp_path / "models" / "mine_T1w")
    write_scan(tmp_path / "made", "u1", 11, sha256=maker.sha256)
    for given in (maker.path, tmp_path / "models"):
        how = {"pretrain_derivatives": (tmp_path / "made",), "model": (("T1w", given),)}
        settings = asking(tmp_path, out_dir=tmp_path / "other", **how)
        job_of_fold(settings, "T1w", "pfsr", job.fold, job.pairs)  # 04 is tested
        seen = Fold(0, ("03", "04"), ("02",), ("01",))
        with pytest.raises(UsageError, match="was trained on sub-01, a test subject"):
            job_of_fold(settings, "T1w", "pfsr", seen, job.pairs)


def silent(event: dict) -> None:
    """Send nothing on."""


@pytest.fixture
def simulated(root: Path, tmp_path: Path) -> tuple:
    """Return pairs, their sources, and the settings of a benchmark with a simulator's first fold.

    The last settings are those of the arm that is pretrained on its images of a cohort.
    """
    pairs = write_pairs(tmp_path / "out", 4)
    settings = Settings(
        bids_dir=tmp_path, out_dir=tmp_path / "out", level="benchmark", method=("arnold",),
        folds="2", steps=4, device="cpu",
    )  # fmt: skip
    sources = {"T1w": tuple(pair.sources[0] for pair in pairs)}
    plan = plan_folds(settings, sources, silent)["T1w"]
    run_fit(FitTask(settings, "T1w", "arnold", plan, plan.folds[0], 1), silent)
    how = {"schedule_factor": 1e-3, "features": 2, "steps": None, "pretrain_derivatives": (root,)}
    arms = replace(settings, task="enhance", method=(), arm=("arnold",), **how)
    return pairs, sources, settings, arms


def test_leaks_are_refused_before_anything_is_fitted(simulated, tmp_path):
    pairs, sources, _, arms = simulated
    first = replace(arms, fold=(0,))
    plan = plan_folds(first, sources, silent)["T1w"]
    (tested,) = (pair for pair in pairs if pair.subject == plan.folds[0].test[0])
    # Of its label; and its image under another name, which is found once it is read.
    write_scan(tmp_path / "same", tested.subject, 12)
    same = replace(first, pretrain_derivatives=(tmp_path / "same",))
    with pytest.raises(UsageError, match=f"sub-{tested.subject} is a test subject, too"):
        plan_folds(same, sources, silent)
    write_scan(tmp_path / "twin", "c9", 12)
    for kind, image in (("preproc_T1w", tested.hf), ("brain_mask", tested.mask)):
        shutil.copy(image, tmp_path / f"twin/sub-c9/ses-A/anat/sub-c9_ses-A_desc-{kind}.nii.gz")
    twin = replace(first, pretrain_derivatives=(tmp_path / "twin",))
    with pytest.raises(UsageError, match=r"c9.* have the same high-field image"):
        run_fit(FitTask(twin, "T1w", "pfsr-arnold", plan, plan.folds[0], 1), silent)
    # Of the model that is to make the cohort's images.
    record = tmp_path / "out/folds/T1w/arnold/fold-0/bundle" / METADATA
    told = json.loads(record.read_text())
    told["training_data"]["subjects"]["train"] += plan.folds[0].test
    record.write_text(json.dumps(told))
    with pytest.raises(UsageError, match=r"was trained on sub-.*, a test subject"):
        plan_folds(first, sources, silent)
    assert not [*first.work.glob("training/T1w/pfsr-*/**/last.pt")]


def test_an_arm_takes_the_model_of_its_fold_and_of_its_pairs(simulated, tmp_path):
    _, sources, settings, arms = simulated
    with pytest.raises(UsageError, match="fold-1/bundle: is missing, and the arm arnold") as told:
        plan_folds(replace(arms, resolution=2.0), sources, silent)
    # Without the run's other options, the command would prepare the pairs on another grid.
    words = shlex.split(str(told.value).partition("make it first: h2lo ")[2])
    assert read_settings(words) == replace(settings, steps=None, resolution=2.0)
    first = replace(arms, fold=(0,))
    plan = plan_folds(first, sources, silent)["T1w"]  # the other fold may come later
    run_fit(FitTask(first, "T1w", "pfsr-arnold", plan, plan.folds[0], 1), silent)
    # What is made for one fold alone is not kept: 15 GB per fold of 184 heads at 1 mm.
    assert not [*first.work.glob("training/pairs/cohort/*")]
    assert plan_folds(first, sources, silent)["T1w"].done == {("pfsr-arnold", 0)}
    collected = plan_folds(replace(arms, collect=True), sources, silent)["T1w"]
    assert collected.done == {("pfsr-arnold", 0)}
    with pytest.raises(UsageError, match=r"\(option --features.* remove .*/T1w/pfsr-arnold$"):
        plan_folds(replace(first, features=3), sources, silent)
    write_pair(tmp_path / "out", "01", 1, Fingerprint="of other masks")
    with pytest.raises(UsageError, match=r"prepared otherwise, .* as --protocol"):
        plan_folds(first, sources, silent)


def test_pairs_that_an_arms_model_was_fitted_to_are_not_prepared_otherwise(tmp_path):
    (pair,), images = write_pairs(tmp_path / "out", 1), []
    for name in ("sub-01_T1w.nii.gz", "sub-01_acq-low_T1w.nii.gz"):
        make(path := tmp_path / "sub-01" / "anat" / name, text="of other scans or options")
        images.append(scan_at(path))
    folder = result_path(tmp_path / "out", "fold", contrast="T1w", method="arnold", fold=0)
    settings = asking(tmp_path, level="benchmark", arm=("arnold",))
    sources = (PairSource(images[0], (images[1],)),)
    assert unprepared(settings, sources) == (images[0].stem,)
    write_json(folder / "record.json", {"pairs": {pair.record.stem: pair.fingerprint}})
    assert unprepared(replace(settings, task="synthesize", method=("inr",)), sources)
    assert unprepared(replace(settings, arm=("real",)), sources)
    with pytest.raises(UsageError, match=r"fold-0: was fitted to .* otherwise"):
        unprepared(settings, sources)
    for level, more in (("benchmark", {"method": ("arnold",)}), ("evaluate", {})):
        with pytest.raises(UsageError, match=r"fold-0: was fitted to .* --resolution, another"):
            unprepared(replace(settings, level=level, task="synthesize", **more), sources)
