"""Small models that claim or unpack to much: refused with little memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from h2lo_bids.errors import BadDataError
from h2lo_bids.models.bundle import load_bundle, load_model

ROOT = Path(__file__).resolve().parents[2]
MOST = 200
"""MB beyond what the imports take."""
READ = """
import resource, sys, torch
from pathlib import Path
from h2lo_bids.errors import H2loError
from h2lo_bids.models.bundle import load_bundle, load_model

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

path, before, said = Path(sys.argv[1]), most(), "read"
try:
    load_model(load_bundle(path))
except H2loError as err:
    said = str(err)
print(f"{(most() - before) // 1024}\\t{said}")
"""
"""Prints what is said of a model, and the most memory that it used (MB)."""


def read_apart(path: Path) -> str:
    """Read a file in a process of its own; give what it said, once its memory is checked."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used, said = done.stdout.rstrip("\n").split("\t")
    assert int(used) < MOST, said
    return said


@pytest.mark.slow
def test_a_checkpoint_that_unpacks_to_far_more_is_refused(tmp_path):
    path, stream = tmp_path / "T1w.pth", io.BytesIO()
    torch.save({"model_state_dict": {"x": torch.zeros(3)}, "args": {}}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            more = bytes(2**29) if part.filename.endswith("data/0") else b""
            new.writestr(part.filename, old.read(part) + more)
    assert path.stat().st_size < 10_000_000
    assert "not a PyTorch checkpoint" in read_apart(path)


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
