"""Where things end up: operators with weights set by hand reveal values and positions.

One returns its input, the other a linear function of the trunk's coordinates. They go through
the same workflows as trained ones, on oblique scans of two orientations and voxel sizes, as
bundles (frame on the brain) and as released checkpoints (frame on the array).
"""

from __future__ import annotations

import zlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import SPACING, white_noise, write_whole_bundle
from nibabel.affines import apply_affine, from_matvec
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from scipy.ndimage import binary_erosion
from shapes import reoriented, stored
from skeletons import anat, scan_at

from h2lo_bids.cli.checks import check_extras
from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.resample import lf_mask
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.bundle import Bundle, load_bundle, load_model, members, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo, H2loArchitecture
from h2lo_bids.outputs import Grid, voxel_grid
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import add_noise
from h2lo_bids.synthesis.predict import predict_on_grid
from pipelines.engine import run_workflow
from pipelines.participant import Branch, ImageSpec, RunSpec, add_grid, prepare_scan

FRAME = Frame((64, 70, 68))
SLOPES = np.array([0.07, 0.11, 0.17])
"""No sum of half-voxel shifts equals a whole one, nor one axis another."""
MIDDLE = np.array([4.0, -9.0, 13.0])
"""The head's centre in mm of the scanner."""
TURN = nib.eulerangles.euler2mat(0.25, -0.17, 0.21)


def _empty() -> H2lo:
    model = H2lo(H2loArchitecture(channels=3, n_basis=4, width=8, trunk="mlp"))
    for parameter in model.parameters():
        parameter.requires_grad_(False).zero_()
    return model.eval()


def _copies() -> H2lo:
    """G(u)(x) = u(x): the middle tap of every convolution is 1, and t_1 = 1."""
    model = _empty()
    for layer in model.encoder.convolutions:
        layer.weight[0, 0, 1, 1, 1] = 1
    model.trunk.net[-1].bias[0] = 1
    return model


def _locates() -> H2lo:
    """G(u)(x) = 1/2 + slopes . x, whatever the image."""
    model = _empty()
    model.encoder.convolutions[-1].bias[0] = 1
    linears = [layer for layer in model.trunk.net if isinstance(layer, torch.nn.Linear)]
    linears[0].bias[:3] = 4  # positive, so that the rectifiers change nothing
    for layer in linears[:3]:
        layer.weight[:3, :3] = torch.eye(3)
    linears[-1].weight[0, :3] = torch.tensor(SLOPES, dtype=torch.float32)
    linears[-1].bias[0] = 0.5 - 4 * float(SLOPES.sum())
    return model


def _bundle(folder: Path, model: H2lo, anchor: str) -> Bundle:
    if anchor == "brain":
        return save_bundle(folder, model, contrast="T1w", frame=FRAME, metadata={}, card="")
    file, sizes = folder.with_suffix(".pth"), {"feature_dim": 4, "encoder_base_channels": 3}
    args = {**sizes, "trunk_type": "mlp", "decoder_depth": 4, "decoder_width": 8, "omega": 30.0}
    torch.save({"model_state_dict": model.state_dict(), "args": args, "epoch": 1}, file)
    return load_bundle(file, contrast="T1w")


def _brightness(world: np.ndarray) -> np.ndarray:
    """Return the head at positions in mm: an ellipsoid, brighter towards one corner."""
    from_middle = (world - MIDDLE) @ TURN
    inside = np.sum((from_middle / [23, 26, 24]) ** 2, -1) < 1
    return np.where(inside, 200 + from_middle @ [0.9, 0.5, -0.7] + 30, 0)


def _scan(codes: str, zooms: tuple[float, float, float]) -> nib.Nifti1Image:
    linear = TURN @ np.diag(zooms)
    shape = np.ceil(np.array([66, 72, 70]) / zooms).astype(int)
    off = np.array([2.0, -1.0, 1.5])  # the brain is not in the middle of the scan
    affine = from_matvec(linear, MIDDLE + off - linear @ ((shape - 1) / 2))
    world = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    turned = reoriented(stored(_brightness(world), affine), codes)
    turned.set_sform(turned.affine, 1)
    return turned


def _world(image: nib.Nifti1Image, where: np.ndarray) -> np.ndarray:
    return apply_affine(image.affine, np.argwhere(where))


