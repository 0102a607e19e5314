"""Noise that was put in must be found again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from prepared_pairs import fold_of, write_pairs
from scipy import fft
from scipy.ndimage import binary_erosion, map_coordinates

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.synthesis.noise import PROBES, add_noise
from h2lo_bids.training.experiments.noise import calibrate_noise, measure_noise
from h2lo_bids.training.pairs import Pair

SHAPE = (56, 60, 52)
SPACING = (1.0, 1.0, 2.0)


def filtered(values, level):
    """Give white noise a power of `level` dB at frequencies (R, A, S) in cycles per mm."""
    axes = [np.abs(np.fft.fftfreq(n, d)) for n, d in zip(SHAPE, SPACING, strict=True)]
    db = level(*np.meshgrid(*axes, indexing="ij"))
    out = fft.ifftn(fft.fftn(values) * 10 ** (db / 20)).real
    return out / out.std()


def scene(seed, noise, sigma):
    """Return a pair whose residual is `noise` times sigma(prediction), and the prediction."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    mask = sum(g**2 for g in grid) < 0.95
    clean = np.where(mask, 0.5 + 0.25 * np.sin(5 * grid[0] + seed) * np.cos(4 * grid[1]), 0)
    low = np.where(mask, clean + sigma(clean) * noise(rng.standard_normal(SHAPE)), 0)
    return Pair(f"s{seed}", clean.astype("f4"), low.astype("f4"), mask), clean.astype("f4")


def calibrated(noise, sigma, error=None):
    pairs, clean = zip(*[scene(seed, noise, sigma) for seed in range(3)], strict=True)
    predictions = clean if error is None else [c + error(c) for c in clean]
    return calibrate_noise(pairs, predictions, spacing=SPACING), pairs, predictions


def levels(model):
    sizes = [len(axis) for axis in model.frequencies]
    grid = np.meshgrid(*model.frequencies, indexing="ij")
    return np.array(model.power).reshape(sizes), grid


def test_a_rim_that_the_low_field_image_leaves_empty_is_no_noise():
    """As with the paper's protocol, where each image of a pair has a brain mask of its own."""
    _, pairs, clean = calibrated(lambda white: white, lambda c: 0.03 + 0 * c)
    own = [replace(p, lf=np.where(binary_erosion(p.mask), p.lf, 0)) for p in pairs]
    model = calibrate_noise(own, clean, spacing=SPACING)
    np.testing.assert_allclose(model.deviation(np.array([0.3, 0.5, 0.7])), 0.03, rtol=0.05)


def test_one_scan_has_the_noise_that_was_measured_on_it():
    """Three scans averaged, their noise white: one has sqrt(3) times the noise."""
    sigma = 0.03
    pairs, clean = zip(
        *[scene(seed, lambda white: white, lambda _: sigma) for seed in range(3)], strict=True
    )
    median = np.median(clean[0][pairs[0].mask])
    scans = [[(np.sqrt(3) * sigma / median, SPACING)] * 3] * 3
    model = calibrate_noise(pairs, clean, spacing=SPACING, scans=scans)
    flat, mask = np.full(SHAPE, median, np.float32), np.ones(SHAPE, bool)
    for acquired, wanted in ((True, np.sqrt(3) * sigma), (False, sigma)):
        affine = np.diag([*SPACING, 1.0])
        noisy = add_noise(flat, mask, affine, model, seed=1, realisation=1, acquired=acquired)
        assert noisy.std() == pytest.approx(wanted, rel=0.05)


def test_an_image_that_was_registered_before_tells_no_scans_noise(tmp_path):
    """Interpolated and fused, it has hardly any: scans of the model would have had none."""
    noise = [{"Deviation": 0.05, "Voxel": [1.6, 1.6, 5.0]}]
    (pair,) = write_pairs(tmp_path, 1, ScanNoise=noise, RegistrationMethod="none, as it was")
    assert pair.noise == ()


