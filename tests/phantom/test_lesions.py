"""Planted lesions against the volume of a ball."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from h2lo_bids.cli.phantom import main
from h2lo_bids.errors import UsageError
from h2lo_bids.phantom.anatomy import make_subject, vary
from h2lo_bids.phantom.lesions import (
    Lesion,
    LesionPlan,
    lesion_share,
    place_lesions,
    with_lesions,
)
from h2lo_bids.phantom.physics import NAMES

AFFINE = from_matvec(np.eye(3), [-19.5] * 3)


def test_a_planted_ball_has_the_volume_of_a_ball() -> None:
    step, radius = 0.8, 1.5
    affine = from_matvec(np.diag([step, -step, step]), (-20, 20, -20))
    share = lesion_share([Lesion((0.3, -0.2, 0.1), 2 * radius)], (50, 50, 50), affine)
    expected = 4 / 3 * np.pi * (radius**3 + radius * step**2 / 4)
    assert share.sum() * step**3 == pytest.approx(expected, rel=0.02)
    at = np.argwhere(share > 0) @ affine[:3, :3].T + affine[:3, 3]
    assert np.linalg.norm(at - (0.3, -0.2, 0.1), axis=1).max() < radius + step


def test_random_places_are_whole_in_white_matter_and_apart() -> None:
    white = np.zeros((40, 40, 40), bool)
    white[5:35, 5:35, 5:25] = True
    plan = LesionPlan(5, (8.0, 4.0), places=((-4.5, -4.5, -4.5),))
    lesions = place_lesions(white, AFFINE, plan, np.random.default_rng(0))
    assert [v.diameter for v in lesions] == [8, 4, 8, 4, 8, 4]
    assert lesions[0].centre == (-4.5, -4.5, -4.5)
    for number, one in enumerate(lesions):
        assert not (lesion_share([one], white.shape, AFFINE) > 0.5)[~white].any()
        for other in lesions[:number]:
            apart = np.linalg.norm(np.subtract(one.centre, other.centre))
            assert apart >= (one.diameter + other.diameter) / 2 + 2
    assert lesions == place_lesions(white, AFFINE, plan, np.random.default_rng(0))
    with pytest.raises(UsageError, match="2: is less than a voxel's side of 3 mm"):
        place_lesions(white, 3 * AFFINE, LesionPlan(1, (8.0, 2.0)), np.random.default_rng(0))
    with pytest.raises(UsageError, match="no place for one of 30 mm"):
        place_lesions(white, AFFINE, LesionPlan(1, (30.0,)), np.random.default_rng(0))


def test_a_lesion_that_touches_other_tissue_replaces_none_of_it_and_can_be_given(ball) -> None:
    rng = np.random.default_rng(0)
    head, mask = vary(ball, rng, shape=(64, 64, 64), spacing=3.0, strength=0)
    subject = make_subject(head, mask, rng)
    white = subject.classes == NAMES.index("white")
    lesions = place_lesions(white, head.affine, LesionPlan(6, (12.0,)), rng)
    planted = with_lesions(subject, lesions, 1.0)[1]
    assert planted.sum() * 27 == pytest.approx(6 * 4 / 3 * np.pi * 6**3, rel=0.1)
    assert not planted[~white].any()
    for lesion in lesions:
        again = LesionPlan(diameters=(12.0,), places=(lesion.centre,))
        assert place_lesions(white, head.affine, again, rng) == (lesion,)


@pytest.mark.parametrize(
    ("diameter", "places"),
    [
        (2.0, [(0, 0, 0)]),  # between eight voxels, of which it would hold none
        (10.0, [(-19, 1, 1)]),  # at the border of white matter
        (10.0, [(1, 1, 1), (5, 1, 1)]),
        (4.0, [(500, 1, 1)]),  # beyond the image
    ],
)
def test_a_given_place_that_shows_another_lesion_than_was_asked_for_is_refused(diameter, places):
    affine, white = from_matvec(2 * np.eye(3), [-39] * 3), np.zeros((40, 40, 40), bool)
    white[10:30, 10:30, 10:30] = True
    plan = LesionPlan(diameters=(diameter,), places=tuple(places))
    where = " ".join(map(str, places[-1]))
    with pytest.raises(UsageError, match=f"--lesion-at {where}: one of {diameter:g} mm is not"):
        place_lesions(white, affine, plan, np.random.default_rng(0))


def test_command_line_plants_the_same_lesions_in_every_scan(tmp_path, ball_folder) -> None:
    common = ["--resolution", "3", "--labels", str(ball_folder), "--lf"]
    at = ["--lesion-at", "34", "0", "0", "--lesion-diameter", "18"]
    assert main([str(tmp_path / "with"), *common, *at, "--lesions", "1"]) == 0
    assert main([str(tmp_path / "without"), *common]) == 0
    stem = "sub-01/ses-HF/anat/sub-01_ses-HF"
    below = tmp_path / "with" / "derivatives" / "h2lo-phantom"
    mask = np.asarray(nib.load(below / f"{stem}_label-lesion_mask.nii.gz").dataobj) > 0
    assert mask.sum() * 27 == pytest.approx(2 * 4 / 3 * np.pi * 9**3, rel=0.1)
    told = json.loads((below / f"{stem}_label-lesion_mask.json").read_text())
    assert told["Lesions"][0] == {"CentreMM": [34.0, 0.0, 0.0], "DiameterMM": 18.0}
    description = json.loads((below / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    for name, sign in (("_acq-MPRAGE_T1w", -1), ("_T2w", 1)):
        ill, healthy = (
            nib.load(tmp_path / kind / f"{stem}{name}.nii.gz").get_fdata()[mask].mean()
            for kind in ("with", "without")
        )
        change = ill / healthy - 1
        contrast = told["ContrastToWhiteMatter"][f"3T {name[-3:]}"]
        assert sign * contrast > 0.2
        # Blur takes some of it at the rim of a lesion of six voxels.
        assert 0.5 < change / contrast < 1.1
