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
from prepared_pairs import FRAME, SHAPE, fit_first, plan_of, write_pair, write_pairs, write_scan
from problems import SMALL, ball_pair
from scipy.ndimage import rotate
from skeletons import scan_at

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.cli.pairs import unprepared
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.io import write_json
from h2lo_bids.models.bundle import METADATA, default_bundle, load_bundle, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.cohort import Cohort, find_cohort, split_cohort
from h2lo_bids.training.experiments.fits import job_of_fold
from h2lo_bids.training.experiments.leaks import check_no_leak, training_subjects
from h2lo_bids.training.pairs import find_prepared

BUNDLE = "folds/T1w/arnold/fold-0/bundle"


def asking(folder: Path, **how: Any) -> Settings:
    """The settings of an enhancer of a group, but for some."""
    usual = {"bids_dir": folder, "out_dir": folder / "out", "level": "group", "task": "enhance"}
    return Settings(**{**usual, "device": "cpu", **how})


def simulating(folder: Path) -> Settings:
    """The settings of a benchmark of a simulator."""
    how = {"level": "benchmark", "task": "synthesize", "method": ("arnold",)}
    return asking(folder, folds="2", steps=4, **how)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs that hold four pairs and a simulator of the first of two folds; to be read only."""
    root = tmp_path_factory.mktemp("fitted")
    write_pairs(root / "out", 4)
    fit_first(simulating(root), "arnold")
    return root / "out"


@pytest.fixture
def arms(fitted: Path, root: Path, tmp_path: Path) -> Settings:
    """The settings of the arm that is pretrained on the simulator's images, on a copy of all."""
    shutil.copytree(fitted, tmp_path / "out")
    how = {"schedule_factor": 1e-3, "features": 2, "steps": None, "pretrain_derivatives": (root,)}
    return replace(simulating(tmp_path), task="enhance", method=(), arm=("arnold",), **how)


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
    kept = {name: pair.kept for name, pair in made_of.items()}
    assert ({n: p.kept for n, p in pairs(cohort).items()}, len(said)) == (kept, 4)
    write_scan(root, "u2", 99)
    name = "u2_ses-A_T1w_lowfield"
    assert pairs(cohort)[name].kept != kept[name]


def test_a_given_model_makes_the_low_field_images(root, tmp_path):
    bundle = replace(default_bundle("T1w", method="identity"), frame=FRAME)
    cohort = Cohort(find_cohort([root], "T1w", low=False), bundle=bundle)
    (pair,), (held,) = cohort.open(FRAME, tmp_path / "c")
    assert {pair.name, held.name} == {"u1_ses-A_T1w_identity", "u2_ses-A_T1w_identity"}
    np.testing.assert_array_equal(pair.hf, pair.lf)  # the identity's
    with pytest.raises(UsageError, match="is on another grid than the pairs"):
        cohort.open(Frame(SHAPE), tmp_path / "c")
    model = H2lo(SMALL).eval()
    model.bias.data.fill_(-9.0)  # which makes nothing, and is no fault of the scan
    bundle = save_bundle(tmp_path / "m", model, contrast="T1w", frame=FRAME, metadata={}, card="x")
    with pytest.raises(BadDataError, match=r"/m: makes an empty image of sub-u\d_ses-A_desc-prep"):
        replace(cohort, bundle=bundle).open(FRAME, tmp_path / "c")


def test_the_split_is_by_subject_and_seed():
    labels = [f"{n:03d}" for n in range(10)]
    train, held = split_cohort(labels, 42)
    assert (len(train), len(held)) == (8, 2)
    assert sorted(train + held) == labels
    assert split_cohort(labels[::-1], 42) == (train, held)
    assert len({split_cohort(labels, seed)[1] for seed in range(20)}) > 5
    assert split_cohort(["a"], 1) == (("a",), ())