def _coordinates(scan: nib.Nifti1Image, world: np.ndarray, anchor: str) -> np.ndarray:
    """Return the trunk's coordinates as the bundle's frame defines them, from mm alone.

    The frame's axes are the scan's own, nearest to right, anterior, superior.
    """
    canonical = nib.as_closest_canonical(scan)
    spacing = nib.affines.voxel_sizes(canonical.affine)
    axes = canonical.affine[:3, :3] / spacing
    if anchor == "brain":
        along = _world(scan, scan.get_fdata() > 0) @ axes
        middle = (along.min(0) + along.max(0)) / 2
        return 2 * (world @ axes - middle) / (np.array(FRAME.shape) - 1)
    centre = apply_affine(canonical.affine, (np.array(canonical.shape) - 1) / 2)
    sides = np.maximum(2, np.rint(np.array(canonical.shape) * spacing))
    return 2 * ((world - centre) @ axes) / (sides - 1)


SCANS = product(("brain", "array"), (("PIR", (1.0, 1.0, 1.0)), ("LIA", (2.0, 1.3, 0.9))))


@pytest.fixture(scope="module", params=SCANS, ids=lambda param: f"{param[0]}-{param[1][0]}")
def case(request, tmp_path_factory):
    """Return anchor, scan, and what two operators made of it on two grids."""
    anchor, (codes, zooms) = request.param
    folder = tmp_path_factory.mktemp("case")
    scan, own = _scan(codes, zooms), scan_at(folder / anat("01", None, "T1w"))
    own.path.parent.mkdir(parents=True)
    nib.save(scan, own.path)
    settings = Settings(folder, folder / "out", skull_strip="skip", lf_grid=((2.0, 3.0, 5.0),))
    for name, model in (("copies", _copies()), ("locates", _locates())):
        bundle = _bundle(folder / name, model, anchor)
        assert bundle.frame.anchor == anchor
        image = ImageSpec(name, own, bundle, (own,), (None,))
        workflow = pe.Workflow(name=f"{name}_wf", base_dir=str(folder))
        branch = Branch(workflow, image, RunSpec(settings))
        made = prepare_scan(branch)
        for grid in branch.grids:
            add_grid(branch, grid, made)
        assert run_workflow(workflow, {}, settings, folder / "crash") == []
    files = {
        "preproc": "copies_wf/prepare/native",
        "mask": "copies_wf/prepare/mask",
        "copied": "copies_wf/synthesize_native/lowfield",
        "located": "locates_wf/synthesize_native/lowfield",
        "coarse": "locates_wf/synthesize_lf_2x3x5/lowfield",
    }
    return anchor, scan, {key: nib.load(folder / f"{name}.nii.gz") for key, name in files.items()}


def test_what_was_put_in_comes_out_in_its_place(case):
    _, scan, found = case
    low, given = found["copied"], scan.get_fdata()
    np.testing.assert_allclose(low.affine, scan.affine, atol=1e-5)
    mask = given > 0
    np.testing.assert_array_equal(low.get_fdata() > 0, mask)
    truth = given / given.max()
    np.testing.assert_allclose(found["preproc"].get_fdata(), truth, atol=2e-6)
    if np.allclose(scan.header.get_zooms(), 1):  # voxels are moved, never interpolated
        np.testing.assert_allclose(low.get_fdata(), truth, atol=2e-6)
    else:
        # Away from the border, across which nothing is linear.
        error = np.abs(low.get_fdata() - truth)[binary_erosion(mask, iterations=5)]
        # The head's brightness changes by 0.5 % per mm: half a voxel astray shows.
        assert np.median(error) < 5e-4
        assert error.max() < 5e-3
    for name, image in found.items():  # no viewer reads another transform
        header = image.header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1), name
        assert header.get_xyzt_units()[0] == "mm", name
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)


