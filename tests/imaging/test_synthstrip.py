"""SynthStrip's network and its surroundings, without its weights."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import apply_affine, from_matvec
from shapes import stored

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.brain import find_weights
from h2lo_bids.imaging.synthstrip import load_network, network_grid

# (in, out) of each level's first convolution, as in the published checkpoint.
LEVELS = {
    "encoder": [(1, 16), (16, 32), (32, 64), *[(64, 64)] * 3],
    "decoder": [(64, 64), *[(128, 64)] * 4, (96, 32)],
}


def checkpoint() -> dict[str, torch.Tensor]:
    sizes = {"remaining.0": (48, 16), "remaining.1": (16, 16), "remaining.2": (16, 1)}
    for part, pairs in LEVELS.items():
        for k, (n, m) in enumerate(pairs):
            sizes |= {f"{part}.{k}.0": (n, m), f"{part}.{k}.1": (m, m)}
    torch.manual_seed(0)
    state = {}
    for name, (n, m) in sizes.items():
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


def test_other_files_are_one_line_and_run_nothing(tmp_path: Path, refused) -> None:
    path, made = tmp_path / "w.pt", tmp_path / "made"
    for save in (
        lambda: path.write_text(f"cos\nmkdir\n(V{made}\ntR."),  # a pickle that calls it
        lambda: torch.save({"model_state_dict": {"a": torch.zeros(1)}}, path),
        lambda: torch.save({"weights": checkpoint()}, path),
    ):
        save()
        assert "SynthStrip's weights" in refused(BadDataError, load_network, path)
    assert not made.exists()
    assert "cannot be read" in refused(MissingInputError, load_network, tmp_path)
    path.unlink()
    assert "w.pt" in refused(MissingInputError, find_weights, path, "synthstrip")


def test_grid_is_lia_one_millimetre_and_holds_the_scan() -> None:
    affine = from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.1) @ np.diag([2, 2, 4.0]))
    image = stored(np.zeros((80, 90, 40)), affine)
    shape, grid = network_grid(image)
    assert nib.aff2axcodes(grid) == ("L", "I", "A")
    np.testing.assert_allclose(nib.affines.voxel_sizes(grid), 1)
    assert set(shape) <= {192, 256, 320}
    middle = apply_affine(grid, (np.array(shape) - 1) / 2)
    np.testing.assert_allclose(middle, apply_affine(affine, (39.5, 44.5, 19.5)))
    corners = np.array(list(product(*[(0, n - 1) for n in image.shape])))
    inside = apply_affine(np.linalg.inv(grid) @ affine, corners)
    assert np.all((inside > -0.5) & (inside < np.array(shape) - 0.5))


def test_weights_are_found_by_a_step_that_runs_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREESURFER_HOME", ".")
    (file := tmp_path / "models" / "synthstrip.1.pt").parent.mkdir()
    file.touch()
    assert find_weights(None, "synthstrip") == find_weights(None, "auto") == file
