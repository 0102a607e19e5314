"""Heads that lie as their headers say, and the same under headers that lie."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from h2lo_bids.imaging.orientation import orientation_note
from h2lo_bids.phantom.anatomy import brain_mask, template_head

GREY = {"T1w": (600.0, 900.0, 150.0), "T2w": (500.0, 350.0, 1000.0)}
"""Of grey matter, white matter and fluid."""
TURNS = {
    "upside down": ((0, 1, 2), (1, 1, -1)),
    "back to front": ((0, 1, 2), (1, -1, 1)),
    "half a turn": ((0, 1, 2), (1, -1, -1)),
    "y and z swapped": ((0, 2, 1), (1, 1, 1)),
    "x and y swapped": ((1, 0, 2), (1, 1, 1)),
    "x and z swapped": ((2, 1, 0), (1, 1, 1)),
    "all moved on": ((1, 2, 0), (1, 1, 1)),
}


@cache
def brain(contrast: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a simulated brain in RAS order, 4 mm, with noise, and its mask."""
    rng = np.random.default_rng(1)
    head = template_head(4.0, rng)
    grey, white, fluid = GREY[contrast]
    values = np.full(head.labels.shape, fluid)
    values[np.isin(head.labels, (3, 42, 8, 47, 10, 11, 12, 13, 17, 18, 49, 50, 51, 52))] = grey
    values[np.isin(head.labels, (2, 41, 7, 46, 16))] = white
    mask = brain_mask(head)
    noise = rng.normal(0, 40, mask.shape)
    return np.where(mask, values + noise, 0).astype(np.float32), mask.astype(np.uint8)


def images(*arrays: np.ndarray, order=(0, 1, 2), signs=(1, 1, 1), spacing=(4.0,) * 3):
    """Store arrays turned, under a header that says RAS."""
    sides = np.asarray(spacing)[list(order)]
    flips = tuple(slice(None, None, sign) for sign in signs)
    return [
        nib.Nifti1Image(array.transpose(order)[flips], np.diag([*sides, 1.0])) for array in arrays
    ]


@pytest.mark.parametrize("contrast", GREY)
@pytest.mark.parametrize("nod", [-15, 0, 15])
def test_sound_heads_pass_in_every_order_of_their_axes(contrast: str, nod: int) -> None:
    image, mask = images(*brain(contrast))
    turn = nib.eulerangles.euler2mat(x=np.radians(nod))
    affine = from_matvec(turn, (5, -9, 30)) @ image.affine
    for code in ("RAS", "LIA", "PSR", "ASL"):
        ornt = nib.orientations.axcodes2ornt(code)
        scan, own = (nib.Nifti1Image(i.dataobj, affine).as_reoriented(ornt) for i in (image, mask))
        assert orientation_note(scan, own, "scan.nii.gz") is None


@pytest.mark.parametrize("contrast", GREY)
@pytest.mark.parametrize("turn", TURNS)
def test_headers_that_lie_are_told(contrast: str, turn: str) -> None:
    order, signs = TURNS[turn]
    image, mask = images(*brain(contrast), order=order, signs=signs)
    note = orientation_note(image, mask, "scan.nii.gz")
    assert note is not None
    assert note.startswith("scan.nii.gz: its header's orientation (RAS) does not fit the head")
    assert "left and right cannot be told" in note
    # Apart from left and right, it names how the head lies.
    letters = "".join("RAS"[a] if s > 0 else "LPI"[a] for a, s in zip(order, signs, strict=True))
    assert note.replace("L", "R").find(f"lies as in {letters.replace('L', 'R')} ") > 0


def test_of_a_mirrored_head_and_of_a_part_no_orientation_is_told() -> None:
    image, mask = images(*brain("T1w"), signs=(-1, 1, 1))
    assert orientation_note(image, mask, "scan.nii.gz") is None
    values, mask = brain("T1w")
    inside = np.argwhere(mask)
    middle = int(inside[:, 2].mean())
    slab = slice(middle - 4, middle + 4)
    image, own = images(values[..., slab], mask[..., slab], signs=(1, 1, -1))
    assert orientation_note(image, own, "slab.nii.gz") is None
    image, own = images(values, 0 * mask)
    assert orientation_note(image, own, "none.nii.gz") is None


@pytest.mark.slow
def test_real_brains(shared_data: Path) -> None:
    """T1w and T2w at 3 T and T1w at 64 mT, without skull, as they are and turned in every way."""
    names = (
        "hf/openms_cross_patient19_T1", "hf/openms_cross_patient19_T2",
        "hf/openms_cross_patient26_T2", "lf/ulfenhance_sub2_T1_brain",
    )  # fmt: skip
    for name in names:
        scan = nib.as_closest_canonical(nib.load(shared_data / f"{name}.nii.gz"))
        data = np.asarray(scan.dataobj, np.float32)[::4, ::4, ::4]
        for order in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                pair = images(data, (data != 0).astype(np.uint8), order=order, signs=signs)
                sound = order == (0, 1, 2) and signs[1:] == (1, 1)
                assert (orientation_note(*pair, name) is None) == sound, (name, order, signs)
