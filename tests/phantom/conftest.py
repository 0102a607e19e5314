"""A small head of spheres, so that tests need no real label map."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.phantom.anatomy import Anatomy

SHELLS = ((88, 511), (80, 515), (72, 24), (66, 3), (52, 2), (14, 4))
"""Radius in mm and label, from outside to inside."""


def ball_labels(spacing: float, side: int, shells=SHELLS) -> np.ndarray:
    where = (np.indices((side,) * 3) - (side - 1) / 2) * spacing
    radius = np.sqrt(np.sum(where**2, axis=0))
    labels = np.zeros((side,) * 3, np.int16)
    for outer, label in shells:
        labels[radius < outer] = label
    right = where[0] > 0
    for left, other in ((2, 41), (3, 42), (4, 43)):
        labels[right & (labels == left)] = other
    return labels


@pytest.fixture(scope="session")
def ball() -> Anatomy:
    return Anatomy(ball_labels(3.0, 64), 3.0, "ball")


@pytest.fixture(scope="session")
def small() -> Anatomy:
    """Return a ball of 72 mm at 1 mm, which a small frame can hold."""
    shells = ((36, 511), (33, 515), (30, 24), (27, 3), (20, 2), (6, 4))
    return Anatomy(ball_labels(1.0, 80, shells), 1.0, "small ball")


@pytest.fixture(scope="session")
def ball_folder(tmp_path_factory, ball: Anatomy) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "._ball_01.nii.gz").write_bytes(b"\0\5\x16\7Mac OS X")  # is no label map
    nib.save(nib.Nifti1Image(ball.labels, ball.affine), folder / "ball_01.nii.gz")
    (folder / "LICENSE.txt").write_text("Apache License, Version 2.0")
    return folder