def test_what_is_wrong_is_one_line(root, refused):
    def line(kind, contrast="T1w"):
        return refused(kind, find_cohort, [root], contrast)

    assert "no desc-preproc image of T2w; run the participant" in line(UsageError, "T2w")
    anat = root / "sub-u2" / "ses-A" / "anat"
    write_scan(root, "u2", 12, sha256="")
    assert "does not say which model made the image" in line(BadDataError)
    for sidecar in root.glob("sub-*/*/anat/*desc-lowfield*.json"):  # high-field images as they are
        told = {"ModelMethod": "identity", "ModelName": "identity_T1w", "ModelSha256": "x"}
        sidecar.write_text(json.dumps(told))
    assert "no synthesized desc-lowfield image of T1w" in line(UsageError)
    (anat / "sub-u2_ses-A_desc-lowfield_T1w.json").unlink()
    assert "sub-u2_ses-A_desc-lowfield_T1w.json: cannot be read" in line(BadDataError)


def test_a_cohort_of_another_scale_than_the_pairs_is_told(fitted, root, tmp_path):
    """The same heads are 15 to 20 dB apart between both scales."""
    other = tmp_path / "other"
    write_scan(other, "u3", 13, scaling="robust")

    def warnings(*roots):
        said: list[dict] = []
        how = {"out_dir": fitted, "folds": "0", "pretrain_derivatives": roots}
        plan_of(asking(tmp_path, **how), said.append)
        return [event["text"] for event in said if event.get("level") == "warning"]

    assert warnings(root) == []
    (line,) = warnings(root, other)
    assert line.startswith(
        "T1w: the images to pretrain on are scaled by two tissues, and pairs are"
    )
    with pytest.raises(UsageError, match=r"sub-u3_.*: is scaled by two .* with --method identity"):
        find_cohort([root, other], "T1w", low=False)


def test_no_test_subject_gets_into_any_stage(fitted, root, tmp_path):
    bundle = load_bundle(fitted / BUNDLE)
    pairs = {pair.subject: pair for pair in find_prepared(fitted, contrast="T1w")}
    told = bundle.metadata["training_data"]["subjects"]
    trained, chose, tested = (told[part][0] for part in PARTS)
    cohort = Cohort(find_cohort([root], "T1w"), bundle=bundle)

    def check(pair, cohort=cohort, bundle=bundle):
        check_no_leak([pair], cohort, [bundle])

    check(pairs[tested])
    for label in (trained, chose):
        with pytest.raises(UsageError, match=f"was trained on sub-{label}, a test subject"):
            check(pairs[label])
    # Another site has a subject of that label, too: its image is another person's.
    write_pair(tmp_path / "site", trained, 101)
    check(*find_prepared(tmp_path / "site", contrast="T1w"))
    # The same person, whose head lay otherwise in another session.
    write_pair(tmp_path / "turned", trained, int(trained))
    (turned,) = find_prepared(tmp_path / "turned", contrast="T1w")
    image = nib.load(turned.hf)
    data = rotate(image.get_fdata(), 15, (1, 2), reshape=False, order=1)
    nib.save(nib.Nifti1Image(data.astype(np.float32), image.affine), turned.hf)
    with pytest.raises(UsageError, match=f"was trained on sub-{trained}, a test subject, or one"):
        check(turned)
    # The same fold's model, tampered with: it does not say.
    untold = replace(bundle, metadata={"training_data": {"kind": "simulated"}})
    with pytest.raises(UsageError, match="does not say whom it was trained on"):
        check(pairs[tested], bundle=untold)
    # Images that a model made of which nothing is known here.
    check(pairs[tested], Cohort(cohort.scans))  # the embedded model made these
    write_scan(root, "u2", 12, sha256="1" * 64)
    unknown = Cohort(find_cohort([root], "T1w"))
    with pytest.raises(UsageError, match=r"mine \(111111111111\).* is unknown here"):
        check(pairs[tested], unknown)
    check_no_leak((), unknown, ())  # nobody is tested
    # Unless its bundle is given, alone or in a folder of models, and has not seen whom it tests.
    shutil.copytree(bundle.path, tmp_path / "models" / "mine_T1w")
    write_scan(tmp_path / "made", "u1", 11, sha256=bundle.sha256)
    for given in (tmp_path / "models" / "mine_T1w", tmp_path / "models"):
        how = {"pretrain_derivatives": (tmp_path / "made",), "model": (("T1w", given),)}
        settings = asking(tmp_path, **how)
        fold = Fold(0, (trained,), (chose,), (tested,))
        job_of_fold(settings, "T1w", "pfsr", fold, tuple(pairs.values()))
        seen = replace(fold, train=(tested,), test=(trained,))
        with pytest.raises(UsageError, match=f"was trained on sub-{trained}, a test subject"):
            job_of_fold(settings, "T1w", "pfsr", seen, tuple(pairs.values()))


