from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.normalise import LEVELS, Scaled, max_normalise, scale_brain

VALUES = {"T1w": (200.0, 480.0, 800.0), "T2w": (1000.0, 480.0, 330.0)}
"""Of fluid, grey and white matter."""
CONTRASTS = sorted(VALUES)


@cache
def head(contrast: str, spacing: float = 1.0, size: float = 28.0):
    """Return image, mask, tissue per voxel (0, 1, 2), and place by radius; to be read only."""
    count = int(np.ceil(2.1 * size / spacing))
    where = (np.indices((count,) * 3) - (count - 1) / 2) * spacing / size
    x, y, z = where / np.array([0.9, 1.0, 0.85])[:, None, None, None]
    radius = np.sqrt(x**2 + y**2 + z**2)
    folds = 0.04 * np.cos(9 * np.arctan2(y, x)) * np.cos(7 * z)
    tissue = np.select([radius < 0.2, radius < 0.8 + folds, radius < 0.93 + folds], [0, 2, 1], 0)
    image = gaussian_filter(np.array(VALUES[contrast])[tissue], 0.6)
    image += 0.01 * VALUES[contrast][2] * np.random.default_rng(5).normal(size=image.shape)
    return image.astype(np.float32), radius < 1, tissue, radius


def scaled(image: np.ndarray, mask: np.ndarray, contrast: str, spacing: float = 1.0) -> Scaled:
    return scale_brain(image, mask, (spacing,) * 3, contrast=contrast)


@cache
def clean(contrast: str) -> Scaled:
    """Scale the head as it is; to be read only."""
    return scaled(*head(contrast)[:2], contrast)


def levels_of(volume, mask, tissue, part=()) -> list[float]:
    """Return the median of each tissue, in a part of the volume."""
    return [np.median(volume[part][(mask & (tissue == k))[part]]) for k in range(3)]


def check_order(got: np.ndarray, mask: np.ndarray, tissue: np.ndarray, contrast: str) -> None:
    """Compare the order of the tissues in each octant."""
    half = np.array(mask.shape) // 2
    for corner in product((slice(None, half[0]), slice(half[0], None)), repeat=3):
        levels = levels_of(got, mask, tissue, corner)
        order = levels if contrast == "T1w" else levels[::-1]
        assert order[0] < order[1] < order[2], (corner, levels)


def test_values_run_from_zero_to_one_inside_only_or_are_refused(refused) -> None:
    data = np.array([[[-5, 0, 30, 60, 1000]]], np.int16)
    got = max_normalise(data, data < 1000)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array([[[0, 0, 0.5, 1, 0]]], np.float32))
    data, mask = np.full((2, 2, 2), -1.0), np.ones((2, 2, 2))
    assert refused(BadDataError, max_normalise, data, 0 * mask, name="a").startswith("a: ")
    assert "no positive value" in refused(BadDataError, max_normalise, data, mask)
    flat = (scale_brain, data, mask, (1, 1, 1))
    assert "one intensity" in refused(BadDataError, *flat, contrast="T1w")
    assert "scaling" in refused(ValueError, *flat, contrast="T1w", scaling="other")


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_fluid_and_white_matter_come_to_their_levels(contrast: str) -> None:
    _, mask, tissue, radius = head(contrast)
    got = clean(contrast)
    fluid, white = LEVELS[contrast]
    assert np.median(got.volume[radius < 0.12]) == pytest.approx(fluid, abs=0.02)
    assert np.median(got.volume[mask & (tissue == 2)]) == pytest.approx(white, abs=0.02)
    assert not got.volume[~mask].any()
    assert not got.field_corrected
    # Of voxels of other sizes.
    usual = levels_of(got.volume, mask, tissue)
    for spacing in (0.7, 1.3):
        image, mask, tissue, _ = head(contrast, spacing)
        volume = scaled(image, mask, contrast, spacing).volume
        check_order(volume, mask, tissue, contrast)
        assert levels_of(volume, mask, tissue) == pytest.approx(usual, rel=0.1)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_neither_few_bright_voxels_nor_gain_and_offset_matter(contrast: str) -> None:
    image, mask, *_ = head(contrast)
    rng = np.random.default_rng(1)
    mean, spread, top = image[mask].mean(), image[mask].std(), image[mask].max()
    for count in (1, int(0.0005 * mask.sum())):
        places = tuple(rng.permutation(np.argwhere(mask))[:count].T)
        spoiled = image.copy()
        spoiled[places] = top * (20 if count == 1 else rng.uniform(2, 5, count))
        change = np.abs(scaled(spoiled, mask, contrast).volume - clean(contrast).volume)
        change[places] = 0
        assert change.max() < 0.01
    # Also as (x - mean) / sd, and in an MP2RAGE UNI image's range of -0.5 to 0.5.
    for gain, offset, atol in ((1e-6, 0, 1e-4), (1e6, 0, 1e-4), (1 / spread, -mean / spread, 1e-3),
                               (1 / top, -0.5, 1e-3)):  # fmt: skip
        made = scaled((gain * image + offset).astype(np.float32), mask, contrast)
        assert (made.negative > 0.1) == (offset < 0)
        np.testing.assert_allclose(made.volume, clean(contrast).volume, atol=atol)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_grey_level_curves_noise_and_fields_keep_the_order(contrast: str) -> None:
    image, mask, tissue, radius = head(contrast)
    usual = levels_of(clean(contrast).volume, mask, tissue)
    spread = 0.05 * image[(radius > 0.4) & (radius < 0.6)].mean()  # of white matter
    noisy = image + spread * np.random.default_rng(2).normal(size=image.shape)
    bent = image * np.exp(np.log(3.0) * np.minimum(radius, 1.0) ** 2).astype(np.float32)
    for changed, within in ((image**0.7, 0.2), (image**1.5, 0.2), (noisy, 0.1), (bent, 0.2)):
        got = scaled(changed, mask, contrast)
        check_order(got.volume, mask, tissue, contrast)
        found = levels_of(got.volume, mask, tissue)
        assert found[1] / found[2] == pytest.approx(usual[1] / usual[2], rel=within)
    assert got.field_corrected  # of the last
