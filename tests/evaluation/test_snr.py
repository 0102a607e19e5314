"""Noise and signal of images whose noise is known."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from h2lo_bids.evaluation.realism import noise_deviation, signal_to_noise, snr_of, tissue_levels

SHAPE = (60, 64, 40)


def brain():
    at = np.stack(np.mgrid[tuple(slice(n) for n in SHAPE)], -1)
    radius = (((at - np.array(SHAPE) / 2) / (26, 28, 17)) ** 2).sum(-1)
    return radius < 1, radius


def layers(levels=(0.2, 0.5, 0.8), blur=2):
    """Three tissues in shells, with borders as soft as those of a low-field scan."""
    mask, radius = brain()
    image = np.select([radius < 0.3, radius < 0.7], levels[:0:-1], levels[0])
    return gaussian_filter(image, blur), mask


@pytest.mark.parametrize("sigma", [0.005, 0.03])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_white_noise_on_anatomy_and_a_slope_is_found(sigma, axis):
    rng = np.random.default_rng(axis)
    image, mask = layers()
    slope = (
        np.linspace(0, 0.4, SHAPE[1])[None, :, None] + np.linspace(0, 0.3, SHAPE[0])[:, None, None]
    )
    noisy = image + slope + sigma * rng.standard_normal(SHAPE)
    spacing = [1.6] * 3
    spacing[axis] = 5.0
    assert noise_deviation(noisy, mask, spacing) == pytest.approx(sigma, rel=0.1)
    plain = noise_deviation(slope + sigma * rng.standard_normal(SHAPE), mask, spacing)
    assert plain == pytest.approx(sigma, rel=0.03)


def test_differences_are_taken_in_the_plane_of_the_slices_alone():
    """Slices of alternating brightness, as an interleaved scan has them."""
    mask, _ = brain()
    for axis in range(3):
        stripes = np.indices(SHAPE)[axis] % 2
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = 4.0
        assert noise_deviation(0.3 * stripes, mask, spacing) == pytest.approx(0, abs=1e-9)


def test_the_outside_is_not_noise_and_a_thin_mask_tells_nothing():
    mask, _ = brain()
    image = np.where(mask, 0.5, 0.0)
    assert noise_deviation(image, mask, (1, 1, 1)) == pytest.approx(0, abs=1e-9)
    thin = np.zeros(SHAPE, bool)
    thin[30] = True
    assert math.isnan(noise_deviation(image, thin, (1, 1, 1)))


def test_levels_are_those_of_the_tissues():
    image, mask = layers(blur=0)
    noisy = image + 0.03 * np.random.default_rng(0).standard_normal(SHAPE)
    noisy[30, 30, 18:22] = 50.0  # a spike is no tissue
    np.testing.assert_allclose(tissue_levels(noisy, mask), (0.2, 0.5, 0.8), atol=0.01)
    assert tissue_levels(np.full(SHAPE, 0.4), mask) == pytest.approx((0.4,) * 3)


def test_the_ratio_by_tissue():
    assert signal_to_noise((0.2, 0.5, 0.8), 0.02, "T1w") == {
        "NoiseStandardDeviation": 0.02,
        "TissueSignal": {"CerebrospinalFluid": 0.2, "GreyMatter": 0.5, "WhiteMatter": 0.8},
        "TissueSignalToNoiseRatio": {
            "CerebrospinalFluid": 10.0, "GreyMatter": 25.0, "WhiteMatter": 40.0,
        },
    }  # fmt: skip
    t2w = signal_to_noise((0.2, 0.5, 0.8), 0.02, "T2w")
    assert t2w["TissueSignalToNoiseRatio"]["CerebrospinalFluid"] == 40
    assert t2w["TissueSignalToNoiseRatio"]["WhiteMatter"] == 10
    assert signal_to_noise((0.2, 0.5, 0.8), 0.0, "T1w") == {}
    assert signal_to_noise((0.2, 0.5, 0.8), math.nan, "T1w") == {}


def test_an_image_and_its_mask():
    image, mask = layers()
    noisy = image + 0.02 * np.random.default_rng(0).standard_normal(SHAPE)
    affine = np.diag([1.6, 1.6, 5.0, 1.0])
    pair = (nib.Nifti1Image(noisy, affine), nib.Nifti1Image(mask.astype(np.uint8), affine))
    got = snr_of(*pair, "T1w")
    ratio = got["TissueSignalToNoiseRatio"]
    assert ratio["WhiteMatter"] == pytest.approx(0.8 / 0.02, rel=0.15)
    empty = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    assert snr_of(pair[0], empty, "T1w") == {}
