"""Noise and uncertainty, run as nodes on a tiny frame."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from heads import SPACING, white_noise, write_whole_bundle
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.checks import check_extras
from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.resample import lf_mask
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.bundle import load_bundle, load_model
from h2lo_bids.outputs import Grid, voxel_grid
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.noise import add_noise
from h2lo_bids.synthesis.predict import deviation_on_grid, predict_on_grid
from pipelines.participant import Branch, ImageSpec, RunSpec, add_grid

SHAPE = (14, 12, 10)
AFFINE = np.array([[1, 0, 0, -7.0], [0, 1, 0, 3], [0, 0, 1, 5], [0, 0, 0, 1]])
SEED = (42, zlib.crc32(b"sub-01_T1w"))
"""Of the run, and of the scan."""
NOISE = white_noise(0.05, (SPACING,) * 3, (16, 16, 16))  # that of `write_whole_bundle`


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return a bundle of random weights with a noise model, and its members' bundles."""
    folder = write_whole_bundle(tmp_path_factory.mktemp("models"), "T1w")
    return load_bundle(folder), sorted(folder.parent.glob("fold-*"))


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:-2, 2:-2, 2:-2] = 1
    volume = rng.random(SHAPE).astype("f4") * mask
    paths = {}
    for name, data in (("volume", volume), ("mask", mask)):
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(data, AFFINE), paths[name])
    return paths, volume, mask > 0


def _run(bundle, paths, folder, grid, mask):
    scan = Scan(folder / "sub-01_T1w.nii.gz", "01", None, "T1w", (("sub", "01"),))
    image = ImageSpec("scan", scan, bundle, (scan,), (None,))
    words = {"noise": "calibrated", "realisations": 2, "uncertainty": True}
    run = RunSpec(Settings(folder, folder / "out", noise_scale=1.5, **words))
    workflow = pe.Workflow(name="wf", base_dir=str(folder))
    files = pe.Node(IdentityInterface(fields=["volume", "mask"]), name="files")
    files.inputs.trait_set(volume=str(paths["volume"]), mask=str(mask))
    branch = Branch(workflow, image, run)
    add_grid(branch, grid, {key: (files, key) for key in ("volume", "mask")})
    done = {node.name: node for node in workflow.run().nodes()}
    names = ("synthesize", "noise01", "noise02", "std")
    found = {n: nib.load(done[f"{n}_{grid.name}"].result.outputs.out_file) for n in names}
    return {name: (made.affine, np.asarray(made.dataobj)) for name, made in found.items()}


def test_noise_and_deviation_on_two_grids(bundle, images, tmp_path):
    whole, folds = bundle
    paths, volume, mask = images
    own = _run(whole, paths, tmp_path / "a", Grid("native"), paths["mask"])
    low = np.clip(synthesize(load_model(whole), volume, mask), 0, 1)
    np.testing.assert_allclose(own["synthesize"][1], low, atol=1e-6)
    for number in (1, 2):
        how = {"seed": SEED, "realisation": number, "scale": 1.5}
        expected = add_noise(low, mask, np.eye(4), NOISE, **how)
        np.testing.assert_allclose(own[f"noise0{number}"][1], expected, atol=1e-5)
    models = [load_model(load_bundle(fold)) for fold in folds]
    seen = [np.clip(synthesize(model, volume, mask), 0, 1) for model in models]
    np.testing.assert_allclose(own["std"][1], np.std(seen, axis=0, ddof=1), atol=1e-6)
    assert own["std"][1].max() > 0

    # A grid of the same world with flipped axes and a border cut off shows the same draw.
    cut = nib.load(paths["mask"]).slicer[1:].as_reoriented(np.array([[1, -1], [0, 1], [2, 1]]))
    nib.save(cut, tmp_path / "cut.nii.gz")
    other = _run(whole, paths, tmp_path / "b", Grid("native"), tmp_path / "cut.nii.gz")
    for name, (affine, data) in other.items():
        np.testing.assert_allclose(affine, cut.affine)
        moved = own[name][1][1:].transpose(1, 0, 2)[:, ::-1]
        np.testing.assert_allclose(data, moved, atol=1e-5, err_msg=name)


def test_a_grid_of_larger_voxels_is_integrated_and_less_noisy(bundle, images, tmp_path):
    response = VoxelResponse("gauss", 3.0)
    whole, folds = bundle
    paths, volume, mask = images
    grid = voxel_grid((2.0, 2.0, 5.0), response)
    got = _run(whole, paths, tmp_path / "a", grid, paths["mask"])
    affine, low = got["synthesize"]
    inside, expected = lf_mask(mask, AFFINE, (2.0, 2.0, 5.0))
    np.testing.assert_allclose(affine, expected)
    np.testing.assert_array_equal(low > 0, inside)
    given = (load_model(whole), volume, AFFINE, expected, inside)
    integrated = np.clip(predict_on_grid(*given, response=response), 0, 1)
    np.testing.assert_allclose(low, integrated, atol=1e-6)
    assert np.abs(low - np.clip(predict_on_grid(*given), 0, 1)).max() > 1e-3
    at_frame = np.linalg.inv(AFFINE) @ expected
    how = {"seed": SEED, "realisation": 1, "acquired": True, "scale": 1.5}
    noise = add_noise(low, inside, at_frame, NOISE, **how)
    np.testing.assert_allclose(got["noise01"][1], noise, atol=1e-5)
    models = (load_model(load_bundle(fold)) for fold in folds)
    std = deviation_on_grid(models, *given[1:], response=response)
    np.testing.assert_allclose(got["std"][1], std, atol=1e-5)


def test_a_damaged_noise_model_is_named(bundle):
    damaged = SimpleNamespace(path=bundle[0].path, metadata={"noise": {"power": 3}})
    with pytest.raises(BadDataError, match="whole: not a noise model"):
        check_extras(SimpleNamespace(noise="calibrated", uncertainty=False), damaged)
