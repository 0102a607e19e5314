"""Registration of a phantom moved by a known amount, in processes of their own.

ITK takes threads and seed once per process, hence the processes.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
import nibabel as nib, numpy as np
from h2lo_bids.imaging.registration import *
folder, transform, seed, *earlier = sys.argv[1:]
fixed, moving = nib.load(folder + "/fixed.nii"), nib.load(folder + "/moving.nii")
for file in earlier:
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "2"
    warp(moving, fixed, file)
forward, inverse = register(moving, fixed, folder, transform=transform, seed=int(seed))
points = np.load(folder + "/points.npy")
there = points_before(points, forward)
np.savez(folder + "/out.npz", points=points, there=there,
         back=points_before(there, inverse),
         on_fixed=warp(moving, fixed, forward).get_fdata(),
         on_moving=warp(fixed, moving, inverse).get_fdata())
"""


class Registered(NamedTuple):
    """A phantom, its points, and what became of them."""

    folder: Path
    fixed: nib.Nifti1Image
    moving: nib.Nifti1Image
    points: np.ndarray
    out: dict[str, np.ndarray]


def phantom(folder: Path) -> tuple[nib.Nifti1Image, nib.Nifti1Image, np.ndarray]:
    """Write a brain, the same with another contrast moved by MOVE, and points.

    Voxels are 3 x 3 x 4 mm, so the tolerances below are a tenth to a half of a voxel; a
    confusion of LPS with RAS, or of the two directions, would be off by 8 mm and more.
    """
    brain = make_brain()
    tilt = from_matvec(nib.eulerangles.euler2mat(0, 0.1, 0.05) @ np.diag([1, 1, 4 / 3]))
    fixed = stored(brain.get_fdata(), tilt @ brain.affine)
    moving = stored(np.sqrt(brain.get_fdata()), MOVE @ fixed.affine)
    moving = reoriented(moving, "LAI")  # storage must not matter
    points = np.random.default_rng(5).uniform(-35, 35, (200, 3))
    fixed.to_filename(folder / "fixed.nii")
    moving.to_filename(folder / "moving.nii")
    np.save(folder / "points.npy", points)
    return fixed, moving, points


def run(folder: Path, transform: str, *earlier: Path) -> dict[str, np.ndarray]:
    """Register, after other images went through earlier transforms on two threads."""
    subprocess.run(
        [sys.executable, "-c", RUN, str(folder), transform, "3", *map(str, earlier)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(np.load(folder / "out.npz"))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Registered]:
    """Return a function that registers the phantom by a transform, once for all tests."""

    @functools.cache
    def once(transform: str) -> Registered:
        folder = tmp_path_factory.mktemp(transform) / "[of] somebody, by name"
        folder.mkdir()
        return Registered(folder, *phantom(folder), run(folder, transform))

    return once


@pytest.mark.slow
@pytest.mark.parametrize(("transform", "tolerance"), [("rigid", 0.3), ("syn", 1.5)])
def test_points_and_images_follow_the_known_motion(registered, transform, tolerance) -> None:
    folder, fixed, moving, points, out = registered(transform)
    error = np.linalg.norm(out["there"] - apply_affine(MOVE, points), axis=1)
    assert error.mean() < tolerance
    assert np.linalg.norm(out["back"] - points, axis=1).max() < 0.1
    assert {file.name for file in folder.glob("*.h5")} == {"forward.h5", "inverse.h5"}
    assert not list(folder.glob("xfm_*"))
    for image, warped in ((fixed, out["on_fixed"]), (moving, out["on_moving"])):
        assert np.corrcoef(image.get_fdata().ravel(), warped.ravel())[0, 1] > 0.97


@pytest.mark.slow
def test_a_seed_gives_the_same_numbers(registered, tmp_path: Path) -> None:
    """As in a run that resumes: what it finds done is not registered again, but used."""
    phantom(tmp_path)
    again = run(tmp_path, "syn", registered("syn").folder / "forward.h5")
    for key, value in registered("syn").out.items():
        np.testing.assert_array_equal(again[key], value)


def test_an_empty_image_is_refused(tmp_path: Path, refused) -> None:
    fixed = make_brain()
    empty = stored(np.zeros(SHAPE), fixed.affine)
    how = {"transform": "rigid", "seed": 1}
    assert "cannot be registered" in refused(BadDataError, register, empty, fixed, tmp_path, **how)


def test_a_transform_that_a_full_disk_has_cut_is_not_used(tmp_path, monkeypatch, refused) -> None:
    """With the longest seed that the options take, which is no obstacle."""
    import ants

    brain = make_brain()
    for kept in (0, 400):

        def registration(**_: object) -> dict[str, list[str]]:
            noise = np.random.default_rng(0).normal(size=(3, 9, 9, 9)).astype(np.float32)
            field = ants.merge_channels([ants.from_numpy(part) for part in noise])
            files = [str(tmp_path / name) for name in ("whole.nii.gz", "cut.nii.gz")]
            for file in files:
                ants.image_write(field, file)
            content = Path(files[1]).read_bytes()
            Path(files[1]).write_bytes(content[:kept])  # noqa: B023
            return {"fwdtransforms": files[:1], "invtransforms": files[1:]}

        monkeypatch.setattr(ants, "registration", registration)
        how = {"transform": "syn", "seed": 2**63 - 1}
        message = refused(InputOutputError, register, brain, brain, tmp_path, **how)
        assert message.startswith(f"{tmp_path}: ANTs' transforms were not written whole")
