"""Registration of a phantom moved by a known amount, in processes of their own.

ITK takes threads and seed once per process, hence the processes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from shapes import reoriented, stored
from small_brains import SHAPE, make_brain

from h2lo_bids.errors import BadDataError, InputOutputError
from h2lo_bids.imaging.registration import register

ROOT = Path(__file__).resolve().parents[2]
MOVE = from_matvec(nib.eulerangles.euler2mat(0.1, -0.05, 0.08), [4, -6, 3])
RUN = """
import os, sys
from pathlib import Path
import nibabel as nib, numpy as np
from h2lo_bids.imaging.registration import *
folder, *earlier = map(Path, sys.argv[1:])
fixed, moving = nib.load(folder / "fixed.nii"), nib.load(folder / "moving.nii")
points = np.load(folder / "points.npy")
for file in earlier:
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "2"
    warp(moving, fixed, file)
for transform in ("syn", "rigid"):
    (out := folder / transform).mkdir()
    forward, inverse = register(moving, fixed, out, transform=transform, seed=3)
    there = points_before(points, forward)
    np.savez(folder / transform, there=there, back=points_before(there, inverse),
             on_fixed=warp(moving, fixed, forward).get_fdata(),
             on_moving=warp(fixed, moving, inverse).get_fdata())
"""


@pytest.mark.slow
def test_points_and_images_follow_the_known_motion_and_a_seed_gives_the_same_numbers(
    tmp_path: Path,
) -> None:
    """Also in a run that resumes: what it finds done is not registered again, but used.

    Voxels are 3 x 3 x 4 mm, so the tolerances below are a tenth to a half of a voxel; a
    confusion of LPS with RAS, or of the two directions, would be off by 8 mm and more.
    """
    brain, earlier, found = make_brain(), [], []
    tilt = from_matvec(nib.eulerangles.euler2mat(0, 0.1, 0.05) @ np.diag([1, 1, 4 / 3]))
    fixed = stored(brain.get_fdata(), tilt @ brain.affine)
    moving = stored(np.sqrt(brain.get_fdata()), MOVE @ fixed.affine)
    moving = reoriented(moving, "LAI")  # storage must not matter
    points = np.random.default_rng(5).uniform(-35, 35, (200, 3))
    for folder in (tmp_path / "[of] somebody, by name", tmp_path / "resumed"):
        folder.mkdir()
        fixed.to_filename(folder / "fixed.nii")
        moving.to_filename(folder / "moving.nii")
        np.save(folder / "points.npy", points)
        words = [sys.executable, "-c", RUN, str(folder), *earlier]
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        found.append({key: dict(np.load(folder / f"{key}.npz")) for key in ("rigid", "syn")})
        for transform in ("rigid", "syn"):
            left = {file.name for file in (folder / transform).iterdir()}
            assert left == {"forward.h5", "inverse.h5"}
        earlier = [str(folder / "syn" / "forward.h5")]
    for transform, tolerance in (("rigid", 0.3), ("syn", 1.5)):
        out, again = (run[transform] for run in found)
        error = np.linalg.norm(out["there"] - apply_affine(MOVE, points), axis=1)
        assert error.mean() < tolerance
        assert np.linalg.norm(out["back"] - points, axis=1).max() < 0.1
        for image, warped in ((fixed, out["on_fixed"]), (moving, out["on_moving"])):
            assert np.corrcoef(image.get_fdata().ravel(), warped.ravel())[0, 1] > 0.97
        for key, value in out.items():
            np.testing.assert_array_equal(again[key], value)


def test_an_empty_image_is_refused(tmp_path: Path, refused) -> None:
    fixed = make_brain()
    empty = stored(np.zeros(SHAPE), fixed.affine)
    how = {"transform": "rigid", "seed": 1}
    assert "cannot be registered" in refused(BadDataError, register, empty, fixed, tmp_path, **how)


@pytest.mark.parametrize("kept", [0, 400])
def test_a_transform_that_a_full_disk_has_cut_is_not_used(
    tmp_path, monkeypatch, refused, kept
) -> None:
    """With the longest seed that the options take, which is no obstacle."""
    import ants

    def registration(**_: object) -> dict[str, list[str]]:
        noise = np.random.default_rng(0).normal(size=(3, 9, 9, 9)).astype(np.float32)
        field = ants.merge_channels([ants.from_numpy(part) for part in noise])
        whole, cut = files = [str(tmp_path / name) for name in ("whole.nii.gz", "cut.nii.gz")]
        for file in files:
            ants.image_write(field, file)
        Path(cut).write_bytes(Path(cut).read_bytes()[:kept])
        return {"fwdtransforms": [whole], "invtransforms": [cut]}

    monkeypatch.setattr(ants, "registration", registration)
    how, brain = {"transform": "syn", "seed": 2**63 - 1}, make_brain()
    message = refused(InputOutputError, register, brain, brain, tmp_path, **how)
    assert message.startswith(f"{tmp_path}: ANTs' transforms were not written whole")
