"""Patches that are blended without seams, and slices."""

import itertools

import numpy as np
import pytest
import torch
from shapes import ball

from h2lo_bids.models.diffi2i import DiffI2I, DiffI2IArchitecture
from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture
from h2lo_bids.models.pix2pix import Pix2Pix, Pix2PixArchitecture
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import (
    blend_patches,
    patch_side,
    predict_diffi2i,
    predict_pfsr,
    predict_pix2pix,
)

SHAPE = (30, 41, 23)


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


BALL = ball(SHAPE, 0.45 * min(SHAPE))


@pytest.mark.parametrize("patch", [16, 12, 9, 5, 64])
def test_identity_comes_back(patch: int) -> None:
    volume, mask = noise(), BALL
    out = blend_patches(lambda x: x, volume, mask, patch)
    assert out.dtype == np.float32
    assert not out[~mask].any()
    np.testing.assert_allclose(out[mask], volume[mask], rtol=0, atol=2e-6)


def test_equals_a_brute_force_blend() -> None:
    """The weighted mean over all patches that hold a voxel, voxel by voxel."""
    patch, length = 10, 22
    volume, mask = noise((length,) * 3), np.zeros((length,) * 3, bool)
    mask[1:21, 1:21, 2:20] = True

    def network(x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3, 4), keepdim=True)  # depends on the patch as a whole

    out = blend_patches(network, volume, mask, patch)
    axes = [(1, 6, 11), (1, 6, 11), (2, 6, 10)]  # 20 voxels: 3 patches of 10 that share >= 5
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

    one = EngineOptions(threads=1)
    out = blend_patches(network, noise(mask.shape), mask, 16, one)[:, 8, 8]
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

    blend_patches(network, noise(mask.shape), mask, 16)
    assert len(seen) == 2  # of 7^3
    assert not blend_patches(network, noise(mask.shape), mask & False, 16).any()


def test_threads_and_order_leave_no_trace() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    options = [EngineOptions(threads=n) for n in (1, 2)]
    made = [blend_patches(network, noise(), BALL, 12, each) for each in options]
    assert np.array_equal(*made)


def generator() -> Pix2Pix:
    torch.manual_seed(5)
    return Pix2Pix(Pix2PixArchitecture(channels=4, downs=3)).eval()


def enhancer() -> Pfsr:
    torch.manual_seed(3)
    model = Pfsr(PfsrArchitecture(features=4, groups=1, blocks=1, reduction=2)).eval()
    model.tail.weight.data = torch.normal(0.0, 0.2, model.tail.weight.shape)
    return model


def test_pix2pix_on_one_patch_is_the_network_itself() -> None:
    """A volume smaller than a patch: zeros around, [0, 1] to [-1, 1] and back."""
    volume, model = noise((13, 16, 10)), generator().train()
    mask = volume > 0.3
    volume[~mask] = 0
    made = predict_pix2pix(model, volume, mask)
    assert not model.training
    whole = np.zeros((16, 16, 16), np.float32)
    inner = (slice(1, 14), slice(0, 16), slice(3, 13))
    whole[inner] = volume
    with torch.no_grad():
        direct = model(torch.from_numpy(whole)[None, None] * 2 - 1)[0, 0].numpy()
    np.testing.assert_allclose(made[mask], (direct[inner][mask] + 1) / 2, atol=1e-6)
    assert made.dtype == np.float32
    assert not made[~mask].any()
    half = predict_pix2pix(model, volume, mask, options=EngineOptions(precision="bf16"))
    assert 0 < np.abs(half - made).max() < 0.05


def test_pfsr_leaves_no_seam() -> None:
    """What patches change against the whole volume in one comes and goes slowly."""
    network = enhancer()
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (96, 48, 48)), indexing="ij")
    volume = (0.5 + 0.3 * np.sin(3 * axes[0]) * np.cos(2 * axes[1] + axes[2])).astype(np.float32)
    patched = predict_pfsr(network, volume, np.ones(volume.shape, bool))
    with torch.no_grad():
        whole = network(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    # Away from the volume's own border, where both see zeros.
    inner = (slice(8, -8),) * 3
    change, added = (patched - whole)[inner], (whole - volume)[inner]
    assert np.ptp(change) > 0  # the attention of a patch is its own
    for axis in range(3):
        assert np.abs(np.diff(change, axis=axis)).max() < 0.02 * np.ptp(added)


def test_patches_fit_the_grid() -> None:
    shapes = [(208, 256, 256), (40, 30, 20), (22, 26, 24)]
    assert [patch_side(shape, 32) for shape in shapes] == [64, 64, 32]
    assert patch_side((22, 26, 24), 8) == 32


# DiffI2I: slice by slice, inside the mask.

TINY = DiffI2IArchitecture(
    width=4, blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2), refinement=1, features=2, residual=1
)


@pytest.fixture
def diffuser() -> DiffI2I:
    torch.manual_seed(0)
    return DiffI2I(TINY).eval()


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray]:
    """A volume and a mask in slices 2, 3 and 5 of 7, of 11 x 9 voxels at its widest."""
    rng = np.random.default_rng(0)
    volume = rng.random((17, 14, 7), dtype=np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[3:14, 4:10, 2:4] = True
    mask[5:8, 2:11, 5] = True
    mask[6, 6] = False
    return volume * mask, mask


def test_each_slice_is_what_the_model_makes_of_it(
    diffuser: DiffI2I, scan: tuple[np.ndarray, np.ndarray]
) -> None:
    volume, mask = scan
    found = predict_diffi2i(diffuser, volume, mask, seed=3)
    assert found.dtype == np.float32
    assert (found[~mask] == 0).all()
    start = torch.randn(1, TINY.prior, generator=torch.Generator().manual_seed(3))
    for z in (2, 3, 5):
        padded = np.zeros((16, 16), np.float32)
        padded[:11, :9] = volume[3:14, 2:11, z]
        with torch.inference_mode():
            made = diffuser(torch.from_numpy(padded)[None, None], start)[0, 0].numpy()
        inside = mask[3:14, 2:11, z]
        np.testing.assert_allclose(
            found[3:14, 2:11, z][inside], made[:11, :9][inside], rtol=1e-4, atol=1e-6
        )


def test_bytes_depend_on_the_seed_but_not_on_threads(
    diffuser: DiffI2I, scan: tuple[np.ndarray, np.ndarray]
) -> None:
    one = predict_diffi2i(diffuser, *scan, options=EngineOptions(threads=1))
    torch.manual_seed(5)
    two = predict_diffi2i(diffuser, *scan, options=EngineOptions(threads=2))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != predict_diffi2i(diffuser, *scan, seed=1).tobytes()
