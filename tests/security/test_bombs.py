"""Small files that claim or unpack to much: refused with little memory."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
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
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.models.bundle import load_bundle, load_model

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

path, before, said = Path(sys.argv[1]), most(), "read"
try:
    load_checked(path) if ".nii" in path.name else load_model(load_bundle(path))
except H2loError as err:
    said = str(err)
print(f"{(most() - before) // 1024}\\t{said}")
"""
"""Prints what a reader said of a file, and the most memory that it used (MB)."""


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


def header_of(shape: tuple[int, ...], *, extension: int | None = None) -> bytes:
    """Give the start of a NIfTI-1 file that claims a shape, and perhaps an extension."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape(shape)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    if extension is None:
        return header.binaryblock + bytes(4)
    header["vox_offset"] = 2**25
    return header.binaryblock + b"\x01\0\0\0" + struct.pack("<ii", extension, 6)


@pytest.mark.slow
@pytest.mark.parametrize("extension", [None, 2**31 - 16, -16])
def test_a_stream_far_longer_than_the_header_says_is_not_unpacked(tmp_path, extension):
    path = tmp_path / "image.nii.gz"
    start = gzip.compress(header_of((8, 8, 8), extension=extension))
    path.write_bytes(start + gzip.compress(bytes(2**20)) * 1000)  # each unpacks to a megabyte
    assert path.stat().st_size < 10_000_000
    # 512 zeros, or those behind the extension: a constant image, seen without the rest.
    assert "all zero" in read_apart(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_a_header_that_claims_more_than_the_file_can_hold_takes_no_memory(tmp_path, name):
    path = tmp_path / name
    content = header_of((645, 645, 645)) + bytes(1000)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert "is truncated (at most" in read_apart(path)


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
