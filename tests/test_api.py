"""The functions for notebooks; `tests/cli/test_participant.py` compares them with a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import SIDE, SPACING, head, write_bundle
from shapes import reoriented

from h2lo_bids import load_model, read_image, synthesize
from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.models.baselines import Arnold
from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.synthesis import options, predict

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_bundle(tmp_path_factory.mktemp("model") / "T1w", "T1w"))


def test_arrays_come_back_as_arrays_and_the_mask_bounds_the_image(model, tmp_path) -> None:
    volume, affine = head(1), np.diag([SPACING, SPACING, SPACING, 1.0])
    mask = volume > 0
    whole = nib.Nifti1Image(mask[..., None].astype(np.uint8), affine)  # one volume
    low, grid = synthesize(volume, model, affine=affine, mask=whole)
    scan = nib.Nifti1Pair(volume, None)
    scan.set_qform(affine, "scanner")
    scan.to_filename(tmp_path / "a.img")  # and a.hdr
    image = synthesize(nib.load(tmp_path / "a.img"), model, mask=mask)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_value_label("sform_code") == "scanner"
    np.testing.assert_array_equal(low, np.asarray(image.dataobj))
    np.testing.assert_array_equal(grid, affine)
    assert np.all(low[~mask] == 0)
    assert low[mask].min() >= 0
    assert 0 < low[mask].max() <= 1


def test_a_voxel_size_of_0_is_that_of_a_sound_sform(tmp_path) -> None:
    path, affine = tmp_path / "a.nii", np.diag([SPACING, SPACING, SPACING, 1.0])
    nib.Nifti1Image(head(1), affine).to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[80:84] = bytes(4)  # the first side in the header
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match="voxel size 0 x 4 x 4 is impossible; that of its sform"):
        image = read_image(path)
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_array_equal(image.header.get_zooms(), (SPACING,) * 3)
    raw[254:256] = bytes(2)  # the sform's code
    path.write_bytes(raw)
    with pytest.raises(BadDataError, match="voxel size 0 x 4 x 4 mm is not a head's"):
        read_image(path)


def test_an_unlike_input_and_slices_in_another_order_than_ras_are_warned_of(model) -> None:
    volume, affine = head(1), np.diag([SPACING, SPACING, SPACING, 1.0])
    negative = np.where(volume > 0, volume - np.quantile(volume[volume > 0], 0.3), 0)
    turned = reoriented(nib.Nifti1Image(negative, affine), "PSR")
    mask = reoriented(nib.Nifti1Image((volume > 0).astype(np.uint8), affine), "PSR")
    with (
        pytest.warns(UserWarning, match="are sagittal; for axial ones give 6x12x6"),
        pytest.warns(UserWarning, match="of its brain is negative"),
    ):
        synthesize(turned, model, mask=mask, voxel_size=(6, 6, 12))


def test_a_mask_of_half_a_brain_and_a_turned_head_are_warned_of(model) -> None:
    volume, affine = head(1), np.diag([SPACING, SPACING, SPACING, 1.0])
    half = (volume > 0) & (np.arange(len(volume)) < len(volume) // 2)
    with pytest.warns(UserWarning, match="a Dice overlap of only"):
        synthesize(volume, model, affine=affine, mask=half)
    own = nib.load(Path(find_spec("nilearn").submodule_search_locations[0]) / TEMPLATE)
    turned = np.asarray(own.dataobj, np.float32)[::4, ::4, ::-4]
    small = np.diag([3.0, 3.0, 3.0, 1.0])  # it fits the model's frame
    with pytest.warns(UserWarning, match="orientation .* does not fit the head"):
        synthesize(turned, model, affine=small)


def test_images_in_memory_are_checked_as_files_are(model) -> None:
    volume, affine = head(1), np.diag([SPACING] * 3 + [1.0])
    sheared = affine + np.eye(4, k=1) * SPACING / 2
    spoiled = np.where(volume > volume.mean(), volume, np.nan)
    for data, grid, fault in (
        (volume + 0j, affine, "complex"),
        (spoiled, affine, "NaN"),
        (volume, sheared, "sheared"),
    ):
        with pytest.raises(BadDataError, match=fault):
            synthesize(nib.Nifti1Image(data, grid), model, mask=volume > 0)
        with pytest.raises(BadDataError, match=fault):
            synthesize(data, model, affine=grid, mask=volume > 0)


def test_what_cannot_be_used_is_refused(model) -> None:
    with pytest.raises(UsageError, match="affine"):
        synthesize(head(1), model)
    with pytest.raises(UsageError, match="read a file with read_image"):
        synthesize("head.nii.gz", model)
    affine = np.diag([SPACING] * 3 + [1.0])
    with pytest.raises(UsageError, match="its own affine"):
        synthesize(nib.Nifti1Image(head(1), affine), model, affine=np.eye(4))
    with pytest.raises(UsageError, match="give both"):
        synthesize(head(1), model, affine=affine, slice_profile="gauss")
    with pytest.raises(BadDataError, match="affine is not finite"):
        synthesize(head(1), model, affine=affine * np.nan)
    with pytest.raises(BadDataError, match="affine is missing"):
        synthesize(nib.Nifti1Image(head(1), None), model)
    with pytest.raises(BadDataError, match="the mask: is all zero"):
        synthesize(head(1), model, affine=affine, mask=np.zeros(head(1).shape))


def test_a_model_computes_where_it_was_loaded(model, monkeypatch) -> None:
    """On a device that no machine has: what is asked for arrives at the engine."""
    monkeypatch.setattr(options, "resolve_device", lambda name: torch.device(name))
    elsewhere, asked = load_model(model.bundle.path, device="meta"), []

    def stand_in(network, volume, here, there, wanted, *, options, **_):
        asked.append((options.device, next(network.parameters()).device.type))
        return np.zeros(wanted.shape, np.float32)

    monkeypatch.setattr(predict, "predict_on_grid", stand_in)
    synthesize(head(1), elsewhere, affine=np.diag([SPACING] * 3 + [1.0]), precision="fp32")
    assert asked == [("meta", "meta")]
    monkeypatch.undo()
    for name in ("cuda:99", "gpu", "mps"):
        with pytest.raises(UsageError, match=f"device {name}: this machine offers cpu"):
            load_model("T1w", device=name)


def test_a_model_that_draws_does_so_by_the_seed(tmp_path) -> None:
    frame = Frame((SIDE,) * 3, (SPACING,) * 3)
    save_bundle(
        tmp_path, Arnold(), contrast="T1w", frame=frame, metadata={}, card="", method="arnold"
    )
    drawing, volume, affine = load_model(tmp_path), head(1), np.diag([SPACING] * 3 + [1.0])
    made = [
        synthesize(volume, drawing, affine=affine, mask=volume > 0, **seed)[0]
        for seed in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {})
    ]
    assert [np.array_equal(made[0], other) for other in made[1:]] == [True, False, False]
