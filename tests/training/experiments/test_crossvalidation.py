"""Folds and final models from prepared pairs on disk to bundles, on tiny grids."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from prepared_pairs import final_of, fold_of, whole_psnr, write_pair, write_pairs
from problems import history, small_options, tiny_options, vector

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation import metrics
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.splits import make_folds
from h2lo_bids.io import write_json
from h2lo_bids.models.bundle import Bundle, load_bundle, load_model, members
from h2lo_bids.training.experiments import crossvalidation
from h2lo_bids.training.experiments.crossvalidation import (
    FoldJob,
    changes,
    fold_done,
    read_record,
    run_fold,
)
from h2lo_bids.training.experiments.final import final_steps, fit_final
from h2lo_bids.training.experiments.heldout import score_pair
from h2lo_bids.training.pairs import PreparedPair, find_prepared, open_prepared, read_prepared

COUNT = 5


def jobs_of(root: Path, pairs: tuple[PreparedPair, ...], **changes: object) -> tuple[FoldJob, ...]:
    folds = make_folds([p.subject for p in pairs], folds=3, seed=1)
    return tuple(fold_of(pairs, root, fold=fold, **changes) for fold in folds)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoldJob, ...]:
    """Three folds that have run; to be read only."""
    root = tmp_path_factory.mktemp("finished")
    noise = [{"Deviation": 0.1, "Voxel": [2.0, 2.0, 2.0]}]
    jobs = jobs_of(root, write_pairs(root / "out", COUNT, ScanNoise=noise))
    for job in jobs:
        run_fold(job)
    return jobs


def array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, np.float64)


def card_of(bundle: Bundle) -> str:
    return " ".join(bundle.card.split())


@pytest.mark.slow
def test_scores_are_those_of_the_bundle_on_the_test_subjects(finished):
    job = finished[0]
    scores = read_scores(job.folder / "scores.tsv")
    assert {(s.subject, s.method, s.fold, s.region) for s in scores} == {
        (subject, method, 0, region)
        for subject in job.fold.test
        for method in ("identity", "h2lo")
        for region in ("foreground", "whole")
    }
    model = load_model(load_bundle(job.folder / "bundle", contrast="T1w"))
    record = read_record(job.folder)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    best = max((r for r in history(job.folder) if r["psnr"]), key=lambda r: float(r["psnr"]))
    assert record["best_step"] == int(best["step"])
    whole = whole_psnr(job.folder)
    for pair in job.pairs_in("test"):
        hf, lf, mask = array(pair.hf), array(pair.lf), array(pair.mask) > 0
        with torch.no_grad():
            out = model(torch.from_numpy(hf).float()[None, None])[0, 0].numpy() * mask
        for method, image in (("identity", hf), ("h2lo", np.clip(out, 0, 1))):
            psnr = -10 * np.log10(((image - lf) ** 2).mean())
            assert whole[pair.subject, method] == pytest.approx(psnr, abs=1e-3)


@pytest.mark.slow
def test_the_same_fold_is_skipped_and_what_lacks_made_again(tmp_path, finished):
    job, said = finished[2], []
    assert fold_done(dataclasses.replace(job, devices=2))
    first = dataclasses.replace(job.pairs[0], fingerprint="of another scan")
    other = dataclasses.replace(job, pairs=(first, *job.pairs[1:]))
    assert other.work != job.work
    division = dataclasses.replace(finished[0].fold, index=2)
    for another, differs in (
        (dataclasses.replace(job, options=small_options(steps=9)), ("option steps",)),
        (dataclasses.replace(job, options=small_options(device="auto")), ()),
        (dataclasses.replace(job, fold=division), ("the division of the subjects",)),
        (other, ("pair sub-01",)),
    ):
        assert changes(another) == differs
    copy = dataclasses.replace(job, out_dir=tmp_path)
    shutil.copytree(job.folder, copy.folder)
    assert fold_done(copy)
    (copy.folder / "scores.tsv").unlink()
    assert not fold_done(copy)
    run_fold(copy, said.append)
    assert said[0].endswith("making its results anew: some are missing")
    assert fold_done(copy)
    # A time budget is another option whether it comes or goes.
    timed = dataclasses.replace(copy, options=small_options(max_seconds=60.0))
    for there, asked in ((timed, copy), (copy, timed)):
        told = {**there.method_options(), **dataclasses.asdict(there.adapted)}
        write_json(there.folder / "record.json", {**there.identity(), "options": told})
        assert (changes(there), changes(asked)) == ((), ("option --max-time",))


def test_a_subject_without_a_pair_and_two_grids(tmp_path):
    job = fold_of(write_pairs(tmp_path / "out", 4), tmp_path)
    pairs = job.pairs
    lacking = dataclasses.replace(job, pairs=tuple(p for p in pairs if p.subject != "02"))
    with pytest.raises(UsageError, match="sub-02 has no T1w pair"):
        run_fold(lacking)
    frame = dataclasses.replace(pairs[0].frame, shape=(24, 24, 25))
    mixed = (*pairs[:-1], dataclasses.replace(pairs[-1], frame=frame))
    with pytest.raises(UsageError, match=r"on another grid than .*; prepare all pairs with one"):
        run_fold(dataclasses.replace(job, pairs=mixed))


@pytest.mark.slow
def test_the_final_model_of_a_cross_validation(finished, tmp_path):
    first, best = finished[0], np.median([read_record(job.folder)["best_step"] for job in finished])
    how = {"out_dir": tmp_path, "folds": finished, "carries": True}
    job = final_of(first.pairs, tmp_path, first.options, **how)
    assert final_steps(job) == best
    # With a longer schedule the same part of it.
    longer = dataclasses.replace(job, options=small_options(steps=80))
    assert final_steps(longer) == 10 * best
    bundle = fit_final(job)
    assert bundle.path == tmp_path / "models" / "h2lo_T1w"
    m = bundle.metadata
    assert m["training_data"]["kind"] == "simulated"
    assert m["training_data"]["subjects"]["train"] == [f"{n:02d}" for n in range(1, COUNT + 1)]
    assert (m["source_field_strength"], m["target_field_strength"]) == (3.0, 0.064)
    assert m["noise"]["scan"] == pytest.approx(0.1 * np.sqrt(8), rel=1e-3)  # in voxels of 1 mm³
    assert m["frame"] == first.pairs[0].frame.to_dict()
    # The figures are means over folds of means over subjects.
    means = []
    for fold in finished:
        found = whole_psnr(fold.folder)
        means.append(np.mean([found[subject, "h2lo"] for subject in fold.fold.test]))
    figures = m["cross_validation"]
    assert figures["mean"]["h2lo"]["psnr"] == pytest.approx(np.mean(means))
    assert figures["std"]["h2lo"]["psnr"] == pytest.approx(np.std(means))
    assert [f["h2lo"]["psnr"] for f in figures["per_fold"]] == pytest.approx(means)
    assert set(figures["mean"]) == {"identity", "h2lo"}
    for phrase in ("simulated pairs, not on real", "Cross-validation: 3 models", "Nobody was left"):
        assert phrase in card_of(bundle)
    for model, fold in zip(members(bundle), finished, strict=True):
        kept = load_model(load_bundle(fold.folder / "bundle"))
        assert torch.equal(vector(kept), vector(model))
    # Once more: nothing to do; without members: packaged again from the same fit.
    said: list[str] = []
    assert fit_final(job, said.append) == bundle
    assert said == ["T1w h2lo final model: done already"]
    bare = fit_final(dataclasses.replace(job, carries=False))
    assert bare.sha256 == bundle.sha256
    assert members(bare) == ()


@pytest.mark.parametrize(
    ("seconds", "limit", "steps", "best", "part"),
    [
        (90, None, 50, 20, 0.4),  # the whole schedule
        (90, None, 30, 20, 0.4),  # its validation no longer rose
        (100, 100, 10, 4, 0.4),  # time ended it, and the schedule with it
        (50, 100, 10, 4, 0.2),  # half of the time was enough
        (50, 100, 50, 20, 0.4),  # there was time to spare
    ],
)
def test_the_final_model_takes_the_part_of_the_schedule_in_which_folds_were_best(
    seconds, limit, steps, best, part
):
    options = {"steps": 50, "max_seconds": limit}
    record = {"best_step": best, "steps": steps, "seconds": seconds, "options": options}
    job: Any = SimpleNamespace(folds=(1,), records=[record], adapted=SimpleNamespace(steps=100))
    assert final_steps(job) == 100 * part


@pytest.mark.slow
def test_a_fold_says_what_it_started_from_and_why_it_ended(tmp_path, finished, monkeypatch):
    start = load_bundle(finished[0].folder / "bundle")
    options = small_options(
        steps=40, learning_rate=1e-9, floor=1e-9, validate_every=2, patience=7,
        starts_from=start.sha256,
    )  # fmt: skip
    check = {"Flagged": True, "Reasons": ["dice 0.5"], "Figures": {"dice": 0.5}}
    pairs = write_pairs(tmp_path / "out", COUNT, RegistrationCheck=check)  # which were asked for
    job = jobs_of(tmp_path, pairs, options=options, initial=start)[0]
    run_fold(job)
    record, made = read_record(job.folder), load_bundle(job.folder / "bundle")
    assert "01: doubtful registration: dice 0.5" in record["warnings"]
    assert (record["steps"], record["stalled"], record["timed_out"]) == (8, True, False)
    known = {"name": "h2lo_T1w_fold-0", "sha256": start.sha256, "pairs": "simulated"}
    assert record["initial"] == made.metadata["training"]["initial"] == known
    told = made.metadata["training_data"]["description"]
    assert told.endswith(", from the weights of h2lo_T1w_fold-0 (simulated pairs)")
    before, after = (vector(load_model(bundle)) for bundle in (start, made))
    torch.testing.assert_close(after, before, atol=1e-7, rtol=0)
    for phrase in (
        "started from the weights of h2lo_T1w_fold-0, a model of simulated pairs",
        "ended at step 8, as the validation PSNR had risen by no more than 0.02 dB in 7",
    ):
        assert phrase in card_of(made)
    other = dataclasses.replace(options, starts_from="0" * 64)
    assert changes(dataclasses.replace(job, options=other)) == ("option --init",)
    # Processes that share the fit start from it, too, on the same pairs.
    given = []

    def stand_in(train, *_, initial, processes, **more):
        given.append(([pair.name for pair in train], initial, processes))

    monkeypatch.setattr(crossvalidation, "launch", stand_in)
    dataclasses.replace(job, devices=2).fit(tmp_path / "shared", print)
    assert given == [([*job.fold.train], start.path, 2)]


@pytest.mark.slow
def test_without_folds_some_subjects_choose_the_weights(tmp_path):
    pairs = write_pairs(tmp_path / "out", 3, Simulated=False)
    options = small_options(steps=6, validate_every=2)
    bundle = fit_final(final_of(pairs, tmp_path, options, "02", method="h2lo-mlp"))
    assert (bundle.method, bundle.architecture["trunk"]) == ("h2lo-mlp", "mlp")
    assert bundle.metadata["cross_validation"] is None
    data = bundle.metadata["training_data"]
    people = {"train": ["01", "03"], "validation": ["02"]}
    assert (data["kind"], data["subjects"]) == ("real", people)
    assert bundle.metadata["training"]["best_psnr"] > 0
    card = card_of(bundle)
    assert "fitted without cross-validation" in card
    assert "Trained on real pairs" in card
    assert "simulated" not in card


def test_cards_of_mixed_pairs_and_unknown_fields(tmp_path):
    write_pair(tmp_path / "out", "09", 9, Simulated=False)
    for subject in ("01", "02"):
        write_pair(
            tmp_path / "out", subject, int(subject),
            MagneticFieldStrength=None, InputMagneticFieldStrength=None, Fusion="none",
            RegistrationMethod="none, registered already",
        )  # fmt: skip
    pairs = find_prepared(tmp_path / "out", contrast="T1w")
    bundle = fit_final(final_of(pairs, tmp_path, small_options(steps=1)))
    assert bundle.metadata["training_data"]["kind"] == "simulated"
    assert bundle.metadata["training_data"]["description"] == (
        "3 T1w pairs (2 of them simulated) of 3 subjects at 3 T and 64 mT "
        "(low field: three scans fused in 1 of them)"
    )
    assert bundle.metadata["training"]["best_psnr"] is None  # nobody was left to choose by
    assert "the last ones were kept" in card_of(bundle)
    pairs[1].record.unlink()  # while it is fitted
    metadata = fit_final(final_of(pairs[:2], tmp_path, small_options(steps=1))).metadata
    assert metadata["source_field_strength"] is None
    assert metadata["training_data"]["description"].endswith(
        "unknown field strength (low field: images registered before)"
    )


def test_input_and_target_change_places_and_the_foreground_stays(tmp_path):
    pairs, cache = write_pairs(tmp_path / "out", 1), tmp_path / "cache"
    both = [pairs[0], dataclasses.replace(pairs[0], task="enhance")]
    plain, swapped = map(read_prepared, both)
    for made, given in ((swapped.hf, plain.lf), (swapped.lf, plain.hf)):
        np.testing.assert_array_equal(made, given)
    # From the fits' cache, which both tasks share.
    stored = open_prepared(both, cache)
    assert len([*cache.iterdir()]) == 1
    assert isinstance(stored[0].hf, np.memmap)
    for made, given in ((stored[0].hf, plain.hf), (stored[1].hf, plain.lf)):
        np.testing.assert_allclose(made, given, atol=1e-3)
    np.testing.assert_array_equal(stored[0].lf, stored[1].hf)
    np.testing.assert_array_equal(stored[0].hf, stored[1].high_field)
    # Made again by another version, whose pairs may have the same bytes.
    open_prepared([dataclasses.replace(pairs[0], fingerprint="of another version")], cache)
    assert len([*cache.iterdir()]) == 2
    # Made again from files that have changed; what cannot be read is named.
    hf = nib.load(pairs[0].hf)
    changed = dataclasses.replace(pairs[0], hf=tmp_path / "hf.nii.gz")
    nib.Nifti1Image(hf.get_fdata() / 2, hf.affine).to_filename(changed.hf)
    np.testing.assert_allclose(open_prepared([changed], cache)[0].hf, plain.hf / 2, atol=3e-4)
    changed.hf.write_bytes(b"cut off")
    with pytest.raises(BadDataError, match=r"hf\.nii\.gz: cannot be read"):
        open_prepared([changed], cache)
    # Histograms where the high-field image is above 0.01, whatever the input is there.
    dark = dataclasses.replace(swapped, hf=np.zeros_like(plain.lf))
    counted = metrics.histogram(np.zeros_like(plain.hf), plain.hf > 0.01)
    expected = metrics.wasserstein(counted, metrics.histogram(plain.hf, plain.hf > 0.01))
    assert score_pair(dark, dark.hf)[0].values["wass"] == pytest.approx(expected)


def test_a_fold_enhances_and_is_told_as_such(tmp_path):
    pairs = write_pairs(tmp_path / "out", 4)
    options = tiny_options("pfsr", steps=2, validate_every=2)
    own = fold_of(pairs, tmp_path, method="pfsr", options=options)
    folder = run_fold(own)
    assert fold_done(own)
    assert not (folder / "realism.tsv").exists()  # the target is no low-field image
    record = read_record(own.folder)
    assert (record["task"], record["options"]["family"]) == ("enhance", "pfsr")
    # Of the test subject; voxels of 8 mm carry no band of the columns.
    assert record["detail"] == [{"identity": {}, "pfsr": {}}]
    # The baseline is the low-field image, compared with the high-field one.
    pair = read_prepared(pairs[3])
    psnr = metrics.psnr(pair.lf, pair.hf)
    assert whole_psnr(folder)["04", "identity"] == pytest.approx(psnr, abs=1e-3)
    assert '"LF image"' in (folder / "scores.json").read_text()
    pictures = np.load(folder / "pictures.npz")
    np.testing.assert_allclose(pictures["04/lf"][0], pair.hf[:, :, 11], atol=1e-3)  # the target
    bundle = load_bundle(folder / "bundle", task="enhance")
    assert (bundle.method, bundle.metadata["source_field_strength"]) == ("pfsr", 0.064)
    for told in ('"LF image" is the low-field image', "64 mT to 3 T", "Not for diagnosis", "eight"):
        assert told in card_of(bundle)
    assert "| LF image |" in card_of(bundle)
    assert "| HF image |" not in card_of(bundle)
    assert "task" not in fold_of(pairs, tmp_path).identity()  # as before there were two


def test_the_curve_is_the_mean_at_each_grey_level(tmp_path):
    pairs = write_pairs(tmp_path / "out", 4)
    own = fold_of(pairs, tmp_path, crossvalidation.CurveJob, method="pfsr-curve")
    run_fold(own)
    assert fold_done(own)
    levels: dict[int, list[float]] = {}
    for pair in map(read_prepared, pairs[:2]):
        for low, high in zip(pair.lf[pair.mask], pair.hf[pair.mask], strict=True):
            levels.setdefault(round(float(low) * 200), []).append(float(high))
    tested, known = read_prepared(pairs[3]), sorted(levels)
    assert len(known) < 201  # others lie between their neighbours
    made = np.interp(tested.lf * 200, known, [np.mean(levels[k]) for k in known]) * tested.mask
    for method, image in (("pfsr-curve", made), ("identity", tested.lf)):
        wanted = pytest.approx(metrics.psnr(image, tested.hf), abs=1e-3)
        assert whole_psnr(own.folder)["04", method] == wanted
