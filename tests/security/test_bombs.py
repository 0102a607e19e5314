"""Small files that would unpack to much are refused."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from h2lo_bids.errors import BadDataError
from h2lo_bids.models.bundle import load_bundle, load_model


def test_a_checkpoint_whose_parts_are_compressed_is_refused(tmp_path):
    """PyTorch writes none such, and would unpack them, however large they become."""
    path, stream = tmp_path / "T1w.pth", io.BytesIO()
    torch.save({"model_state_dict": {"x": torch.zeros(3)}, "args": {}}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    with pytest.raises(BadDataError, match="not a PyTorch checkpoint"):
        load_bundle(path)


def test_one_number_cannot_stand_for_terabytes(tmp_path):
    path = tmp_path / "T1w.pth"
    with torch.device("meta"):
        from h2lo_bids.models.h2lo import H2lo, H2loArchitecture

        whole = H2lo(H2loArchitecture(channels=4096)).state_dict()
    one = torch.zeros(1)
    # Strides of 0, as in a tensor that was expanded.
    state = {
        name: one.expand(value.shape) if value.shape else torch.zeros(())
        for name, value in whole.items()
    }
    torch.save({"model_state_dict": state, "args": {"encoder_base_channels": 4096}}, path)
    assert path.stat().st_size < 100_000
    with pytest.raises(BadDataError, match="larger than what the file holds"):
        load_model(load_bundle(path))
