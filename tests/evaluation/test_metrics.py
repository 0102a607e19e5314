"""The metrics against scikit-image, scipy and closed forms."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, pearsonr, wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation import metrics


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = gaussian_filter(rng.random((9, 20, 23)), 1)
    a = (a - a.min()) / np.ptp(a)
    return a, np.clip(0.7 * a + 0.1 + 0.1 * rng.standard_normal(a.shape), 0, 1)


def ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    return metrics.mean_ssim(metrics.ssim_map(a, b), where)


@pytest.mark.parametrize("everywhere", [True, False])
def test_image_metrics_equal_other_libraries(everywhere: bool) -> None:
    a, b = images(3)
    where = np.ones(a.shape, bool) if everywhere else a > 0.6
    where[4] = everywhere  # else a slice of background
    chosen = None if everywhere else where
    peak = peak_signal_noise_ratio(b[where], a[where], data_range=1)
    assert metrics.psnr(a, b, chosen) == pytest.approx(peak)
    assert metrics.ncc(a, b, chosen) == pytest.approx(pearsonr(a[where], b[where])[0])
    inner, counted = (slice(3, -3),) * 2, []  # where the window of 7 stays in the slice
    for x, y, inside in zip(a, b, where, strict=True):
        full = structural_similarity(x, y, data_range=1, win_size=7, full=True)[1]
        counted.append(full[inner][inside[inner]])
    assert ssim(a, b, chosen) == pytest.approx(100 * np.concatenate(counted).mean())


def test_histogram_metrics_equal_scipy() -> None:
    p, q = map(metrics.histogram, images(1))
    centres = (np.arange(128) + 0.5) / 128
    assert metrics.wasserstein(p, q) == pytest.approx(wasserstein_distance(centres, centres, p, q))
    assert metrics.ncc(p, q) == pytest.approx(pearsonr(p, q)[0])
    assert metrics.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2)
    assert metrics.bhattacharyya(p, q) == pytest.approx(-math.log(np.sqrt(p * q).sum()))
    p, q = np.eye(128)[10], np.eye(128)[42]  # that share no bin, and most bins are empty
    assert metrics.jensen_shannon(p, q) == pytest.approx(math.log(2))
    assert metrics.bhattacharyya(p, q) == math.inf


def test_values_outside_the_range_are_counted_at_its_ends() -> None:
    counts = metrics.histogram(np.array([-3.0, 0.0, 0.5, 1.0, 7.0]))
    assert counts.sum() == pytest.approx(1)
    assert (counts[0], counts[64], counts[127]) == pytest.approx((0.4, 0.2, 0.4))
    a, b = images()
    assert metrics.nmi(3 * a - 1, b) == metrics.nmi(np.clip(3 * a - 1, 0, 1), b)


def test_nmi_equals_scipy_entropies() -> None:
    a, b = images(5)
    where = a > 0.3
    joint = np.histogram2d(a[where], b[where], bins=64, range=[[0, 1], [0, 1]])[0]
    hx, hy, hxy = (entropy(v) for v in (joint.sum(1), joint.sum(0), joint.ravel()))
    assert metrics.nmi(a, b, where) == pytest.approx((hx + hy - hxy) / math.sqrt(hx * hy))
    assert metrics.nmi(a, 1 - a) == pytest.approx(1)


def test_what_is_undefined_or_cannot_be_compared(refused) -> None:
    a, b = images()
    assert metrics.psnr(a, a) == math.inf
    edge = np.zeros(a.shape, bool)
    edge[:, 0] = True
    assert math.isnan(ssim(a, b, edge))  # no window lies inside
    for constant in (0.1, 0.7, 1 / 3):  # that binary cannot hold
        assert math.isnan(metrics.ncc(a, np.full_like(a, constant)))
    assert math.isnan(metrics.nmi(a, np.full_like(a, 0.3)))
    assert "one shape" in refused(BadDataError, metrics.psnr, a, b[1:])
    assert "at least 7" in refused(BadDataError, ssim, a[:, :6], b[:, :6])
    nowhere = np.zeros(a.shape, bool)
    assert "foreground voxel" in refused(BadDataError, metrics.psnr, a, b, nowhere)
    assert "foreground voxel" in refused(BadDataError, metrics.histogram, a, nowhere)
    gap = np.where(np.indices(a.shape)[1] > 10, np.nan, a)
    for pair in ((gap, b), (b, gap)):
        assert "has NaN voxels" in refused(BadDataError, metrics.evaluate, *pair, a)
