"""The validation figure against its definition over the whole brain."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from prepared_pairs import write_pairs
from problems import ball_pair, small_options, trainer_of

from h2lo_bids.errors import TemporaryError
from h2lo_bids.imaging.profile import ranges_of
from h2lo_bids.training.methods.operators import OperatorTrainer
from h2lo_bids.training.pairs import (
    PreparedPair,
    map_pair,
    measure_pair,
    open_prepared,
    prepared_range,
    read_prepared,
)
from h2lo_bids.training.trainer import Validation

PAIRS = [ball_pair("a", 1, (11, 13, 12)), ball_pair("b", 2, (11, 13, 12))]
MASKS = [p.mask for p in PAIRS]


def reference(predicted: list[np.ndarray], where: list[np.ndarray]) -> float:
    errors = [
        (np.clip(u, 0, 1) - p.lf)[w] ** 2 for u, p, w in zip(predicted, PAIRS, where, strict=True)
    ]
    return -10 * math.log10(np.concatenate(errors).mean())


@pytest.fixture
def prepared(tmp_path) -> PreparedPair:
    """A pair on disk whose input is a chequerboard: there is no receive field to correct."""
    (pair,) = write_pairs(tmp_path, 1)
    image = nib.load(pair.hf)
    bright = (np.indices(image.shape) // 4).sum(0) % 2
    hf = (0.8 - 0.4 * bright) * (image.get_fdata() > 0)
    nib.save(nib.Nifti1Image(hf.astype(np.float32), image.affine), pair.hf)
    return pair


@pytest.mark.parametrize("which", ["crops", "volume"])
def test_figures_equal_those_of_whole_volumes(which):
    # Tiles of 2 voxels: those skipped, less than an eighth brain, hold no brain at all.
    options = small_options(crop=2, validation_crops=10**6, validation=which)
    task = trainer_of(OperatorTrainer, PAIRS, PAIRS, options)
    with torch.no_grad():
        whole = [task.fitted()(torch.from_numpy(p.hf)[None, None])[0, 0].numpy() for p in PAIRS]

    def expected(made):
        if which == "crops":
            return reference(made, MASKS)
        errors = [
            np.where(p.mask, u.clip(0, 1), 0) - p.lf for u, p in zip(made, PAIRS, strict=True)
        ]
        return np.mean([-10 * math.log10((e.astype(float) ** 2).mean()) for e in errors])

    assert task.validate() == pytest.approx(expected(whole), abs=1e-3)
    assert task.validation.baseline() == pytest.approx(expected([p.hf for p in PAIRS]), abs=1e-4)
    assert math.isnan(Validation([], options).baseline())


def test_the_figure_of_a_product_is_that_of_its_voxels():
    """Of a product that is known; the identity has the baseline's figure."""
    validation = Validation(PAIRS, small_options(crop=5, validation_crops=3))
    asked = [np.zeros(p.shape, bool) for p in PAIRS]

    def brighter(volume, mask):
        index = [np.array_equal(volume, p.hf) for p in PAIRS].index(True)
        assert not (asked[index] & mask).any()
        asked[index] |= mask
        return np.where(mask, volume + 0.3, 7)

    found = validation.figure(brighter)
    assert found == pytest.approx(reference([p.hf + np.float32(0.3) for p in PAIRS], asked))
    assert validation.figure(lambda volume, mask: volume) == pytest.approx(validation.baseline())


def test_the_baseline_is_that_of_the_images_as_the_files_are(prepared, tmp_path):
    """As in the tables, however a model takes them."""
    held = {how: open_prepared([prepared], tmp_path / how, how) for how in ("max", "robust")}
    own, scaled = (Validation(pairs, small_options()) for pairs in held.values())
    assert scaled.figure(lambda volume, mask: volume) < own.baseline() - 0.1
    assert scaled.baseline() == own.baseline()
    again = [map_pair(pair.kept, pair.name) for pair in held["robust"]]  # as other processes do
    assert Validation(again, small_options()).baseline() == own.baseline()


def test_the_range_of_prepared_pairs_follows_their_files(prepared, tmp_path):
    """Whether it was kept by an earlier fit or not."""
    cache, spacing = tmp_path / "cache", prepared.frame.spacing

    def check(scaling):
        found = prepared_range([prepared], cache, scaling)
        measured = measure_pair(read_prepared(prepared), "T1w", spacing, scaling)
        assert found == ranges_of(*([one] for one in measured))
        return found

    first = check("max")
    assert check("robust") != first
    for kept in cache.iterdir():
        kept.write_text("[")
    assert check("max") == first
    image = nib.load(prepared.lf)
    nib.save(nib.Nifti1Image(image.get_fdata() / 2, image.affine), prepared.lf)
    assert check("max") != first


def test_a_pair_for_which_memory_is_too_small_is_not_called_damaged(prepared, monkeypatch, refused):
    monkeypatch.setattr(nib, "load", lambda path: np.empty(1 << 50))
    assert "memory ran out" in refused(TemporaryError, read_prepared, prepared)
