"""Pairs for training: ranges, alignment, repeatability."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.phantom.anatomy import Anatomy, brain_mask
from h2lo_bids.phantom.pairs import TrainingPair, simulate_training_pairs

SHAPE = (80, 80, 80)


def simulated(head: Anatomy | str, contrast: str, seed: int, **more: object) -> TrainingPair:
    options = {"contrasts": (contrast,), "frame_shape": SHAPE, "strength": 0.0, **more}
    return simulate_training_pairs(head, seed=seed, **options)[contrast]


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_pairs_are_normalised_and_aligned(small: Anatomy, contrast: str) -> None:
    pair = simulated(small, contrast, 1)
    np.testing.assert_array_equal(pair.mask, brain_mask(small))
    for image in (pair.hf, pair.lf):
        assert image.dtype == np.float32
        assert image.shape == SHAPE
        assert image.max() == 1.0
        assert image.min() >= 0.0
        assert not image[~pair.mask].any()
    # The centre of the fluid-filled hole is seen in the middle of both images.
    where = np.indices(SHAPE) - 39.5
    near = np.sqrt(np.sum(where**2, axis=0)) < 14
    for image in (pair.hf, pair.lf):
        weight = np.abs(image - np.median(image[near])) * near
        centre = [float((w * weight).sum() / weight.sum()) for w in where]
        assert np.linalg.norm(centre) < 1.5


def test_low_field_is_smoother_than_high_field(small: Anatomy) -> None:
    pair = simulated(small, "T1w", 2)

    def steepness(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=2))[pair.mask[..., 1:]].mean() / image.std())

    assert steepness(pair.lf) < steepness(pair.hf)
    assert np.corrcoef(pair.hf[pair.mask], pair.lf[pair.mask])[0, 1] > 0.7


def test_a_label_map_is_read_from_its_path(small: Anatomy, tmp_path: Path) -> None:
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(small.labels, small.affine), path)
    given, read = simulated(small, "T1w", 2), simulated(str(path), "T1w", 2)
    np.testing.assert_array_equal(read.lf, given.lf)


@pytest.mark.slow
def test_one_seed_is_one_person_in_both_contrasts(small: Anatomy) -> None:
    both = simulate_training_pairs(small, seed=3, frame_shape=SHAPE)
    alone, other = (simulated(small, "T2w", seed, strength=1.0) for seed in (3, 4))
    np.testing.assert_array_equal(both["T2w"].hf, alone.hf)
    np.testing.assert_array_equal(both["T2w"].lf, alone.lf)
    np.testing.assert_array_equal(both["T1w"].mask, alone.mask)
    assert not np.array_equal(other.mask, alone.mask)


def test_more_inputs_are_of_other_scanners_and_one_target(small: Anatomy) -> None:
    one, three, raw, nominal = (
        simulated(small, "T1w", 6, **more)
        for more in ({}, {"inputs": 3}, {"inputs": 3, "normalise": False}, {"nominal": True})
    )
    np.testing.assert_array_equal(one.lf, nominal.lf)
    assert np.abs(one.hf - nominal.hf).max() > 0.02
    assert len(three.inputs) == 3
    np.testing.assert_array_equal(one.hf, three.hf)
    np.testing.assert_array_equal(one.lf, three.lf)
    a, b, c = (image[three.mask] for image in three.inputs)
    for x, y in ((a, b), (a, c), (b, c)):
        assert 0.5 < np.corrcoef(x, y)[0, 1] < 0.9999
    for scaled, plain in zip((*three.inputs, three.lf), (*raw.inputs, raw.lf), strict=True):
        assert plain.dtype == np.float32
        assert not plain[~raw.mask].any()
        np.testing.assert_allclose(scaled, plain / plain.max(), atol=1e-6)
    # In units of white matter: shell 2 and 41 of the ball.
    assert np.median(raw.lf[raw.mask & np.isin(small.labels, (2, 41))]) == pytest.approx(1, abs=0.1)
