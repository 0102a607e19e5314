"""Realism, noise and signal against closed forms and values that were drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from shapes import ball, ellipsoid, reoriented, stored

from h2lo_bids.evaluation import realism
from h2lo_bids.evaluation.realism import noise_deviation, snr_of, tissue_levels

SPACING = (1.0, 1.0, 1.0)
BANDS = ((16, 8), (8, 5), (5, 4), (4, 3), (3, 2), (2, 1.5), (1.5, 1))


def band_passed(field: np.ndarray, coarse: float, fine: float) -> np.ndarray:
    f = np.linalg.norm(np.meshgrid(*map(np.fft.fftfreq, field.shape), indexing="ij"), axis=0)
    kept = (f >= 1 / (2 * coarse)) & (f < 1 / (2 * fine))
    return np.fft.ifftn(np.fft.fftn(field) * kept).real


def test_a_signal_and_noise_correlate_as_their_ratio_in_each_band_says() -> None:
    signal, noise, stranger = np.random.default_rng(0).standard_normal((3, 64, 64, 64))
    ratios = (0.2, 0.5, 1.0, 0.7, 2.0, 0.3, 4.0)
    dirty = signal + sum(
        (r - 1) * band_passed(noise, *band) for r, band in zip(ratios, BANDS, strict=True)
    ) + noise  # fmt: skip
    everywhere = np.ones(signal.shape)
    found = realism.band_correlation(3 * dirty + 7, signal, everywhere, SPACING)
    assert found == pytest.approx([1 / math.sqrt(1 + r**2) for r in ratios], abs=0.03)
    other = realism.band_correlation(dirty, stranger, everywhere, SPACING)
    assert other[1:] == pytest.approx([0] * 6, abs=0.06)
    coarse = realism.band_correlation(signal, signal, everywhere, (4.0, 4.0, 4.0))
    assert coarse == pytest.approx([1, 1, 1, *[math.nan] * 4], nan_ok=True)
    for nothing in ((signal, everywhere, everywhere), (signal, signal, 0 * everywhere)):
        assert np.isnan(realism.band_correlation(*nothing, SPACING)).all()


def test_where_two_heads_are_cut_is_no_common_detail() -> None:
    mask, at = ball((72,) * 3, 32), np.indices((72,) * 3) - 35.5
    shading = 1 + np.sum(at**2, axis=0) / 32**2  # all they share, and nothing but coarse
    a, b = (shading + 0.1 * np.random.default_rng(1).standard_normal((2, *mask.shape))) * mask
    faded = realism.band_correlation(a, b, realism.tapered(mask, SPACING), SPACING)
    assert faded[4:] == pytest.approx([0, 0, 0], abs=0.06)


def test_the_taper_is_a_raised_cosine_of_depth() -> None:
    window = realism.tapered(np.ones((40, 9, 9), bool), (1.0, 9.0, 9.0))
    depth = np.minimum(np.arange(1, 41), np.arange(40, 0, -1))
    expected = 0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / 8, 1))
    assert window[:, 4, 4] == pytest.approx(expected)
    assert not realism.tapered(np.zeros((9, 9, 9), bool), SPACING).any()


def test_levels_snr_and_cnr_are_those_drawn() -> None:
    mask = np.ones((90, 60, 60), bool)
    layers = np.repeat((300.0, 600.0, 900.0), (20, 40, 30))[:, None, None]  # of tissue
    image = layers + 20 * np.random.default_rng(0).standard_normal(mask.shape)
    image.ravel()[::3000] = 9000.0  # vessels and spikes, a third of a thousandth
    found = realism.appearance(image, mask, SPACING)
    assert found.levels == pytest.approx((300, 600, 900), rel=0.005)
    assert tissue_levels(np.full(mask.shape, 0.4), mask) == pytest.approx((0.4,) * 3)
    assert found.values() == pytest.approx(
        {
            "level_low": 1 / 3, "level_mid": 2 / 3, "noise": 20 / 600,
            "snr_low": 15, "snr_mid": 30, "snr_high": 45, "cnr_low_mid": 15, "cnr_mid_high": 15,
        },
        rel=0.03,
    )  # fmt: skip


@pytest.mark.parametrize("axis", [0, 2])
def test_noise_is_that_within_the_acquired_plane(axis: int) -> None:
    rng = np.random.default_rng(axis)
    shape, spacing = np.full(3, 48), np.ones(3)
    shape[axis], spacing[axis] = 30, 5.0
    # Stripes in the plane, another pattern in each slice: no noise of the plane.
    along = 1 if axis == 2 else 2
    stripes = rng.normal(0, 9, np.where(np.arange(3) == along, 1, shape))
    slope = 5 * np.indices(shape)[along]
    image = 100 + stripes + slope + 0.5 * rng.standard_normal(shape)
    mask = np.ones(shape, bool)
    assert noise_deviation(image, mask, spacing) == pytest.approx(0.5, rel=0.02)
    mask[2:] = False  # nothing is left of it but border
    assert math.isnan(noise_deviation(image, mask, spacing))


def test_white_noise_has_the_spectrum_of_its_variance_times_the_voxels_area() -> None:
    noise = np.random.default_rng(0).standard_normal((60, 70, 80))
    mask = np.ones(noise.shape, bool)
    fine, coarse = (
        realism.plane_spectrum(5 * (1 + 0.02 * noise), mask, spacing)
        for spacing in (SPACING, (1.5, 2.0, 2.0))
    )
    assert fine == pytest.approx([20 * math.log10(0.02)] * 8, abs=0.2)
    assert np.isnan(coarse[5:]).all()  # beyond 0.25 cycles per mm
    # Its longest sides are the second and the third; the last of them is across.
    assert coarse[1:5] == pytest.approx([20 * math.log10(0.02) + 10 * math.log10(3)] * 4, abs=0.2)


def test_spectra_lie_as_far_apart_as_their_scales_and_histograms_as_the_mass_moved() -> None:
    noise, mask = np.random.default_rng(0).standard_normal((50, 50, 50)), ball((50,) * 3, 24)
    a, b = (realism.appearance((1 + sd * noise) * mask, mask, SPACING) for sd in (0.01, 0.03))
    assert realism.spectrum_distance(a, b) == pytest.approx(20 * math.log10(3), abs=0.05)
    assert realism.spectrum_distance(b, b) == 0
    nothing = realism.appearance(0.0 * mask, mask, SPACING)
    assert np.isnan([*nothing.values().values(), realism.spectrum_distance(nothing, a)]).all()
    some = realism.appearance(1.0 * mask, mask, SPACING)
    assert math.isnan(some.values()["snr_low"])  # no noise to divide by
    cells = np.arange(8000).reshape(20, 20, 20) / 8000
    dark = [np.where(cells < share, 1.0, 2.0) for share in (0.3, 0.5)]
    a, b, scaled = (realism.appearance(v, cells < 1, SPACING) for v in (*dark, 70 * dark[0]))
    assert realism.histogram_distance(a, b) == pytest.approx(0.2 * 0.5, abs=0.003)
    assert realism.histogram_distance(a, scaled) == pytest.approx(0)


def test_the_signal_to_noise_of_an_image_in_its_mask():
    # Three tissues in shells, with borders as soft as those of a low-field scan.
    shape, affine = (60, 64, 40), np.diag([1.6, 1.6, 5.0, 1.0])
    mask, *shells = (
        ellipsoid(share * np.array((26, 28, 17)), (30, 32, 20), np.eye(4), shape)
        for share in (1, 0.55, 0.84)
    )
    image = gaussian_filter(np.select(shells, [0.8, 0.5], 0.2), 2)
    noisy = image + 0.02 * np.random.default_rng(0).standard_normal(shape)
    scan, inside = stored(noisy, affine), stored(mask, affine)
    for contrast, white in (("T1w", 0.8), ("T2w", 0.2)):
        got = snr_of(scan, inside, contrast)
        assert got["NoiseStandardDeviation"] == pytest.approx(0.02, rel=0.1)
        assert got["TissueSignal"]["WhiteMatter"] == pytest.approx(white, abs=0.12)
        assert got["TissueSignalToNoiseRatio"] == pytest.approx(
            {name: level / 0.02 for name, level in got["TissueSignal"].items()}, rel=0.1
        )
    share, sides = realism.scan_noise(*(reoriented(v, "LIA") for v in (scan, inside)))
    noise = share * np.median(noisy[mask])
    assert (noise, *sides) == pytest.approx((got["NoiseStandardDeviation"], 1.6, 1.6, 5), rel=1e-3)
    # Of voxels with equal sides the plane is the axial one, however the array lies.
    smooth = gaussian_filter(noisy - image, (0, 0, 2)) + image
    cube = stored(smooth, np.eye(4)), stored(mask, np.eye(4))
    assert snr_of(*(reoriented(v, "LIA") for v in cube), "T2w") == snr_of(*cube, "T2w")
    empty = stored(0 * mask, affine)
    assert snr_of(scan, empty, "T2w") == {}
    assert snr_of(inside, inside, "T2w") == {}  # no noise
    assert math.isnan(realism.scan_noise(empty, inside)[0])
