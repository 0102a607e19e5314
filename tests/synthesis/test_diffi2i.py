"""DiffI2I on a volume: slice by slice, inside the mask, the same whatever the threads."""

import numpy as np
import pytest
import torch

from h2lo_bids.models.diffi2i import DiffI2I, DiffI2IArchitecture
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import predict_diffi2i

TINY = DiffI2IArchitecture(
    width=4, blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2), refinement=1, features=2, residual=1
)


@pytest.fixture
def model() -> DiffI2I:
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
    model: DiffI2I, scan: tuple[np.ndarray, np.ndarray]
) -> None:
    volume, mask = scan
    found = predict_diffi2i(model, volume, mask, seed=3)
    assert found.dtype == np.float32
    assert (found[~mask] == 0).all()
    start = torch.randn(1, TINY.prior, generator=torch.Generator().manual_seed(3))
    for z in (2, 3, 5):
        padded = np.zeros((16, 16), np.float32)
        padded[:11, :9] = volume[3:14, 2:11, z]
        with torch.inference_mode():
            made = model(torch.from_numpy(padded)[None, None], start)[0, 0].numpy()
        inside = mask[3:14, 2:11, z]
        np.testing.assert_allclose(
            found[3:14, 2:11, z][inside], made[:11, :9][inside], rtol=1e-4, atol=1e-6
        )


def test_bytes_depend_on_the_seed_but_not_on_threads(
    model: DiffI2I, scan: tuple[np.ndarray, np.ndarray]
) -> None:
    one = predict_diffi2i(model, *scan, options=EngineOptions(threads=1))
    torch.manual_seed(5)
    two = predict_diffi2i(model, *scan, options=EngineOptions(threads=2))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != predict_diffi2i(model, *scan, seed=1).tobytes()
