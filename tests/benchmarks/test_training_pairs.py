"""Simulated pairs: their scanners, ranges, alignment, repeatability."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from shapes import shelled
from training_pairs import (
    MISREGISTRATION,
    TrainingPair,
    draw_high_field,
    misregistration,
    signal_of_other,
    simulate_training_pairs,
    spoiled_echo,
)

from h2lo_bids.phantom.anatomy import Anatomy, brain_mask
from h2lo_bids.phantom.physics import NAMES, TISSUES

SHAPE = (80, 80, 80)


def test_other_scanners_have_the_contrasts_of_real_ones():
    at = [NAMES.index(name) for name in ("white", "cortex", "csf")]
    found: dict[str, list[np.ndarray]] = {"T1w": [], "T2w": []}
    for contrast, ratios in found.items():
        for seed in (*range(200), 1446):  # whose first T1w train does not fit its repetition
            sequence = draw_high_field(contrast, np.random.default_rng(seed))
            values = signal_of_other(sequence, TISSUES)[at]
            ratios.append(values[1:] / values[0])
    (grey, fluid), (grey2, fluid2) = (np.array(v).T for v in found.values())
    assert 0.5 <= grey.min() < 0.55 < 0.8 < grey.max() <= 0.9
    assert fluid.max() <= 0.6
    assert 1.1 <= grey2.min() < 1.3 < 1.6 < grey2.max() <= 1.8
    assert 2 <= fluid2.min() < 3 < 4.5 < fluid2.max() <= 5


def test_spoiled_echo_peaks_at_the_ernst_angle():
    t1, tr = 900.0, 15.0
    angles = np.linspace(1, 60, 5901)
    best = angles[np.argmax([float(spoiled_echo(t1, 80, 1, tr=tr, te=0, flip=a)) for a in angles])]
    assert best == pytest.approx(np.degrees(np.arccos(np.exp(-tr / t1))), abs=0.02)


def test_misregistration_has_its_size():
    rng = np.random.default_rng(4)
    points = rng.normal(size=(4000, 3))
    points *= 60 / np.linalg.norm(points, axis=1, keepdims=True)
    for _ in range(2):
        matrix = misregistration(rng)
        moved = points @ matrix[:3, :3].T + matrix[:3, 3]
        got = np.sqrt(np.mean(np.sum((moved - points) ** 2, axis=1)))
        assert got == pytest.approx(MISREGISTRATION, rel=0.05)


@pytest.fixture(scope="module")
def small() -> Anatomy:
    """Return a ball of 72 mm at 1 mm, which a small frame can hold."""
    return shelled({6: 4, 20: 2, 27: 3, 30: 24, 33: 515, 36: 511}, 80, 1.0)


def simulated(head: Anatomy | Path, contrast: str, seed: int, **more: object) -> TrainingPair:
    options = {"contrasts": (contrast,), "frame_shape": SHAPE, "strength": 0.0, **more}
    return simulate_training_pairs(head, seed=seed, **options)[contrast]


@pytest.fixture(scope="module")
def both(small: Anatomy) -> dict[str, TrainingPair]:
    """A pair of each contrast of one seed; to be read only."""
    return simulate_training_pairs(small, seed=1, frame_shape=SHAPE, strength=0.0)


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_pairs_are_aligned_brains_alone(small, both, contrast):
    pair = both[contrast]
    np.testing.assert_array_equal(pair.mask, brain_mask(small))
    for image in (pair.inputs[0], pair.lf):
        assert image.dtype == np.float32
        assert image.shape == SHAPE
        assert image.min() >= 0.0
        assert not image[~pair.mask].any()
    # The centre of the fluid-filled hole is seen in the middle of both images.
    where = np.indices(SHAPE) - 39.5
    near = np.sqrt(np.sum(where**2, axis=0)) < 14
    for image in (pair.inputs[0], pair.lf):
        weight = np.abs(image - np.median(image[near])) * near
        centre = [float((w * weight).sum() / weight.sum()) for w in where]
        assert np.linalg.norm(centre) < 1.5


def test_low_field_is_smoother_than_high_field(both):
    one = both["T1w"]

    def steepness(image):
        return float(np.abs(np.diff(image, axis=2))[one.mask[..., 1:]].mean() / image.std())

    (hf,) = one.inputs
    assert steepness(one.lf) < steepness(hf)
    assert np.corrcoef(hf[one.mask], one.lf[one.mask])[0, 1] > 0.7


@pytest.mark.slow
def test_one_seed_is_one_person_in_both_contrasts(small, both):
    alone = simulated(small, "T2w", 1)
    np.testing.assert_array_equal(both["T2w"].inputs, alone.inputs)
    np.testing.assert_array_equal(both["T2w"].lf, alone.lf)
    assert not np.array_equal(simulated(small, "T2w", 2, strength=1.0).mask, alone.mask)


def test_more_inputs_are_of_other_scanners_and_one_target(small, both, tmp_path):
    path = tmp_path / "head.nii.gz"  # a label map is read from its path
    nib.save(nib.Nifti1Image(small.labels, small.affine), path)
    three, one = simulated(path, "T1w", 1, inputs=3), both["T1w"]
    np.testing.assert_array_equal(one.inputs[0], three.inputs[0])
    np.testing.assert_array_equal(one.lf, three.lf)
    assert len(three.inputs) == 3
    a, b, c = (image[three.mask] for image in three.inputs)
    for x, y in ((a, b), (a, c), (b, c)):
        assert 0.5 < np.corrcoef(x, y)[0, 1] < 0.9999
    # In units of white matter: shell 2 and 41 of the ball.
    white = three.mask & np.isin(small.labels, (2, 41))
    assert np.median(three.lf[white]) == pytest.approx(1, abs=0.1)
