"""Brain masks: the choice of method, given and shared masks, and deepbet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter
from shapes import AFFINE, SPACING, ellipsoid, reoriented, stored

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain import (
    BrainMask,
    compare_masks,
    extract_brain,
    looks_stripped,
    make_result,
    share_mask,
    stripped_mask,
    use_given_mask,
)
from h2lo_bids.imaging.masks import bounding_box, dice
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


def test_stripped_scan_is_noticed_and_kept() -> None:
    data = np.where(BRAIN, HEAD, 0)
    data[24:26, 29:31, 24:26] = 0  # dark CSF within
    result = extract_brain(stored(data))
    assert result.method == "stripped"
    np.testing.assert_array_equal(np.asarray(result.image.dataobj), BRAIN)
    assert len(result.notes) == 1
    box = bounding_box(BRAIN)
    assert looks_stripped(stored(data[box]))
    np.testing.assert_array_equal(stripped_mask(stored(data[box])), BRAIN[box])


@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("defaced", [False, True])
def test_heads_on_zero_background_are_not_stripped(scale: float, defaced: bool) -> None:
    values, brain = head(scale)
    if defaced:
        values[:, 40:, :20] = 0
    assert not looks_stripped(stored(values))
    noise = np.random.default_rng(0).rayleigh(3, values.shape)
    assert not looks_stripped(stored(np.where(brain, values, noise)))


def test_empty_slices_cost_a_stripped_brain_no_part_but_an_eye_is_left_out() -> None:
    gapped, eye = BRAIN.copy(), np.roll(ellipsoid((12, 12, 12)), 20, axis=2)
    gapped[:, :, 20] = False
    assert not (BRAIN & eye).any()
    mask = stripped_mask(stored(np.where(gapped | eye, 1 + HEAD, 0)))
    np.testing.assert_array_equal(mask, gapped)


def test_implausible_volume_is_noted_in_one_line() -> None:
    (note,) = make_result(ellipsoid((20, 20, 20)), SCAN, "given", "a.nii").notes
    assert note.startswith("a.nii: its brain mask has ")
    assert make_result(BRAIN, SCAN, "given", "a.nii").notes == ()


@pytest.mark.parametrize("padded", [0, 9])
@pytest.mark.parametrize(("top", "noted"), [(48.0, True), (58.0, False)])
def test_a_brain_that_the_image_cuts_is_noted(top: float, noted: bool, padded: int) -> None:
    """An ellipsoid that ends at a height t of its radius fills pi / 4 (1 - t^2) of its box."""
    slices = int((top - AFFINE[2, 3]) / SPACING) + 1
    room = ((0, 0), (0, 0), (0, padded))  # as FreeSurfer's conform adds
    image, mask = (np.pad(x[..., :slices], room) for x in (HEAD, BRAIN))
    notes = make_result(mask, stored(image), "deepbet", "a.nii").notes
    share = 100 * np.pi / 4 * (1 - (top / 62) ** 2)
    assert [line.startswith("a.nii: the field of view cuts") for line in notes] == [True] * noted
    for line in notes:
        assert float(line.split("%")[0].split("(")[-1]) == pytest.approx(share, abs=3)


def test_a_stray_voxel_of_a_given_mask_does_not_move_the_frame() -> None:
    neck = BRAIN.copy()
    neck[25, 30, 1] = True
    result = use_given_mask(stored(neck), SCAN)
    np.testing.assert_array_equal(np.asarray(result.image.dataobj) > 0, BRAIN)
    assert ["(1 voxels)" in line for line in result.notes] == [True]


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_a_given_mask_between_0_and_1_is_cut_at_its_half(unit: float) -> None:
    soft = unit * gaussian_filter(BRAIN.astype(np.float32), 1.5)
    result = use_given_mask(stored(soft), SCAN)
    np.testing.assert_array_equal(np.asarray(result.image.dataobj) > 0, soft > unit / 2)
    assert dice(np.asarray(result.image.dataobj) > 0, BRAIN) > 0.95
    (note,) = result.notes
    assert "cut at" in note
    plain = use_given_mask(stored(255.0 * BRAIN), SCAN)
    assert (plain.method, plain.notes) == ("given", ())
    ringing = BRAIN + np.random.default_rng(0).normal(0, 1e-7, BRAIN.shape)
    result = use_given_mask(stored(ringing), SCAN)
    assert result.notes == ()
    np.testing.assert_array_equal(np.asarray(result.image.dataobj) > 0, BRAIN)


def test_given_masks_of_no_brain_are_refused_by_their_file() -> None:
    image = stored(HEAD)
    image.set_filename("scan.nii.gz")
    far = AFFINE + np.array([[0, 0, 0, 1000.0], *[[0.0] * 4] * 3])
    for wrong, said in (
        (~BRAIN, "inverted"),
        (np.ones_like(BRAIN), "inverted"),
        (0.4 * BRAIN, "empty"),
        (-1.0 * BRAIN, "empty"),
        (ellipsoid((95, 110, 95)), "415. ml of scan.nii.gz"),  # a whole head
        (0.9 * ellipsoid((95, 110, 95)), r"cut at 0.5 it takes 415. ml .*\(50 to 3000 ml\)"),
        (ellipsoid((9, 9, 9)), "[34] ml"),
        (np.roll(BRAIN, (24, 0, 24), (0, 1, 2)), "in the background of scan.nii.gz"),
        (BRAIN, "outside scan.nii.gz"),
    ):
        mask = stored(1.0 * wrong, far if wrong is BRAIN else AFFINE)
        mask.set_filename("mask.nii.gz")
        with pytest.raises(BadDataError, match=said) as caught:
            use_given_mask(mask, image)
        assert str(caught.value).startswith("mask.nii.gz: ")
        assert "give another one" in str(caught.value)


def test_a_given_mask_of_another_place_is_noted() -> None:
    for shift, notes in ((0, 0), (1, 0), (2, 1), (9, 1)):  # voxels of 4 mm
        given = use_given_mask(stored(np.roll(BRAIN, shift, 1)), SCAN)
        compared = compare_masks(given, OWN, "mask.nii.gz", SCAN)
        assert [line.startswith("mask.nii.gz: ") for line in compared.notes] == [True] * notes
        np.testing.assert_array_equal(compared.image.dataobj, given.image.dataobj)
    # 64 of 160 mm: most lies beside.
    given = BrainMask(stored(np.roll(BRAIN, 16, 1)), "given")
    with pytest.raises(BadDataError, match=r"^mask\.nii\.gz: .* Dice overlap of only 0\.4"):
        compare_masks(given, OWN, "mask.nii.gz", SCAN)
    # What extraction finds may be no brain: then the mask that was given is believed.
    rod = BrainMask(stored(ellipsoid((15, 90, 15))), "deepbet")
    assert len(compare_masks(given, rod, "mask.nii.gz", SCAN).notes) == 1


def test_given_mask_on_another_grid() -> None:
    """Soft, too: all above 0 would be a brain wider by centimetres."""
    fine = from_matvec(nib.eulerangles.euler2mat(0.1, 0, 0.3) * 3.7, [-90, -110, -80])
    there = 1.0 * ellipsoid((65, 80, 62), affine=fine, shape=(60,) * 3)
    for mask in (there, 100 * gaussian_filter(there, 1.5)):
        result = use_given_mask(stored(mask, fine), SCAN)
        assert any("resampled" in note for note in result.notes)
        assert dice(np.asarray(result.image.dataobj) > 0, BRAIN) > 0.95


@pytest.mark.parametrize(("shift", "method"), [(0.0, "shared"), (2.0, "shared"), (3.5, "deepbet")])
def test_masks_are_shared_only_where_the_head_stayed(shift: float, method: str) -> None:
    fine = from_matvec(np.diag([4, 4, 5.0]), [-100 + shift, -120, -110])
    truth = ellipsoid((65, 80, 62), (shift, 0, 0), fine)
    result = share_mask(OWN, BrainMask(stored(truth, fine), "deepbet"), SCAN)
    assert result.method == method
    assert result.image.shape == SCAN.shape


def test_a_mask_that_its_own_image_cuts_is_not_shared() -> None:
    top = int(np.flatnonzero(BRAIN.any((0, 1)))[-1]) + 1
    for missing, method in ((3, "deepbet"), (0, "shared")):  # slices of 4 mm
        donor = BrainMask(stored(BRAIN[..., : top - missing]), "deepbet")
        assert share_mask(OWN, donor, SCAN).method == method


def test_skip_warns_of_what_is_no_brain_alone() -> None:
    bare = np.where(BRAIN, HEAD, 0)
    assert extract_brain(stored(bare), method="skip").notes == ()
    noisy = extract_brain(stored(bare + 1), method="skip")
    assert np.all(np.asarray(noisy.image.dataobj) == 1)
    assert any("does not look skull-stripped" in note for note in noisy.notes)


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


def test_a_network_that_sees_nothing_is_one_line(monkeypatch, refused) -> None:
    class Blind:
        def run_model(self, volume: np.ndarray) -> np.ndarray:
            raise AssertionError("Not enough foreground")

    monkeypatch.setattr("deepbet.BrainExtraction", lambda no_gpu: Blind())
    image = stored(np.ones((20, 20, 20)), np.eye(4))
    image.set_filename("sub-01_T1w.nii.gz")
    message = refused(BadDataError, extract_brain, image)
    assert message.startswith("sub-01_T1w.nii.gz: deepbet finds no brain")


@pytest.mark.slow
def test_deepbet_needs_no_home_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import contextlib\nimport deepbet\nimport numpy as np\n"
        "from h2lo_bids.errors import BadDataError\n"
        "from h2lo_bids.imaging.brain import deepbet_mask\n"
        "deepbet.BrainExtraction.run_model = lambda self, volume: volume\n"  # takes seconds
        "with contextlib.suppress(BadDataError):\n"
        "    deepbet_mask(np.zeros((9, 9, 9)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": "/nonexistent", "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
