"""The other task: folds, models and scores of pairs with input and target swapped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import nibabel as nib
import numpy as np
import pytest
from heads import write_bundle
from prepared_pairs import final_of, fold_of, write_pairs
from problems import tiny_options

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation import metrics
from h2lo_bids.evaluation.benchmark import row_values
from h2lo_bids.evaluation.scores import Score, read_scores
from h2lo_bids.models.bundle import load_bundle
from h2lo_bids.training.experiments.crossvalidation import CurveJob, fold_done, run_fold
from h2lo_bids.training.experiments.final import fit_final
from h2lo_bids.training.experiments.heldout import detail_of, score_pair
from h2lo_bids.training.experiments.scoring import score_models
from h2lo_bids.training.pairs import Pair, PreparedPair, open_prepared, read_prepared

OPTIONS = tiny_options("pfsr", steps=2, validate_every=2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedPair, ...]:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4)


def test_input_and_target_change_places_and_the_foreground_stays(pairs, tmp_path):
    plain, swapped = read_prepared(pairs[0]), read_prepared(pairs[0].for_task("enhance"))
    for made, given in ((swapped.hf, plain.lf), (swapped.lf, plain.hf)):
        np.testing.assert_array_equal(made, given)
    # From the fits' cache, which both tasks share.
    stored = open_prepared([pairs[0], pairs[0].for_task("enhance")], tmp_path)
    assert len([*tmp_path.iterdir()]) == 1
    assert isinstance(stored[0].hf, np.memmap)
    for made, given in ((stored[0].hf, plain.hf), (stored[1].hf, plain.lf)):
        np.testing.assert_allclose(made, given, atol=1e-3)
    np.testing.assert_array_equal(stored[0].lf, stored[1].hf)
    np.testing.assert_array_equal(stored[0].hf, stored[1].high_field)
    # Made again by another version, whose pairs may have the same bytes.
    open_prepared([dataclasses.replace(pairs[0], fingerprint="of another version")], tmp_path)
    assert len([*tmp_path.iterdir()]) == 2
    # Made again from files that have changed; what cannot be read is named.
    hf = nib.load(pairs[0].hf)
    changed = dataclasses.replace(pairs[0], hf=tmp_path / "hf.nii.gz")
    nib.Nifti1Image(hf.get_fdata() / 2, hf.affine).to_filename(changed.hf)
    np.testing.assert_allclose(open_prepared([changed], tmp_path)[0].hf, plain.hf / 2, atol=3e-4)
    changed.hf.write_bytes(b"cut off")
    with pytest.raises(BadDataError, match=r"hf\.nii\.gz: cannot be read"):
        open_prepared([changed], tmp_path)
    # Histograms where the high-field image is above 0.01, whatever the input is there.
    dark = dataclasses.replace(swapped, hf=np.zeros_like(plain.lf))
    counted = metrics.histogram(np.zeros_like(plain.hf), plain.hf > 0.01)
    expected = metrics.wasserstein(counted, metrics.histogram(plain.hf, plain.hf > 0.01))
    assert score_pair(dark, dark.hf)[0].values["wass"] == pytest.approx(expected)


def whole_psnr(scores: Sequence[Score]) -> dict[str, float]:
    return {s.method: s.values["psnr"] for s in scores if s.region == "whole"}


def test_a_fold_enhances_and_is_told_as_such(pairs, tmp_path):
    own = fold_of(pairs, tmp_path, method="pfsr", options=OPTIONS)
    folder = run_fold(own)
    assert fold_done(own)
    assert not (folder / "realism.tsv").exists()  # the target is no low-field image
    record = json.loads((folder / "record.json").read_text())
    assert (record["task"], record["options"]["family"]) == ("enhance", "pfsr")
    # Of the test subject; voxels of 8 mm carry no band of the columns.
    assert record["detail"] == [{"identity": {}, "pfsr": {}}]
    # The baseline is the low-field image, compared with the high-field one.
    pair = read_prepared(pairs[3])
    found = whole_psnr(read_scores(folder / "scores.tsv"))
    assert found["identity"] == pytest.approx(metrics.psnr(pair.lf, pair.hf), abs=1e-3)
    assert '"LF image"' in (folder / "scores.json").read_text()
    pictures = np.load(folder / "pictures.npz")
    np.testing.assert_allclose(pictures["04/lf"][0], pair.hf[:, :, 11], atol=1e-3)  # the target
    bundle = load_bundle(folder / "bundle", task="enhance")
    assert (bundle.method, bundle.metadata["source_field_strength"]) == ("pfsr", 0.064)
    for told in ('"LF image" is the low-field image', "64 mT to 3 T", "Not for diagnosis", "eight"):
        assert told in " ".join(bundle.card.split())
    assert "| LF image |" in bundle.card
    assert "| HF image |" not in bundle.card
    assert "task" not in fold_of(pairs, tmp_path).identity()  # as before there were two


def test_a_final_model_is_scored_on_pairs_of_its_task_and_with_models_of_it(pairs, tmp_path):
    bundle = fit_final(final_of(pairs[:3], tmp_path, OPTIONS, method="pfsr"))
    assert (bundle.path.name, bundle.task) == ("pfsr_T1w", "enhance")
    how = {"out_dir": tmp_path / "scored", "send": print, "lost": print}
    whole = whole_psnr(score_models([("mine", bundle)], pairs[3:], **how))
    pair = read_prepared(pairs[3])
    assert whole["identity"] == pytest.approx(metrics.psnr(pair.lf, pair.hf))
    assert whole["mine"] != whole["identity"]
    other = load_bundle(write_bundle(tmp_path / "m", "T1w"))
    with pytest.raises(UsageError, match="is trained to synthesize, others to enhance"):
        score_models([("mine", bundle), ("m", other)], pairs, **how)


def test_the_curve_is_the_mean_at_each_grey_level(pairs, tmp_path):
    own = fold_of(pairs, tmp_path, CurveJob, method="pfsr-curve")
    run_fold(own)
    assert fold_done(own)
    levels: dict[int, list[float]] = {}
    for pair in map(read_prepared, pairs[:2]):
        for low, high in zip(pair.lf[pair.mask], pair.hf[pair.mask], strict=True):
            levels.setdefault(round(float(low) * 200), []).append(float(high))
    tested, known = read_prepared(pairs[3]), sorted(levels)
    assert len(known) < 201  # others lie between their neighbours
    made = np.interp(tested.lf * 200, known, [np.mean(levels[k]) for k in known]) * tested.mask
    found = whole_psnr(read_scores(own.folder / "scores.tsv"))
    assert found["pfsr-curve"] == pytest.approx(metrics.psnr(made, tested.hf), abs=1e-3)
    assert found["identity"] == pytest.approx(metrics.psnr(tested.lf, tested.hf), abs=1e-3)


def test_detail_is_correlated_band_by_band():
    x = np.arange(70)[:, None, None]
    mask = np.ones((70, 40, 40), bool)
    coarse, fine = (np.cos(2 * np.pi * x * f) * mask for f in (1 / 7, 1 / 5))  # 3.5, 2.5 mm
    pair = Pair("a", 0.5 + 0.2 * coarse, 0.5 + 0.2 * coarse + 0.2 * fine, mask)
    images = {"identity": pair.hf, "pfsr-real": 0.5 + 0.1 * coarse - 0.3 * fine}
    detail = detail_of(pair, images, (1.0, 1.0, 1.0))
    assert detail["pfsr-real"] == pytest.approx({"detail_3mm": 1, "detail_2mm": -1}, abs=0.1)
    assert detail["identity"]["detail_3mm"] == pytest.approx(1, abs=0.05)
    bright = {"over": 4 * pair.hf - 1, "cut": np.clip(4 * pair.hf - 1, 0, 1)}
    assert bright["over"].max() > 1
    detail_over, detail_cut = detail_of(pair, bright, (1.0, 1.0, 1.0)).values()
    assert detail_over == detail_cut
    # On voxels of 2.5 mm half-pitches below are not known. A method's column is the mean.
    assert [*detail_of(pair, images, (2.5, 2.5, 2.5))["identity"]] == ["detail_3mm"]
    records = [{"detail": [detail, {"pfsr-real": {"detail_2mm": 0.0}}]}]
    assert row_values("pfsr-real", [], records, 1)["detail_2mm"] == pytest.approx(-0.5, abs=0.05)
    assert row_values("identity", [], (), 1, records)["detail_3mm"] == pytest.approx(1, abs=0.05)
    # No mean of some folds only.
    assert row_values("pfsr-real", [], [*records, {}], 2)["detail_2mm"] is None
