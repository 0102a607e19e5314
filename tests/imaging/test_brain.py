"""Brain masks: the choice of method, given and shared masks, and deepbet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter
from shapes import AFFINE, SPACING, ellipsoid, reoriented, stored

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain import (
    BrainMask,
    brain_of,
    compare_masks,
    extract_brain,
    looks_stripped,
    make_result,
    share_mask,
    use_given_mask,
)
from h2lo_bids.imaging.masks import bounding_box, dice
from h2lo_bids.imaging.normalise import scale_image
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import resample_mask


def head(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head, 0 outside, and its brain: scalp, black skull, brain."""
    rng = np.random.default_rng(1)
    brain = ellipsoid((65 * scale, 80 * scale, 62 * scale))
    skull = ellipsoid((72 * scale, 87 * scale, 69 * scale))
    scalp = ellipsoid((82 * scale, 98 * scale, 80 * scale))
    z = apply_affine(AFFINE, np.array([[0, 0, k] for k in range(50)]))[:, 2]
    scalp |= ellipsoid((55 * scale, 60 * scale, 1e6)) & (z < 0)  # a neck
    values = np.where(scalp, 120.0, 0) + np.where(skull, -110.0, 0) + np.where(brain, 80.0, 0)
    noise = rng.uniform(0, 5, values.shape)
    return np.where(scalp, np.abs(values) + noise, 0).astype(np.float32), brain


HEAD, BRAIN = head()
SCAN = stored(HEAD)
OWN = BrainMask(stored(BRAIN), "deepbet")
"""What extraction finds; all four to be read only."""


def inside(mask: BrainMask) -> np.ndarray:
    return np.asarray(mask.image.dataobj) > 0


def test_a_stripped_scan_is_noticed_and_kept_and_skip_warns_of_any_other() -> None:
    bare, box = np.where(BRAIN, 1 + HEAD, 0), bounding_box(BRAIN)
    bare[24:26, 29:31, 24:26] = 0  # dark CSF within
    gapped, eye = BRAIN.copy(), np.roll(ellipsoid((12, 12, 12)), 20, axis=2)
    gapped[:, :, 20] = False  # an empty slice costs no part, but an eye is left out
    for data, truth in (
        (bare, BRAIN),
        (bare[box], BRAIN[box]),
        (np.where(gapped | eye, 1 + HEAD, 0), gapped),
    ):
        result = extract_brain(stored(data))
        assert (result.method, len(result.notes)) == ("stripped", 1)
        np.testing.assert_array_equal(inside(result), truth)
    assert extract_brain(stored(bare), method="skip").notes == ()
    noisy = extract_brain(stored(bare + 1), method="skip")
    assert inside(noisy).all()
    assert any("does not look skull-stripped" in note for note in noisy.notes)


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_heads_on_zero_background_are_not_stripped(scale: float) -> None:
    values, brain = head(scale)
    assert not looks_stripped(stored(values))
    noise = np.random.default_rng(0).rayleigh(3, values.shape)
    assert not looks_stripped(stored(np.where(brain, values, noise)))
    values[:, 40:, :20] = 0  # the face
    assert not looks_stripped(stored(values))


@pytest.mark.parametrize("padded", [0, 9])  # as FreeSurfer's conform adds
def test_a_brain_that_the_image_cuts_is_noted(padded: int) -> None:
    """An ellipsoid that ends at a height t of its radius fills pi / 4 (1 - t^2) of its box."""
    for top, noted in ((48.0, True), (58.0, False)):
        slices = int((top - AFFINE[2, 3]) / SPACING) + 1
        room = ((0, 0), (0, 0), (0, padded))
        image, mask = (np.pad(x[..., :slices], room) for x in (HEAD, BRAIN))
        notes = make_result(mask, stored(image), "deepbet", "a.nii").notes
        cuts = [line for line in notes if line.startswith("a.nii: the field of view cuts")]
        assert len(cuts) == len(notes) == noted
        share = 100 * np.pi / 4 * (1 - (top / 62) ** 2)
        for line in notes:
            assert float(line.split("%")[0].split("(")[-1]) == pytest.approx(share, abs=3)


NECK = BRAIN.copy()
NECK[25, 30, 1] = True  # a stray voxel, which would move a model's frame
SOFT = gaussian_filter(BRAIN.astype(np.float32), 1.5)


