"""Heads that lie as their headers say, and the same under headers that lie."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from shapes import reoriented

from h2lo_bids.imaging.orientation import orientation_note
from h2lo_bids.phantom.anatomy import brain_mask, template_head
from h2lo_bids.phantom.physics import HIGH_FIELD, TISSUES, class_of_label, signal_of

TURNS = [  # upside down, back to front, half a turn, two axes swapped, all moved on
    ((0, 1, 2), (1, 1, -1)), ((0, 1, 2), (1, -1, 1)), ((0, 1, 2), (1, -1, -1)),
    ((0, 2, 1), (1, 1, 1)), ((1, 0, 2), (1, 1, 1)), ((1, 2, 0), (1, 1, 1)),
]  # fmt: skip


@cache
def brain(contrast: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a simulated brain in RAS order, 4 mm, with noise, and its mask."""
    rng = np.random.default_rng(1)
    head = template_head(4.0, rng)
    values = signal_of(HIGH_FIELD[contrast], TISSUES)[class_of_label(head.labels)]
    mask = brain_mask(head)
    noise = rng.normal(0, 0.04 * values.max(), mask.shape)
    return np.where(mask, values + noise, 0).astype(np.float32), mask.astype(np.uint8)


def images(*arrays: np.ndarray, order=(0, 1, 2), signs=(1, 1, 1)) -> list[nib.Nifti1Image]:
    """Store arrays of 4 mm turned, under a header that says RAS."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    turned = [array.transpose(order)[flips] for array in arrays]
    return [nib.Nifti1Image(array, np.diag([4.0, 4, 4, 1])) for array in turned]


@pytest.mark.parametrize("contrast", HIGH_FIELD)
def test_sound_heads_pass_in_every_order_of_their_axes(contrast: str) -> None:
    for nod, code in ((-15, "RAS"), (0, "LIA"), (0, "PSR"), (15, "ASL")):
        pair = images(*brain(contrast))
        turn = from_matvec(nib.eulerangles.euler2mat(x=np.radians(nod)), (5, -9, 30))
        pair = [nib.Nifti1Image(i.dataobj, turn @ i.affine) for i in pair]
        assert orientation_note(*(reoriented(i, code) for i in pair), "scan.nii.gz") is None


@pytest.mark.parametrize("contrast", HIGH_FIELD)
def test_headers_that_lie_are_told(contrast: str) -> None:
    for order, signs in TURNS:
        note = orientation_note(*images(*brain(contrast), order=order, signs=signs), "a.nii")
        assert note.startswith("a.nii: its header's orientation (RAS) does not fit the head")
        assert "left and right cannot be told" in note
        # Apart from left and right, it names how the head lies.
        lies = "".join("RAS"[a] if s > 0 else "RPI"[a] for a, s in zip(order, signs, strict=True))
        assert f"lies as in {lies} " in note.replace("L", "R")


def test_of_a_mirrored_head_and_of_a_part_no_orientation_is_told() -> None:
    values, mask = brain("T1w")
    middle = int(np.argwhere(mask)[:, 2].mean())
    slab = np.s_[..., middle - 4 : middle + 4]
    for pair, signs in (
        ((values, mask), (-1, 1, 1)),
        ((values[slab], mask[slab]), (1, 1, -1)),
        ((values, 0 * mask), (1, 1, 1)),
    ):
        assert orientation_note(*images(*pair, signs=signs), "scan.nii.gz") is None


@pytest.mark.slow
def test_real_brains(shared_data: Path) -> None:
    """T1w and T2w at 3 T and T1w at 64 mT, without skull, as they are and turned in every way."""
    for name in ("hf/openms_cross_patient19_T1", "hf/openms_cross_patient19_T2",
                 "hf/openms_cross_patient26_T2", "lf/ulfenhance_sub2_T1_brain"):  # fmt: skip
        scan = nib.as_closest_canonical(nib.load(shared_data / f"{name}.nii.gz"))
        data = np.asarray(scan.dataobj, np.float32)[::4, ::4, ::4]
        for order in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                pair = images(data, (data != 0).astype(np.uint8), order=order, signs=signs)
                sound = order == (0, 1, 2) and signs[1:] == (1, 1)
                assert (orientation_note(*pair, name) is None) == sound, (name, order, signs)
