"""A small dataset of stripped heads, each scanned at high and at low field."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from heads import SIDE, SPACING, head
from scipy.ndimage import gaussian_filter

BAD = "05"
"""The subject whose low-field image is damaged."""


def write_pairs(root: Path, subjects: int = 5) -> Path:
    """Write subjects with one scan of each field strength; the last one is damaged."""
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "pairs", "BIDSVersion": "1.10.0"})
    )
    (root / "README").write_text("Small heads that a test made of ellipsoids.\n" * 5)
    for number in range(1, subjects + 1):
        label = f"{number:02d}"
        high = _textured(number)
        low = np.where(high > 0, 300 + 0.4 * gaussian_filter(high, 1.0), 0).astype(np.float32)
        for session, tesla, data in (("HF", 3.0, high), ("LF", 0.064, low)):
            stem = root / f"sub-{label}/ses-{session}/anat/sub-{label}_ses-{session}_T1w"
            _write(stem, data, tesla)
    damaged = root / f"sub-{BAD}/ses-LF/anat/sub-{BAD}_ses-LF_T1w.nii.gz"
    damaged.write_bytes(b"\x1f\x8bnothing")
    return root


def _textured(seed: int) -> np.ndarray:
    """Return a head with structure enough to be registered."""
    data = head(seed)
    blobs = gaussian_filter(np.random.default_rng(seed).normal(size=data.shape), 2.0)
    return np.where(data > 0, data + 2000 * blobs, 0).clip(0).astype(np.float32)


def _write(stem: Path, data: np.ndarray, tesla: float) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -SPACING * (SIDE - 1) / 2
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, stem.with_suffix(".nii.gz"))
    stem.with_suffix(".json").write_text(json.dumps({"MagneticFieldStrength": tesla}))