def test_a_given_mask_is_used_and_what_was_changed_is_noted() -> None:
    """Soft ones, too: all above 0 would be a brain wider by centimetres."""
    for mask, truth, note in (
        (BRAIN, BRAIN, ""),
        (255.0 * BRAIN, BRAIN, ""),
        (BRAIN + np.random.default_rng(0).normal(0, 1e-7, BRAIN.shape), BRAIN, ""),
        (NECK, BRAIN, "(1 voxels)"),
        (SOFT, SOFT > 0.5, "cut at 0.5"),
        (100 * SOFT, SOFT > 0.5, "cut at 50"),
        (ellipsoid((30, 30, 30)), ellipsoid((30, 30, 30)), "its brain mask has "),
    ):
        result = use_given_mask(stored(mask), SCAN)
        assert result.method == "given"
        np.testing.assert_array_equal(inside(result), truth)
        assert [note in line for line in result.notes] == [True] * bool(note)


def test_given_masks_of_no_brain_are_refused_by_their_file(refused) -> None:
    image = stored(HEAD)
    image.set_filename("scan.nii.gz")
    far = AFFINE + np.array([[0, 0, 0, 1000.0], *[[0.0] * 4] * 3])
    whole = ellipsoid((95, 110, 95))  # of a head
    for wrong, said in (
        (~BRAIN, "inverted"),
        (np.ones_like(BRAIN), "inverted"),
        (0.4 * BRAIN, "empty"),
        (-1.0 * BRAIN, "empty"),
        (whole, "takes 415"),
        (0.9 * whole, "cut at 0.5 it takes 415"),
        (ellipsoid((9, 9, 9)), " ml of scan.nii.gz, unlike any brain (50 to 3000 ml)"),
        (np.roll(BRAIN, (24, 0, 24), (0, 1, 2)), "in the background of scan.nii.gz"),
        (BRAIN, "outside scan.nii.gz"),
    ):
        mask = stored(1.0 * wrong, far if wrong is BRAIN else AFFINE)
        mask.set_filename("mask.nii.gz")
        message = refused(BadDataError, use_given_mask, mask, image)
        assert message.startswith("mask.nii.gz: ")
        assert said in message
        assert "give another one" in message


def test_a_given_mask_of_another_place_is_noted(refused) -> None:
    for shift, notes in ((0, 0), (1, 0), (2, 1), (9, 1)):  # voxels of 4 mm
        given = use_given_mask(stored(np.roll(BRAIN, shift, 1)), SCAN)
        compared = compare_masks(given, OWN, "mask.nii.gz", SCAN)
        assert [line.startswith("mask.nii.gz: ") for line in compared.notes] == [True] * notes
        assert compared.image is given.image
    # 64 of 160 mm: most lies beside.
    given = BrainMask(stored(np.roll(BRAIN, 16, 1)), "given")
    message = refused(BadDataError, compare_masks, given, OWN, "mask.nii.gz", SCAN)
    assert "have a Dice overlap of only 0.4" in message
    # What extraction finds may be no brain: then the mask that was given is believed.
    rod = BrainMask(stored(ellipsoid((15, 90, 15))), "deepbet")
    assert len(compare_masks(given, rod, "mask.nii.gz", SCAN).notes) == 1


def test_a_brain_of_a_few_voxels_is_no_surprise() -> None:
    values = np.zeros((20, 20, 20))
    values[8:12, 10, 10] = 3, 9, 4, 8  # fills no block of 2 or 3 mm
    image = stored(values, np.eye(4))
    found = brain_of(image, method="skip")
    assert any("its brain mask has 0 ml" in line for line in found.notes)
    given = BrainMask(stored(values + 1, np.eye(4)), "given")
    assert len(compare_masks(given, found, "mask.nii.gz", image).notes) == 1
    made = scale_image(image, found.image, contrast="T1w", scaling="robust")
    assert 0 < made.volume.max() <= 1


def test_masks_are_shared_only_where_the_head_stayed_and_is_seen_whole() -> None:
    for shift, method in ((0.0, "shared"), (2.0, "shared"), (3.5, "deepbet")):
        fine = from_matvec(np.diag([4, 4, 5.0]), [-100 + shift, -120, -110])
        truth = ellipsoid((65, 80, 62), (shift, 0, 0), fine)
        result = share_mask(OWN, BrainMask(stored(truth, fine), "deepbet"), SCAN)
        assert (result.method, result.image.shape) == (method, SCAN.shape)
    top = int(np.flatnonzero(BRAIN.any((0, 1)))[-1]) + 1
    for missing, method in ((3, "deepbet"), (0, "shared")):  # slices of 4 mm
        donor = BrainMask(stored(BRAIN[..., : top - missing]), "deepbet")
        assert share_mask(OWN, donor, SCAN).method == method


