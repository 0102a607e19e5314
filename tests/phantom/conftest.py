"""A small head of spheres, so that tests need no real label map."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest
from shapes import shelled

from h2lo_bids.phantom.anatomy import Anatomy


@pytest.fixture(scope="session")
def ball() -> Anatomy:
    return shelled({14: 4, 52: 2, 66: 3, 72: 24, 80: 515, 88: 511}, 64, 3.0)


@pytest.fixture(scope="session")
def ball_folder(tmp_path_factory, ball: Anatomy) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "._ball_01.nii.gz").write_bytes(b"\0\5\x16\7Mac OS X")  # is no label map
    nib.save(nib.Nifti1Image(ball.labels, ball.affine), folder / "ball_01.nii.gz")
    (folder / "LICENSE.txt").write_text("Apache License, Version 2.0")
    (folder / "LICENSES").mkdir()
    return folder
