"""Simulated pairs: their scanners, ranges, alignment, repeatability."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def both(small: Anatomy) -> dict[str, TrainingPair]:
    """A pair of each contrast of one seed; to be read only."""
    return simulate_training_pairs(small, seed=1, frame_shape=SHAPE, strength=0.0)


def test_pairs_are_aligned_brains_alone(small, both):
    # The centre of the fluid-filled hole is seen in the middle of all images.
    where = np.indices(SHAPE) - 39.5
    near = np.sqrt(np.sum(where**2, axis=0)) < 14
    for pair in both.values():
        np.testing.assert_array_equal(pair.mask, brain_mask(small))
        (hf,) = pair.inputs
        for image in (hf, pair.lf):
            assert (image.dtype, image.shape) == (np.float32, SHAPE)
            assert image.min() >= 0.0
            assert not image[~pair.mask].any()
            weight = np.abs(image - np.median(image[near])) * near
            centre = [float((w * weight).sum() / weight.sum()) for w in where]
            assert np.linalg.norm(centre) < 1.5
        inside = pair.mask[..., 1:]
        steep = [np.abs(np.diff(v, axis=2))[inside].mean() / v.std() for v in (hf, pair.lf)]
        assert steep[0] > steep[1]  # low field is smoother
        assert np.corrcoef(hf[pair.mask], pair.lf[pair.mask])[0, 1] > 0.5


def test_more_inputs_are_of_other_scanners_and_one_target(small, both, tmp_path):
    path = tmp_path / "head.nii.gz"  # a label map is read from its path
    nib.save(nib.Nifti1Image(small.labels, small.affine), path)
    how = {"contrasts": ("T2w",), "frame_shape": SHAPE, "strength": 0.0}  # the same alone
    three, one = simulate_training_pairs(path, seed=1, inputs=3, **how)["T2w"], both["T2w"]
    np.testing.assert_array_equal(one.inputs[0], three.inputs[0])
    np.testing.assert_array_equal(one.lf, three.lf)
    assert len(three.inputs) == 3
    a, b, c = (image[three.mask] for image in three.inputs)
    for x, y in ((a, b), (a, c), (b, c)):
        assert 0.5 < np.corrcoef(x, y)[0, 1] < 0.9999
    # In units of white matter: shell 2 and 41 of the ball.
    white = three.mask & np.isin(small.labels, (2, 41))
    assert np.median(three.lf[white]) == pytest.approx(1, abs=0.1)
