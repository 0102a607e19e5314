"""The conditional INR against its published size and a voxel-by-voxel evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from h2lo_bids.models.h2lo import ConditionalInr, InrArchitecture, cell_positions


def test_coordinates_run_from_face_to_face():
    shape = (4, 5, 8)
    grid = torch.stack(
        torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape),
                       indexing="ij"), -1
    )  # fmt: skip
    position = cell_positions(grid, shape).numpy()
    for voxel in np.ndindex(shape):
        centres = [-1 + (2 * i + 1) / n for i, n in zip(voxel, shape, strict=True)]
        np.testing.assert_allclose(position[voxel], [*centres, 2 / 4, 2 / 5, 2 / 8], atol=1e-12)
    # The same as PyTorch's own grid of that convention; its axes run the other way.
    theirs = torch.nn.functional.affine_grid(
        torch.eye(3, 4, dtype=torch.float64)[None], [1, 1, *shape], align_corners=False
    )
    np.testing.assert_allclose(position[..., :3], theirs[0].flip(-1).numpy(), atol=1e-12)


def test_parts_of_a_voxel_count_under_bfloat16():
    torch.manual_seed(0)
    model = ConditionalInr(InrArchitecture(2, 4, 8, 2))
    seen: list[torch.Tensor] = []
    model.linears[0].register_forward_hook(lambda module, given, out: seen.append(out))
    shape, at = (256, 256, 256), torch.tensor([[0.703125, 0.1, 0.4]])
    features = torch.zeros(1, 4)
    moved = at + torch.tensor([1.0 / 1024, 0, 0])
    assert at.bfloat16()[0, 0] == moved.bfloat16()[0, 0]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = [model.decode(features, p, shape) for p in (at, moved)]
    assert found[0].dtype == torch.float32
    assert (seen[0] != seen[1]).all()


def test_a_decoder_of_one_layer_is_refused():
    with pytest.raises(ValueError, match="2 layers"):
        InrArchitecture(layers=1)