# Extraction with stand-ins for the networks; `test_profile` runs deepbet's on real heads.


def bright(volume: np.ndarray) -> np.ndarray:
    """Call the bright voxels brain as deepbet does, or find too little to look at."""
    assert volume.std() > 0, "Not enough foreground"
    return volume / volume.max()


def near(volume: torch.Tensor) -> torch.Tensor:
    """Return distances to what is bright, as SynthStrip does."""
    assert (float(volume.min()), float(volume.max())) == (0.0, 1.0)
    return 1.0 + (0.5 - volume) * 10


@pytest.mark.parametrize("method", ["deepbet", "synthstrip"])
def test_masks_come_back_to_the_scans_grid(tmp_path, monkeypatch, refused, method) -> None:
    """Of thick slices along other axes, where deepbet sees the head mirrored, too."""
    stand_in = SimpleNamespace(run_model=bright)
    monkeypatch.setattr("deepbet.BrainExtraction", lambda no_gpu: stand_in)
    monkeypatch.setattr("h2lo_bids.imaging.synthstrip.load_network", lambda file: near)
    turn = nib.eulerangles.euler2mat(0.2, -0.1, 0.1) @ np.diag([2, 2, 5.0])
    affine, shape = from_matvec(turn, [-90, -50, -40]), (64, 64, 28)
    off = apply_affine(affine, (np.array(shape) - 1) / 2) + [9, -5, -6]
    ball = ellipsoid((42, 48, 45), off, affine, shape)
    image, truth = (reoriented(stored(x, affine), "LIA") for x in (np.where(ball, 90, 10), ball))
    (weights := tmp_path / "w.pt").touch()
    result = extract_brain(image, method=method, weights=weights, threads=1)
    assert result.method == method
    assert dice(inside(result), np.asarray(truth.dataobj) > 0) > 0.98
    if method == "deepbet":
        blank = stored(np.ones((20, 20, 20)), np.eye(4))
        blank.set_filename("sub-01_T1w.nii.gz")
        message = refused(BadDataError, extract_brain, blank, method=method)
        assert message.startswith("sub-01_T1w.nii.gz: deepbet finds no brain")


# deepbet on heads whose brain is known, and on the real scans.

SKULL = {511: 90, 507: 50, 515: 10, 506: 150, 516: 90, 509: 90, 502: 150, 512: 70}
"""Intensity of a T2w scan by labels of what lies around the brain."""


@pytest.mark.slow
def test_brain_of_a_labelled_head_in_thick_slices(shared_data: Path) -> None:
    """A T2w head painted by its labels, blurred, with Rician noise, stored along other axes."""
    labels = nib.load(shared_data / "labels" / "training_seg_01.nii.gz")
    ids = np.asarray(labels.dataobj).astype(int)
    table = np.full(max(600, ids.max() + 1), 85.0)  # grey matter
    table[500:], table[[0, 24]] = 60, (2, 160)
    table[[2, 41, 7, 46, 16]], table[[4, 5, 14, 15, 43, 44]] = 60, 160  # white matter, fluid
    table[[*SKULL]] = [*SKULL.values()]
    rng = np.random.default_rng(2)
    clean = gaussian_filter(table[ids], 0.6)
    noisy = np.hypot(clean + rng.normal(0, 4, ids.shape), rng.normal(0, 4, ids.shape))
    slices = noisy[..., :255].reshape(256, 256, 51, 5).mean(-1)
    affine = labels.affine @ from_matvec(np.diag([1, 1, 5.0]), [0, 0, 2])
    brain = stored((ids > 0) & (ids < 500), labels.affine)
    brain = resample_mask(brain, slices.shape, affine)
    image, brain = (reoriented(part, "LIA") for part in (stored(slices, affine), brain))
    result = extract_brain(image, threads=2)
    assert result.method == "deepbet"
    assert dice(np.asarray(result.image.dataobj) > 0, np.asarray(brain.dataobj) > 0) > 0.93


def test_defaced_real_heads_are_not_taken_as_stripped(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("[hl]f/*.nii.gz")):
        image = nib.as_closest_canonical(load_checked(path).image)
        if looks_stripped(image):
            continue  # whoever shared it took the skull away
        data = image.get_fdata(dtype=np.float32).copy()
        a, b = int(data.shape[1] * 0.7), int(data.shape[2] * 0.4)
        data[:, a:, :b] = 0
        data[data < np.percentile(data[data > 0], 25)] = 0  # background set to zero
        assert not looks_stripped(stored(data, image.affine)), path.name
