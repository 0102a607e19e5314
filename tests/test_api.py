"""The functions for notebooks; `tests/cli/test_participant.py` compares them with a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import SIDE, SPACING, head, write_bundle
from shapes import reoriented, stored

from h2lo_bids import load_model, read_image, synthesize
from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.models.baselines import Arnold
from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.synthesis import options, predict

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
VOLUME, AFFINE = head(1), np.diag([SPACING] * 3 + [1.0])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_bundle(tmp_path_factory.mktemp("model") / "T1w", "T1w"))


def test_arrays_come_back_as_arrays_and_the_mask_bounds_the_image(model, tmp_path) -> None:
    mask = VOLUME > 0
    whole = stored(mask[..., None], AFFINE)  # one volume
    low, grid = synthesize(VOLUME, model, affine=AFFINE, mask=whole)
    scan = nib.Nifti1Pair(VOLUME, None)
    scan.set_qform(AFFINE, "scanner")
    scan.to_filename(tmp_path / "a.img")  # and a.hdr
    image = synthesize(nib.load(tmp_path / "a.img"), model, mask=mask)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_value_label("sform_code") == "scanner"
    np.testing.assert_array_equal(low, np.asarray(image.dataobj))
    np.testing.assert_array_equal(grid, AFFINE)
    assert np.all(low[~mask] == 0)
    assert low[mask].min() >= 0
    assert 0 < low[mask].max() <= 1


def test_a_voxel_size_of_0_is_that_of_a_sound_sform(tmp_path) -> None:
    path = tmp_path / "a.nii"
    nib.Nifti1Image(VOLUME, AFFINE).to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[80:84] = bytes(4)  # the first side in the header
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match="voxel size 0 x 4 x 4 is impossible; that of its sform"):
        image = read_image(path)
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_array_equal(image.header.get_zooms(), (SPACING,) * 3)
    raw[254:256] = bytes(2)  # the sform's code
    path.write_bytes(raw)
    with pytest.raises(BadDataError, match="voxel size 0 x 4 x 4 mm is not a head's"):
        read_image(path)


def test_an_unlike_input_doubtful_masks_slices_and_a_turned_head_are_warned_of(model) -> None:
    negative = np.where(VOLUME > 0, VOLUME - np.quantile(VOLUME[VOLUME > 0], 0.3), 0)
    half = (VOLUME > 0) & (np.arange(len(VOLUME)) < len(VOLUME) // 2)
    turned, mask = (reoriented(stored(data, AFFINE), "PSR") for data in (negative, half))
    with (
        pytest.warns(UserWarning, match="are sagittal; for axial ones give 6x12x6"),
        pytest.warns(UserWarning, match="of its brain is negative"),
        pytest.warns(UserWarning, match="a Dice overlap of only"),
    ):
        synthesize(turned, model, mask=mask, voxel_size=(6, 6, 12))
    own = nib.load(Path(find_spec("nilearn").submodule_search_locations[0]) / TEMPLATE)
    turned = np.asarray(own.dataobj, np.float32)[::4, ::4, ::-4]
    small = np.diag([3.0, 3.0, 3.0, 1.0])  # it fits the model's frame
    with pytest.warns(UserWarning, match="orientation .* does not fit the head"):
        synthesize(turned, model, affine=small)


def test_what_cannot_be_used_is_refused_and_images_in_memory_are_checked_as_files_are(
    model,
) -> None:
    sheared = AFFINE + np.eye(4, k=1) * SPACING / 2
    spoiled, given = np.where(VOLUME.mean() < VOLUME, VOLUME, np.nan), {"affine": AFFINE}
    in_memory = ((VOLUME + 0j, AFFINE, "complex"), (spoiled, AFFINE, "NaN"))
    for kind, fault, image, more in (
        *((BadDataError, told, nib.Nifti1Image(data, a), {}) for data, a, told in in_memory),
        *((BadDataError, told, data, {"affine": a}) for data, a, told in in_memory),
        (BadDataError, "sheared", VOLUME, {"affine": sheared}),
        (BadDataError, "sheared", nib.Nifti1Image(VOLUME, sheared), {}),
        (BadDataError, "affine is not finite", VOLUME, {"affine": AFFINE * np.nan}),
        (BadDataError, "affine is missing", nib.Nifti1Image(VOLUME, None), {}),
        (BadDataError, "mask: is all zero", VOLUME, given | {"mask": 0 * VOLUME}),
        (UsageError, "affine", VOLUME, {}),
        (UsageError, "read a file with read_image", "head.nii.gz", {}),
        (UsageError, "its own affine", nib.Nifti1Image(VOLUME, AFFINE), given),
        (UsageError, "give both", VOLUME, given | {"slice_profile": "gauss"}),
    ):
        with pytest.raises(kind, match=fault):
            synthesize(image, model, **more)


def test_a_model_computes_where_it_was_loaded(model, monkeypatch) -> None:
    """On a device that no machine has: what is asked for arrives at the engine."""
    monkeypatch.setattr(options, "resolve_device", lambda name: torch.device(name))
    elsewhere, asked = load_model(model.bundle.path, device="meta"), []

    def stand_in(network, volume, here, there, wanted, *, options, **_):
        asked.append((options.device, next(network.parameters()).device.type))
        return np.zeros(wanted.shape, np.float32)

    monkeypatch.setattr(predict, "predict_on_grid", stand_in)
    synthesize(VOLUME, elsewhere, affine=AFFINE, precision="fp32")
    assert asked == [("meta", "meta")]
    monkeypatch.undo()
    for name in ("cuda:99", "gpu", "mps"):
        with pytest.raises(UsageError, match=f"device {name}: this machine offers cpu"):
            load_model("T1w", device=name)


def test_a_path_named_as_a_contrast_is_that_folder(model, monkeypatch) -> None:
    monkeypatch.chdir(model.bundle.path.parent)
    assert load_model(Path("T1w")).bundle.digest == model.bundle.digest


def test_a_model_that_draws_does_so_by_the_seed(tmp_path) -> None:
    frame = Frame((SIDE,) * 3, (SPACING,) * 3)
    save_bundle(
        tmp_path, Arnold(), contrast="T1w", frame=frame, metadata={}, card="", method="arnold"
    )
    drawing = load_model(tmp_path)
    made = [
        synthesize(VOLUME, drawing, affine=AFFINE, mask=VOLUME > 0, **seed)[0]
        for seed in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {})
    ]
    assert [np.array_equal(made[0], other) for other in made[1:]] == [True, False, False]
