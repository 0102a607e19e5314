"""Blended patches add up to the network's own result, without seams."""

import itertools

import numpy as np
import pytest
import torch

from h2lo_bids.synthesis.patches import axis_weights, blend_patches

SHAPE = (30, 41, 23)


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def ball(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    at = np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1) - (np.array(shape) - 1) / 2
    return (at**2).sum(-1) < (0.45 * min(shape)) ** 2


@pytest.mark.parametrize(
    ("patch", "overlap"), [(16, 8), (16, 0), (12, 5), (16, 15), (9, 7), (64, 32)]
)
def test_identity_comes_back(patch: int, overlap: int) -> None:
    volume, mask = noise(), ball()
    out = blend_patches(lambda x: x, volume, mask, patch, overlap)
    assert out.dtype == np.float32
    assert not out[~mask].any()
    np.testing.assert_allclose(out[mask], volume[mask], rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", range(12))
def test_weights_are_a_partition_of_unity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patch = int(rng.integers(2, 20))
    overlap = int(rng.integers(0, patch))
    length = patch + int(rng.integers(0, 60))
    first = int(rng.integers(0, length))
    stop = int(rng.integers(first + 1, length + 1))
    total = np.zeros(length)
    axis = axis_weights(first, stop, length, patch, overlap)
    for start, weights in axis.items():
        assert 0 <= start <= length - patch
        assert (weights >= 0).all()
        total[start : start + patch] += weights
    np.testing.assert_allclose(total[first:stop], 1, atol=1e-6)
    starts = sorted(axis)
    assert all(b - a <= patch - overlap for a, b in itertools.pairwise(starts))
    assert len(starts) == max(1, int(np.ceil((stop - first - overlap) / (patch - overlap))))


def test_equals_a_brute_force_blend() -> None:
    """The weighted mean over all patches that hold a voxel, voxel by voxel."""
    patch, overlap, length = 10, 4, 22
    volume, mask = noise((length,) * 3), np.zeros((length,) * 3, bool)
    mask[1:21, 1:21, 2:20] = True

    def network(x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3, 4), keepdim=True)  # depends on the patch as a whole

    out = blend_patches(network, volume, mask, patch=patch, overlap=overlap)
    axes = [(1, 6, 11), (1, 6, 11), (2, 6, 10)]  # 20 voxels: 3 patches of 10 that share >= 4
    rng = np.random.default_rng(1)
    for voxel in rng.permutation(np.argwhere(mask))[:200]:
        top = below = 0.0
        for corner in itertools.product(*axes):
            inside = [v - c for v, c in zip(voxel, corner, strict=True)]
            if not all(0 <= i < patch for i in inside):
                continue
            weight = 1.0
            for i, c, starts in zip(inside, corner, axes, strict=True):
                step = starts[1] - starts[0]
                if c > starts[0]:
                    weight *= np.sin(np.pi / 2 * min(1, (i + 0.5) / (patch - step))) ** 2
                if c < starts[-1]:
                    weight *= np.sin(np.pi / 2 * min(1, (patch - i - 0.5) / (patch - step))) ** 2
            cube = volume[tuple(slice(c, c + patch) for c in corner)].astype(np.float64)
            top += weight * volume[tuple(voxel)] * cube.mean()
            below += weight
        assert out[tuple(voxel)] == pytest.approx(top / below, abs=1e-6)


def test_patches_that_disagree_blend_without_a_jump() -> None:
    """A network that paints each patch in one colour gives slopes, not steps."""
    mask = np.ones((64, 16, 16), bool)
    colours = iter([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, next(colours))

    out = blend_patches(network, noise(mask.shape), mask, patch=16, overlap=8, threads=1)[:, 8, 8]
    assert out.min() == pytest.approx(0, abs=0.01)
    assert out.max() == pytest.approx(1, abs=0.01)
    # The steepest slope of sin^2 over 8 voxels is pi / 2 / 8; butted patches would jump by 1.
    assert np.abs(np.diff(out)).max() <= np.pi / 16 + 1e-6


def test_patches_without_brain_are_not_computed() -> None:
    mask = np.zeros((64, 64, 64), bool)
    mask[2:9, 2:9, 2:9] = mask[53:60, 53:60, 53:60] = True
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    blend_patches(network, noise(mask.shape), mask, patch=16, overlap=8)
    assert len(seen) == 2  # of 7^3
    assert not blend_patches(network, noise(mask.shape), mask & False, patch=16, overlap=8).any()


def test_threads_and_order_leave_no_trace() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    made = [blend_patches(network, noise(), ball(), patch=12, overlap=6, threads=n) for n in (1, 2)]
    assert np.array_equal(*made)
