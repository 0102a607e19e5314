"""A small head of spheres, so that tests need no real label map."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.phantom.anatomy import Anatomy

SHELLS = ((88, 511), (80, 515), (72, 24), (66, 3), (52, 2), (14, 4))
"""Radius in mm and label, from outside to inside."""


@pytest.fixture(scope="session")
def ball() -> Anatomy:
    where = (np.indices((64,) * 3) - 31.5) * 3.0
    radius = np.sqrt(np.sum(where**2, axis=0))
    labels = np.zeros((64,) * 3, np.int16)
    for outer, label in SHELLS:
        labels[radius < outer] = label
    labels[(where[0] > 0) & np.isin(labels, (2, 3, 4))] += 39  # the other half of the brain
    return Anatomy(labels, 3.0, "ball")


@pytest.fixture(scope="session")
def ball_folder(tmp_path_factory, ball: Anatomy) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "._ball_01.nii.gz").write_bytes(b"\0\5\x16\7Mac OS X")  # is no label map
    nib.save(nib.Nifti1Image(ball.labels, ball.affine), folder / "ball_01.nii.gz")
    (folder / "LICENSE.txt").write_text("Apache License, Version 2.0")
    return folder
