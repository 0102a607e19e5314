"""Labels: which file is a scan's, what is refused, partial volume on other grids, pictures."""

from __future__ import annotations

import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from shapes import ellipsoid, stored
from skeletons import anat, scan_at

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.resample import block_means, lf_grid, weigh_by_axis
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.trial.lesions import response_lines
from h2lo_bids.trial.report import draw_lesions, region_rows
from h2lo_bids.trial.scan import Label, carry_label, find_label, load_label

SHAPE, AFFINE = (20, 24, 16), np.eye(4)
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[2:-2, 2:-2, 2:-2] = True
BALL = ellipsoid(3, (10, 12, 8), AFFINE, SHAPE)
IMAGE = stored(BRAIN, AFFINE)
IMAGE.set_filename("/data/sub-01_T1w.nii.gz")


def write(folder, name, data=BRAIN, affine=AFFINE):
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(stored(data, affine), folder / name)
    return folder / name


def test_the_label_of_a_scan_is_found_by_its_entities(tmp_path, refused):
    labels = (tmp_path / "d" / anat("01", "A", "")).parent
    others = ("desc-brain", "acq-y_label-lesion", "space-MNI152NLin6Asym_label-lesion",
              "space-T2w_label-lesion")  # fmt: skip
    for name in (*(f"{other}_mask" for other in others), "T1w"):
        write(labels, f"sub-01_ses-A_{name}.nii.gz")
    scan, other = (scan_at(tmp_path / anat("01", "A", name)) for name in ("acq-x_T1w", "T2w"))
    find = ("x", tmp_path / "d", scan)
    line = refused(MissingInputError, find_label, *find)
    assert "no mask, dseg or probseg for sub-01" in line
    mine = write(labels, "sub-01_ses-A_label-lesion_mask.nii.gz")
    assert find_label(*find) == mine
    assert "space-T2w" in find_label("x", tmp_path / "d", other).name
    own = write(labels, "sub-01_ses-A_acq-x_label-lesion_mask.nii.gz")  # names more of the scan
    assert find_label(*find) == own
    own.unlink()
    write(labels, "sub-01_ses-A_label-wm_probseg.nii.gz")
    assert "2 label images fit" in refused(BadDataError, find_label, *find)
    write(labels, "sub-02_ses-A_label-lesion_mask.nii.gz")
    assert "another participant" in refused(BadDataError, find_label, *find)
    line = refused(MissingInputError, find_label, "x", tmp_path / "none", scan)
    assert "no such folder" in line


@pytest.mark.parametrize(
    ("kind", "data", "affine", "line"),
    [
        ("mask", np.zeros(SHAPE), AFFINE, "is all zero"),
        ("probseg", BALL * 0.4, AFFINE, "is empty"),
        ("mask", BALL * 0.7, AFFINE, "a mask holds whole numbers"),
        ("probseg", BALL * 2.0, AFFINE, "values beyond those of a probseg"),
        ("mask", BALL[:10], AFFINE, "another grid than /data/sub-01_T1w.nii.gz"),
        ("mask", BALL, np.diag([1, 1, 1.1, 1]), "lies elsewhere than"),
        ("mask", ~BRAIN, AFFINE, "most of it lies outside the brain"),
    ],
)
def test_what_is_wrong_with_a_label_is_one_line_that_names_it(
    tmp_path, kind, data, affine, line, refused
):
    path = write(tmp_path, f"sub-01_{kind}.nii.gz", data, affine)
    said = refused(BadDataError, load_label, "x", path, IMAGE, BRAIN)
    assert line in said
    assert str(path) in said


def test_shares_that_interpolation_has_rounded_are_taken(tmp_path):
    path = write(tmp_path, "sub-01_probseg.nii.gz", np.where(BALL, 1 + 1e-6, -1e-6))
    assert load_label("x", path, IMAGE, BRAIN).data[~BALL].max() == 0


def test_regions_have_the_names_of_the_table_beside_them(tmp_path):
    data = np.zeros(SHAPE)
    data[5:8, 5:8, 5:8], data[10:14, 10:14, 8] = 3, 2035
    image, path = nib.Nifti1Image(data, AFFINE), tmp_path / "sub-01_dseg.nii.gz"
    image.set_data_dtype(np.int16)  # nibabel scales float data to it: 3 becomes 3.0122
    nib.save(image, path)
    (tmp_path / "sub-01_dseg.tsv").write_text("index\tname\n3\tthalamus\n")
    regions = load_label("x", path, IMAGE, BRAIN).regions()
    assert {name: share.sum() for _, name, share in regions} == {"thalamus": 27, "2035": 16}


def lines_to(sides, profile="box"):
    return response_lines(SHAPE, AFFINE, *lf_grid(AFFINE, SHAPE, sides), VoxelResponse(profile))


def test_partial_volume_is_the_share_of_the_voxel_and_a_gaussian_slice_reaches_its_neighbours():
    share = ellipsoid(4, (9.5, 11.5, 7.5), AFFINE, SHAPE).astype(float)
    found = weigh_by_axis(share, lines_to((2.5, 2, 4)))
    halves = np.repeat(share, 2, axis=0)  # along x five of them are a voxel
    assert found == pytest.approx(block_means(halves, np.array([5, 2, 4])), abs=0.02)
    assert found.sum() * 20 == pytest.approx(share.sum(), rel=1e-5)
    assert response_lines(SHAPE, AFFINE, SHAPE, AFFINE, VoxelResponse()) == []
    box, gauss = (weigh_by_axis(share, lines_to((1, 1, 4), kind)) for kind in ("box", "gauss"))
    assert (gauss > 0.01).sum() > (box > 0.01).sum()
    assert gauss.sum() == pytest.approx(box.sum(), rel=0.03)


def test_a_segmentation_keeps_whole_numbers():
    data, lines = np.zeros(SHAPE, np.int32), lines_to((2, 2, 4))
    data[4:10, 4:20, 4:12], data[10:16, 4:20, 4:12] = 5, 9
    label = Label("x", "f", "dseg", data, {})
    found = carry_label(label, lambda share: weigh_by_axis(share, lines))
    assert set(np.unique(found)) == {0, 5, 9}
    assert np.count_nonzero(found == 5) * 16 == np.count_nonzero(data == 5)


def test_slices_go_through_the_lesion_and_none_is_empty(tmp_path):
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    balls = ((60, (100, 100, 100)), (5, (70, 110, 120)))
    brain, lesion = (ellipsoid(*ball, affine, (100, 100, 40)) for ball in balls)
    # The second image is that of a model that failed.
    image, black, outline = (stored(v, affine) for v in (0.5 * brain, 0.0 * brain, lesion))
    pictures = {"lesionshigh": image, "lesionslow": black}
    examined = SimpleNamespace(outline=outline, pictures=pictures)
    for figure in draw_lesions(tmp_path, scan_at(tmp_path / "sub-01_T1w.nii.gz"), examined):
        drawing = (tmp_path / figure.path).read_text()
        for axis, centre in zip("zyx", (120, 110, 70), strict=True):
            cuts = [int(cut) for cut in re.findall(rf">{axis} ([+-]\d+)</text>", drawing)]
            assert len(cuts) >= 5
            assert min(abs(cut - centre) for cut in cuts) <= 3
            assert all(abs(cut - 100) < 60 for cut in cuts)


def test_a_bound_that_a_fit_does_not_know_stays_short_in_a_table():
    _, *shown = region_rows([[value] * 18 for value in (1.9424e130, 123456.7, 99.94)])
    assert [row[-1] for row in shown] == ["1.94e+130", "123457", "99.9"]