def test_noise_is_measured_as_it_was_made_and_drawn_as_it_was_measured():
    """Of a known deviation, spectrum and tail: of what is drawn they are measured again."""

    def level(r, a, s):
        return -40 * r - 10 * a - 30 * s

    def tail(z):
        return (z + 0.1 * z**3) / np.sqrt(1.75)

    model, pairs, predictions = calibrated(
        lambda white: tail(filtered(white, level)), lambda c: 0.01 + 0.05 * c
    )
    affine = np.diag([*SPACING, 1.0])
    again = [
        Pair(p.name, p.hf, add_noise(q, p.mask, affine, model, seed=n, realisation=1), p.mask)
        for n, (p, q) in enumerate(zip(pairs, predictions, strict=True))
    ]
    wanted, z = np.linspace(0.3, 0.7, 5), PROBES[4:-4]
    for found in (model, calibrate_noise(again, predictions, spacing=SPACING)):
        np.testing.assert_allclose(found.deviation(wanted), 0.01 + 0.05 * wanted, rtol=0.06)
        power, grid = levels(found)
        off = power - level(*grid)
        assert np.std(off) < 1.2
        assert np.ptp(off) < 12
        np.testing.assert_allclose(found.quantiles[4:-4], tail(z), atol=0.06)


def test_sessions_of_one_person_are_one_subject(tmp_path):
    *pairs, last = write_pairs(tmp_path / "out", 6)
    pairs[4] = replace(pairs[4], subject="04", session="2")
    job = fold_of((*pairs, last), tmp_path, fold=Fold(0, ("01", "02"), ("03",), ("04", "06")))
    shutil.copytree(default_bundle("T1w", method="identity").path, job.folder / "bundle")
    assert measure_noise([job], "cpu")["subjects"] == 2


def test_predictions_that_lack_nothing_have_no_noise():
    pair, clean = scene(1, lambda white: white, lambda c: 0.02)
    perfect = Pair("x", pair.hf, clean, pair.mask)
    with pytest.raises(BadDataError, match="no noise to measure"):
        calibrate_noise([perfect], [clean], spacing=SPACING)
    smooth = Pair("x", pair.hf, 0.5 * clean, pair.mask)
    model = calibrate_noise([smooth], [clean], spacing=SPACING)
    assert max(model.deviations) == 0
    drawn = add_noise(clean, pair.mask, np.eye(4), model, seed=1, realisation=1)
    np.testing.assert_array_equal(drawn, np.where(pair.mask, np.clip(clean, 0, 1), 0))


def test_noise_of_a_thick_slice_scan_comes_back_on_its_own_grid():
    """White noise of voxels of 1.6 x 1.6 x 5 mm, seen only after interpolation to 1 mm."""
    shape, sides = (72, 72, 80), np.array([1.6, 1.6, 5.0])
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    mask = sum(g**2 for g in grid) < 0.95
    coarse = tuple((np.array(shape) // sides + 4).astype(int))
    noise = 0.03 * np.random.default_rng(3).standard_normal(coarse)
    at = np.stack(np.nonzero(mask), axis=0) / sides[:, None] + 1
    low, clean = np.zeros((2, *shape), np.float32)
    clean[mask] = 0.5
    low[mask] = 0.5 + map_coordinates(noise, at, order=3)
    pair = Pair("x", clean, low, mask)
    model = calibrate_noise([pair], [clean], spacing=(1, 1, 1))
    image, inside = np.full((44, 44, 15), 0.5, np.float32), np.ones((44, 44, 15), bool)
    drawn = [
        add_noise(image, inside, np.diag([*sides, 1]), model, seed=n, realisation=1, acquired=True)
        for n in range(4)
    ]
    # A fifth is lost to the splines.
    assert 0.7 < np.std(np.array(drawn) - image) / 0.03 < 0.9


@pytest.mark.parametrize("slope", [80, -20])
def test_errors_of_the_model_are_not_taken_for_the_noise_that_they_bury(slope):
    """Errors are far stronger at low frequencies, to which the noise is drawn on from high ones."""

    def level(r, a, s):
        return slope * np.sqrt(r**2 + a**2 + s**2)

    def error(clean):
        rng = np.random.default_rng(int(1e6 * clean.max()))
        return 0.05 * filtered(rng.standard_normal(SHAPE), lambda r, a, s: -250 * (r + a + s))

    model, pairs, predictions = calibrated(
        lambda white: filtered(white, level), lambda c: 0.03 + 0 * c, error
    )
    assert (pairs[0].lf - predictions[0])[pairs[0].mask].std() > 0.05
    np.testing.assert_allclose(model.deviation(np.array([0.4, 0.5, 0.6])), 0.03, rtol=0.15)
    power, grid = levels(model)
    off = power - level(*grid)
    low = np.sqrt(sum(g**2 for g in grid)) < 0.12
    assert slope > 0 or abs(off[low].mean() - off[~low].mean()) < 3
