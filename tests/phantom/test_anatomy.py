"""Label maps, masks, deformation and tissues."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from shapes import reoriented, stored

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.phantom.anatomy import Anatomy, brain_mask, load_labels, template_head, vary
from h2lo_bids.phantom.physics import NAMES, TISSUES, class_of_label, draw_tissues, relaxation


def test_mask_is_the_brain_and_a_rim(ball: Anatomy) -> None:
    # Cortex ends at 66 mm; the rim is 1 mm; fluid and skull stay outside.
    volume = brain_mask(ball).sum() * 27
    assert 4 / 3 * np.pi * 66**3 * 0.97 < volume < 4 / 3 * np.pi * 70**3


def test_varied_heads_are_centred_on_their_brain(ball: Anatomy) -> None:
    shifted = Anatomy(np.roll(ball.labels, (0, 3, -2), (0, 1, 2)), 3.0, "moved")
    head, mask = vary(shifted, np.random.default_rng(1), shape=(70, 84, 80), spacing=3.0)
    assert head.labels.shape == (70, 84, 80)
    for box, n in zip(bounding_box(mask), mask.shape, strict=True):
        assert abs((box.start + box.stop - 1) / 2 - (n - 1) / 2) <= 0.5
    assert set(np.unique(head.labels)) <= set(np.unique(ball.labels))


def test_labels_load_in_any_orientation(tmp_path: Path, ball: Anatomy) -> None:
    marked = ball.labels.copy()
    marked[50, 10, 12] = 506
    nib.save(reoriented(stored(marked, ball.affine), "LIA"), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(load_labels(tmp_path / "x.nii.gz").labels, marked)


def test_unusable_labels_name_the_file(tmp_path: Path, ball: Anatomy, refused) -> None:
    said = {
        "FreeSurfer": stored(ball.labels % 2, np.eye(4)),
        "isotropic": stored(ball.labels, np.diag([1.0, 1.0, 3.0, 1.0])),
        # As recon-all and SynthSeg write it.
        "whole heads": stored(np.where(ball.labels < 500, ball.labels, 0), ball.affine),
    }
    for words, image in said.items():
        nib.save(image, path := tmp_path / "labels.nii.gz")
        message = refused(BadDataError, load_labels, path)
        assert (message.startswith(f"{path}: "), words in message) == (True, True)


def test_every_structure_has_a_class() -> None:
    names = [NAMES[i] for i in class_of_label(np.array([0, 2, 42, 10, 24, 511, 515, 999]))]
    assert names == ["background", "white", "cortex", "thalamus", "csf", "scalp", "bone", "soft"]


def test_people_vary_around_published_relaxation() -> None:
    t1 = np.array(
        [relaxation(draw_tissues(np.random.default_rng(s)), low_field=False)[0] for s in range(200)]
    )
    white, cortex = NAMES.index("white"), NAMES.index("cortex")
    # Wansapura 1999: 832 +- 20 ms in white matter; cortex from 1300 to 1560 ms.
    assert t1[:, white].mean() == pytest.approx(832, abs=15)
    assert t1[:, white].std() == pytest.approx(20, abs=8)
    assert 1220 < t1[:, cortex].min() < 1330
    assert 1520 < t1[:, cortex].max() < 1650
    low = relaxation(TISSUES, low_field=True)[0]
    # O'Reilly and Webb 2022, at 50 mT: 280 +- 15 and 335 +- 25 ms; grey matter's is fitted.
    assert low[white] == pytest.approx(280, abs=15)
    assert low[cortex] == pytest.approx(335, abs=2 * 25)


def test_template_head_is_a_whole_head() -> None:
    labels, again = (template_head(4.0, np.random.default_rng(0)).labels for _ in range(2))
    np.testing.assert_array_equal(labels, again)
    litres = np.isin(labels, [*range(1, 24), *range(25, 500)]).sum() * 64 / 1e6
    assert 1.0 < litres < 2.0
    for label in (2, 41, 3, 42, 4, 43, 16, 24, 506, 507, 511, 515):
        assert (labels == label).any(), label
    # Going up from the middle of the brain: brain, skull, scalp, air.
    column = labels[labels.shape[0] // 2 + 4, labels.shape[1] // 2]
    tops = [int(np.flatnonzero(column == label)[-1]) for label in (515, 511)]
    assert tops[0] < tops[1] < len(column) - 1
    assert not column[tops[1] + 1 :].any()
