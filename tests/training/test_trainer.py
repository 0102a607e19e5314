"""The validation figure against its definition over the whole brain."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from prepared_pairs import write_pairs
from problems import ball_pair, small_options, trainer_of

from h2lo_bids.training.methods.operators import OperatorTrainer
from h2lo_bids.training.pairs import (
    map_pair,
    open_prepared,
    prepared_range,
    read_prepared,
    training_range,
)
from h2lo_bids.training.trainer import Validation

PAIRS = [ball_pair("a", 1), ball_pair("b", 2)]
MASKS = [p.mask for p in PAIRS]


def reference(predicted: list[np.ndarray], where: list[np.ndarray]) -> float:
    errors = [
        (np.clip(u, 0, 1) - p.lf)[w] ** 2 for u, p, w in zip(predicted, PAIRS, where, strict=True)
    ]
    return -10 * math.log10(np.concatenate(errors).mean())


def test_figures_equal_the_whole_brain():
    # Tiles of 2 voxels: those skipped, less than an eighth brain, hold no brain at all.
    validation = Validation(PAIRS, small_options(crop=2, validation_crops=10**6))
    assert validation.baseline() == pytest.approx(reference([p.hf for p in PAIRS], MASKS), abs=1e-4)
    task = trainer_of(OperatorTrainer, PAIRS, PAIRS, validation.options)
    with torch.no_grad():
        whole = [task.fitted()(torch.from_numpy(p.hf)[None, None])[0, 0].numpy() for p in PAIRS]
    assert task.validate() == pytest.approx(reference(whole, MASKS), abs=1e-3)


@pytest.mark.parametrize("which", ["crops", "volume"])
def test_without_pairs_there_is_no_figure(which):
    empty = Validation([], small_options(validation=which))
    assert math.isnan(empty.baseline())
    assert math.isnan(empty.figure(lambda volume, mask: volume))


def test_the_figure_of_a_product_is_that_of_its_voxels():
    """Of a product that is known; the identity has the baseline's figure."""
    validation = Validation(PAIRS, small_options(validation_crops=3))
    asked = [np.zeros(p.shape, bool) for p in PAIRS]

    def brighter(volume, mask):
        index = [np.array_equal(volume, p.hf) for p in PAIRS].index(True)
        assert not (asked[index] & mask).any()
        asked[index] |= mask
        return np.where(mask, volume + 0.3, 7)

    found = validation.figure(brighter)
    assert found == pytest.approx(reference([p.hf + np.float32(0.3) for p in PAIRS], asked))
    assert validation.figure(lambda volume, mask: volume) == pytest.approx(validation.baseline())


def test_the_baseline_is_that_of_the_images_as_the_files_are(tmp_path):
    """As in the tables, however a model takes them."""
    prepared = write_pairs(tmp_path, 2)
    held = {how: open_prepared(prepared, tmp_path / how, how) for how in ("max", "robust")}
    own, scaled = (Validation(pairs, small_options()) for pairs in held.values())
    assert scaled.figure(lambda volume, mask: volume) < own.baseline() - 0.1
    assert scaled.baseline() == own.baseline()
    again = [map_pair(pair.kept, pair.name) for pair in held["robust"]]  # as other processes do
    assert Validation(again, small_options()).baseline() == own.baseline()


def test_the_range_of_prepared_pairs_follows_their_files(tmp_path):
    """Whether it was kept by an earlier fit or not."""
    prepared, cache = write_pairs(tmp_path, 1), tmp_path / "cache"

    def expected(scaling):
        pairs, spacing = map(read_prepared, prepared), prepared[0].frame.spacing
        return training_range(pairs, prepared[0].contrast, spacing, scaling=scaling)

    first = expected("max")
    assert prepared_range(prepared, cache, "max") == first
    assert prepared_range(prepared, cache, "robust") == expected("robust") != first
    assert prepared_range(prepared, cache, "max") == first
    for kept in cache.iterdir():
        kept.write_text("[")
    assert prepared_range(prepared, cache, "max") == first
    image = nib.load(prepared[0].lf)
    nib.save(nib.Nifti1Image(image.get_fdata() / 2, image.affine), prepared[0].lf)
    assert prepared_range(prepared, cache, "max") == expected("max") != first


def test_whole_volume_validation_is_the_mean_of_the_pairs():
    options = small_options(validation="volume")
    task = trainer_of(OperatorTrainer, PAIRS, PAIRS, options)
    found, baseline = [], []
    for pair in PAIRS:
        with torch.no_grad():
            made = task.fitted()(torch.from_numpy(pair.hf)[None, None])[0, 0].numpy()
        for values, source in ((found, made), (baseline, pair.hf)):
            error = np.where(pair.mask, np.clip(source, 0, 1), 0) - pair.lf
            values.append(-10 * math.log10((error.astype(float) ** 2).mean()))
    assert task.validate() == pytest.approx(np.mean(found), abs=1e-4)
    assert task.validation.baseline() == pytest.approx(np.mean(baseline), abs=1e-4)
