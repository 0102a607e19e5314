"""SynthStrip's network and its surroundings, without its weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec
from shapes import ellipsoid, stored

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging import synthstrip
from h2lo_bids.imaging.brain import extract_brain, find_weights
from h2lo_bids.imaging.masks import dice
from h2lo_bids.imaging.synthstrip import load_network, network_grid

# (in, out) of every convolution, as in the published checkpoint.
SHAPES = {
    **{f"encoder.{k}.0": pair for k, pair in enumerate([(1, 16), (16, 32), (32, 64)])},
    **{f"encoder.{k}.0": (64, 64) for k in (3, 4, 5)},
    **{f"encoder.{k}.1": (n, n) for k, n in enumerate([16, 32, 64, 64, 64, 64])},
    "decoder.0.0": (64, 64),
    **{f"decoder.{k}.0": (128, 64) for k in (1, 2, 3, 4)},
    "decoder.5.0": (96, 32),
    **{f"decoder.{k}.1": (n, n) for k, n in enumerate([64, 64, 64, 64, 64, 32])},
    "remaining.0": (48, 16),
    "remaining.1": (16, 16),
    "remaining.2": (16, 1),
}


def checkpoint() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = {}
    for name, (n, m) in SHAPES.items():
        state[f"{name}.conv.weight"] = torch.randn(m, n, 3, 3, 3) * 0.05
        state[f"{name}.conv.bias"] = torch.zeros(m)
    return state


def test_a_checkpoint_of_the_published_names_and_sizes_loads(tmp_path: Path) -> None:
    assert sum(w.numel() for w in checkpoint().values()) == 2_566_561
    torch.save({"model_state_dict": checkpoint()}, tmp_path / "w.pt")
    network = load_network(tmp_path / "w.pt")
    assert not network.training
    with torch.no_grad():
        assert network(torch.rand(1, 1, 64, 64, 64)).shape == (1, 1, 64, 64, 64)
    torch.testing.assert_close(dict(network.state_dict()), checkpoint(), rtol=0, atol=0)


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/h2lo-bomb"),))


def test_other_files_are_one_line(tmp_path: Path, refused) -> None:
    path = tmp_path / "w.pt"
    for save in (
        lambda: path.write_text("hello"),
        lambda: path.write_bytes(pickle.dumps({"model_state_dict": Bomb()})),
        lambda: torch.save({"model_state_dict": {"a": torch.zeros(1)}}, path),
        lambda: torch.save({"weights": checkpoint()}, path),
    ):
        save()
        assert "SynthStrip's weights" in refused(BadDataError, load_network, path)
    assert not Path("/tmp/h2lo-bomb").exists()
    path.unlink()
    assert "w.pt" in refused(MissingInputError, find_weights, path, "synthstrip")


def phantom() -> tuple[nib.Nifti1Image, np.ndarray]:
    affine = from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.1) @ np.diag([2, 2, 4.0]))
    affine[:3, 3] = [5, -9, 12] - apply_affine(affine, (39.5, 44.5, 19.5))
    ball = ellipsoid((60, 60, 60), (5, -9, 12), affine, (80, 90, 40))
    return stored(np.where(ball, 90, 10), affine), ball


def test_grid_is_lia_one_millimetre_and_holds_the_scan() -> None:
    image, _ = phantom()
    shape, affine = network_grid(image)
    assert nib.aff2axcodes(affine) == ("L", "I", "A")
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), 1)
    assert set(shape) <= {192, 256, 320}
    np.testing.assert_allclose(apply_affine(affine, (np.array(shape) - 1) / 2), [5, -9, 12])
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape])).reshape(3, -1).T
    inside = apply_affine(np.linalg.inv(affine) @ image.affine, corners)
    assert np.all((inside > -0.5) & (inside < np.array(shape) - 0.5))


def test_mask_comes_back_to_the_scans_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in network that calls bright voxels brain shows the way there and back."""
    image, ball = phantom()
    seen = {}

    def bright(x: torch.Tensor) -> torch.Tensor:
        seen["range"] = (float(x.min()), float(x.max()))
        return 1.0 + (0.5 - x) * 10

    monkeypatch.setattr(synthstrip, "load_network", lambda file: bright)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREESURFER_HOME", ".")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "synthstrip.1.pt").touch()
    # A step of the workflow looks in a folder of its own.
    assert find_weights(None, "synthstrip") == tmp_path / "models" / "synthstrip.1.pt"
    result = extract_brain(image)
    assert result.method == "synthstrip"
    assert seen["range"] == (0.0, 1.0)
    mask = np.asarray(result.image.dataobj) > 0
    assert dice(mask, ball) > 0.98