def test_the_enhancer_of_a_group_is_pretrained_on_what_participant_wrote(root, tmp_path):
    write_pairs(tmp_path / "out", 3)
    how = {"pretrain_derivatives": (root,), "schedule_factor": 1e-3, "features": 2}
    settings = asking(tmp_path, folds="0", **how)
    plan = fit_first(settings, "pfsr")
    assert (plan.folds, len(plan.held)) == ((), 1)
    bundle = load_bundle(tmp_path / "out/models/pfsr_T1w", task="enhance")
    training = bundle.metadata["training_data"]
    assert training["subjects"]["validation"] == [*plan.held]
    # Whom it has seen in pretraining is a training subject, too.
    assert training["subjects"]["cohort"] == ["u1", "u2"]
    assert {*training["fingerprints"]} == training_subjects(bundle) >= {"u1", "u2"}
    stages = settings.work.glob("training/T1w/pfsr/final_*/*/last.pt")
    assert {path.parent.name for path in stages} == {"pretrain", "finetune"}


def test_leaks_are_refused_before_anything_is_fitted(arms, tmp_path):
    first = replace(arms, fold=(0,))
    label, _ = plan_of(first).folds[0].test
    # Of its label; and its image under another name, which is found once it is read.
    write_scan(tmp_path / "same", label, 12)
    with pytest.raises(UsageError, match=f"sub-{label} is a test subject, too"):
        plan_of(replace(first, pretrain_derivatives=(tmp_path / "same",)))
    write_scan(tmp_path / "twin", "c9", 12)
    (tested,) = find_prepared(arms.out_dir, contrast="T1w", subjects=(label,))
    for kind, image in (("preproc_T1w", tested.hf), ("brain_mask", tested.mask)):
        shutil.copy(image, tmp_path / f"twin/sub-c9/ses-A/anat/sub-c9_ses-A_desc-{kind}.nii.gz")
    twin = replace(first, pretrain_derivatives=(tmp_path / "twin",))
    with pytest.raises(UsageError, match=r"c9.* have the same high-field image"):
        fit_first(twin, "pfsr-arnold")
    # Of the model that is to make the cohort's images.
    record = arms.out_dir / BUNDLE / METADATA
    told = json.loads(record.read_text())
    told["training_data"]["subjects"]["train"].append(label)
    record.write_text(json.dumps(told))
    with pytest.raises(UsageError, match=f"was trained on sub-{label}, a test subject"):
        plan_of(first)
    assert not [*first.work.glob("training/T1w/pfsr-*/**/last.pt")]


def test_an_arm_takes_the_model_of_its_fold_and_of_its_pairs(arms, tmp_path):
    with pytest.raises(UsageError, match="fold-1/bundle: is missing, and the arm arnold") as told:
        plan_of(replace(arms, resolution=2.0))
    # Without the run's other options, the command would prepare the pairs on another grid.
    words = shlex.split(str(told.value).partition("make it first: h2lo ")[2])
    assert read_settings(words) == replace(simulating(tmp_path), steps=None, resolution=2.0)
    first = replace(arms, fold=(0,))
    fit_first(first, "pfsr-arnold")  # the other fold may come later
    # What is made for one fold alone is not kept: 15 GB per fold of 184 heads at 1 mm.
    assert not [*first.work.glob("training/pairs/cohort/*")]
    for settings in (first, replace(arms, collect=True)):
        assert plan_of(settings).done == {("pfsr-arnold", 0)}
    with pytest.raises(UsageError, match=r"\(option --features.* remove .*/T1w/pfsr-arnold$"):
        plan_of(replace(first, features=3))
    write_pair(arms.out_dir, "01", 1, Fingerprint="of other masks")
    with pytest.raises(UsageError, match=r"prepared otherwise, .* as --protocol"):
        plan_of(first)


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
    evaluating = replace(settings, level="evaluate", task="synthesize")
    for refused in (settings, simulating(tmp_path), evaluating):
        with pytest.raises(UsageError, match=r"fold-0: was fitted to .* --resolution, another"):
            unprepared(refused, sources)
