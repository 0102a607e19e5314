"""Patches that are blended without seams, and slices."""

import itertools

import numpy as np
import pytest
import torch
from problems import TINY
from shapes import ball

from h2lo_bids.models.diffi2i import DiffI2I
from h2lo_bids.models.pfsr import Pfsr
from h2lo_bids.models.pix2pix import Pix2Pix
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import blend_patches, predict_diffi2i, predict_patches

SHAPE = (30, 41, 23)


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


BALL = ball(SHAPE, 0.45 * min(SHAPE))


@pytest.mark.parametrize("patch", [12, 5, 64])
def test_identity_comes_back(patch: int) -> None:
    volume, mask = noise(), BALL
    out = blend_patches(lambda x: x, volume, mask, patch)
    assert out.dtype == np.float32
    assert not out[~mask].any()
    np.testing.assert_allclose(out[mask], volume[mask], rtol=0, atol=2e-6)
    assert not blend_patches(lambda x: x, volume, mask & False, patch).any()


def test_equals_a_brute_force_blend() -> None:
    """The weighted mean over all patches that hold a voxel, voxel by voxel."""
    patch, length = 10, 22
    volume, mask = noise((length,) * 3), np.zeros((length,) * 3, bool)
    mask[1:21, 1:21, 2:20] = True

    def network(x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3, 4), keepdim=True)  # depends on the patch as a whole

    out = blend_patches(network, volume, mask, patch)
    axes = [(1, 6, 11), (1, 6, 11), (2, 6, 10)]  # 20 voxels: 3 patches of 10 that share >= 5
    weights = np.zeros((3, 3, length))  # of axis, patch and voxel
    for own, starts in zip(weights, axes, strict=True):
        at = (np.arange(patch) + 0.5) / (patch - starts[1] + starts[0])
        rise = np.sin(np.pi / 2 * np.minimum(1, at)) ** 2
        for number, start in enumerate(starts):
            fall = rise[::-1] if number < 2 else 1
            own[number, start : start + patch] = fall * (rise if number else 1)
    top, below = np.zeros((2, *mask.shape))
    for numbers in itertools.product(range(3), repeat=3):
        weight = np.einsum("x,y,z->xyz", *(w[n] for w, n in zip(weights, numbers, strict=True)))
        top += weight * volume * volume[weight > 0].mean(dtype=np.float64)
        below += weight
    np.testing.assert_allclose(out[mask], top[mask] / below[mask], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "gain"), [(Pix2Pix, 2), (Pfsr, 1)])  # the former in [-1, 1]
def test_one_patch_is_what_the_network_makes_of_it(kind, gain) -> None:
    """A volume smaller than a patch has zeros around."""
    torch.manual_seed(5)
    volume, model = noise((13, 16, 10)), kind(TINY[kind.__name__.lower()]["architecture"]).train()
    if kind is Pfsr:  # untrained, it is the identity
        torch.nn.init.normal_(model.tail.weight, 0.0, 0.02)
    mask = volume > 0.3
    volume[~mask] = 0
    made = predict_patches(model, volume, mask)
    assert not model.training
    whole = torch.from_numpy(np.pad(volume, [(1, 2), (0, 0), (3, 3)]))[None, None]
    with torch.no_grad():
        direct = (model(gain * whole + 1 - gain) - 1 + gain)[0, 0].numpy() / gain
    np.testing.assert_allclose(made[mask], direct[1:14, :, 3:13][mask], atol=1e-6)
    assert made.dtype == np.float32
    assert not made[~mask].any()
    half = predict_patches(model, volume, mask, options=EngineOptions(precision="bf16"))
    assert 0 < np.abs(half - made).max() < 0.05


def test_each_slice_is_what_the_model_makes_of_it_by_the_seed_alone() -> None:
    """DiffI2I with a mask in slices 2, 3 and 5 of 7, of 11 x 9 voxels at its widest."""
    torch.manual_seed(0)
    sizes = TINY["diffi2i"]["architecture"]
    diffuser, volume = DiffI2I(sizes).eval(), noise((17, 14, 7))
    mask = np.zeros(volume.shape, bool)
    mask[3:14, 4:10, 2:4] = True
    mask[5:8, 2:11, 5] = True
    mask[6, 6] = False
    volume *= mask
    found = predict_diffi2i(diffuser, volume, mask, seed=3, options=EngineOptions(threads=1))
    assert found.dtype == np.float32
    assert (found[~mask] == 0).all()
    start = torch.randn(1, sizes.prior, generator=torch.Generator().manual_seed(3))
    for z in (2, 3, 5):
        padded = np.zeros((16, 16), np.float32)
        padded[:11, :9] = volume[3:14, 2:11, z]
        with torch.inference_mode():
            made = diffuser(torch.from_numpy(padded)[None, None], start)[0, 0].numpy()
        inside = mask[3:14, 2:11, z]
        np.testing.assert_allclose(
            found[3:14, 2:11, z][inside], made[:11, :9][inside], rtol=1e-4, atol=1e-6
        )
    torch.manual_seed(5)
    again = predict_diffi2i(diffuser, volume, mask, seed=3, options=EngineOptions(threads=2))
    assert found.tobytes() == again.tobytes()
    assert found.tobytes() != predict_diffi2i(diffuser, volume, mask, seed=1).tobytes()