@pytest.mark.parametrize("grid", ["located", "coarse"])
def test_the_trunk_sees_where_a_voxel_is(case, grid):
    anchor, scan, found = case
    low = found[grid]
    where = low.get_fdata() > 0
    world = _world(low, where)
    # At the rim a coarse voxel is the mean over the part of it that is brain.
    inside = binary_erosion(where, np.ones((3, 3, 3))) if grid == "coarse" else where
    truth = 0.5 + _coordinates(scan, _world(low, inside), anchor) @ SLOPES
    # Where voxels are only moved, the frame is centred to the nearest voxel.
    whole = anchor == "brain" and np.allclose(scan.header.get_zooms(), 1)
    shifts = np.array(list(product((-0.5, 0, 0.5), repeat=3))) if whole else np.zeros((1, 3))
    steps = 2 * shifts / (np.array(FRAME.shape) - 1)
    errors = [np.abs(low.get_fdata()[inside] - truth - step @ SLOPES).max() for step in steps]
    assert min(errors) < 1e-5
    brain = _world(scan, scan.get_fdata() > 0)
    np.testing.assert_allclose(world.mean(0), brain.mean(0), atol=0.3)


# Noise and uncertainty, run as nodes on a tiny frame.

AFFINE = from_matvec(TURN, [-7, 3, 5])
INSIDE = np.pad(np.ones((10, 8, 6), bool), 2)
VOLUME = np.random.default_rng(0).random(INSIDE.shape, np.float32) * INSIDE
SEED = (42, zlib.crc32(b"sub-01_T1w"))
"""Of the run, and of the scan."""
NOISE = white_noise(0.05, (SPACING,) * 3, (16, 16, 16))  # that of `write_whole_bundle`
NATIVE, COARSE = Grid("native"), voxel_grid((2.0, 2.0, 5.0), VoxelResponse("gauss", 3.0))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """Return a bundle of random weights with a noise model and members."""
    return load_bundle(write_whole_bundle(tmp_path_factory.mktemp("models"), "T1w"))


def test_noise_and_deviation_on_each_grid_are_those_of_the_functions(bundle, tmp_path):
    scan = scan_at(tmp_path / anat("01", None, "T1w"))
    words = {"noise": "calibrated", "realisations": 2, "uncertainty": True, "noise_scale": 1.5}
    run = RunSpec(Settings(tmp_path, tmp_path / "out", **words))
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    files = pe.Node(IdentityInterface(fields=["volume", "mask"]), name="files")
    for name, data in (("volume", VOLUME), ("mask", INSIDE)):
        nib.save(stored(data, AFFINE), tmp_path / f"{name}.nii.gz")
        files.inputs.trait_set(**{name: str(tmp_path / f"{name}.nii.gz")})
    branch = Branch(workflow, ImageSpec("scan", scan, bundle, (scan,), (None,)), run)
    for grid in (NATIVE, COARSE):
        add_grid(branch, grid, {key: (files, key) for key in ("volume", "mask")})
    made = {node.name: node.result.outputs for node in workflow.run().nodes()}
    inside, affine = lf_mask(INSIDE, AFFINE, COARSE.spacing)
    model, folds = load_model(bundle), [*members(bundle)]
    for grid, wanted, place in ((NATIVE, INSIDE, AFFINE), (COARSE, inside, affine)):
        how = {"response": COARSE.response if grid is COARSE else None}
        low, *seen = (
            np.clip(predict_on_grid(each, VOLUME, AFFINE, place, wanted, **how), 0, 1)
            for each in (model, *folds)
        )
        expected = {"synthesize": low, "std": np.std(seen, axis=0, ddof=1)}
        for number in (1, 2):
            drawn = {"seed": SEED, "realisation": number, "acquired": grid is COARSE}
            to_frame = np.linalg.inv(AFFINE) @ place
            noisy = add_noise(low, wanted, to_frame, NOISE, scale=1.5, **drawn)
            expected[f"noise0{number}"] = noisy
        for name, values in expected.items():
            image = nib.load(made[f"{name}_{grid.name}"].out_file)
            np.testing.assert_allclose(image.affine, place, atol=1e-5)
            np.testing.assert_allclose(image.dataobj, values, atol=1e-5, err_msg=name)
            assert values.max() > 0


def test_a_damaged_noise_model_is_named(bundle):
    damaged = SimpleNamespace(path=bundle.path, metadata={"noise": {"power": 3}})
    with pytest.raises(BadDataError, match="whole: not a noise model"):
        check_extras(SimpleNamespace(noise="calibrated", uncertainty=False), damaged)
