"""Labels: which file is a scan's, what is refused, and partial volume on other grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from skeletons import anat, scan_at

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.resample import block_means, lf_grid, weigh_by_axis
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.trial.lesions import response_lines
from h2lo_bids.trial.scan import Label, carry_label, find_label, load_label

SHAPE, AFFINE = (20, 24, 16), np.diag([1.0, 1.0, 1.0, 1.0])
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[2:-2, 2:-2, 2:-2] = True
IMAGE = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)
IMAGE.set_filename("/data/sub-01_T1w.nii.gz")


def scan(root, name="acq-x_T1w"):
    return scan_at(root / anat("01", "A", name))


def write(folder, name, data=None, affine=AFFINE):
    folder.mkdir(parents=True, exist_ok=True)
    data = np.zeros(SHAPE, np.float32) if data is None else data
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), folder / name)
    return folder / name


def test_the_label_of_a_scan_is_found_by_its_entities(tmp_path):
    labels = (tmp_path / "d" / anat("01", "A", "")).parent
    for name in (
        "sub-01_ses-A_desc-brain_mask.nii.gz", "sub-01_ses-A_acq-y_label-lesion_mask.nii.gz",
        "sub-01_ses-A_space-MNI152NLin6Asym_label-lesion_mask.nii.gz",
        "sub-01_ses-A_space-T2w_label-lesion_mask.nii.gz", "sub-01_ses-A_T1w.nii.gz",
    ):  # fmt: skip
        write(labels, name)
    find = ("x", tmp_path / "d", scan(tmp_path))
    with pytest.raises(MissingInputError, match="no mask, dseg or probseg for sub-01"):
        find_label(*find)
    mine = write(labels, "sub-01_ses-A_label-lesion_mask.nii.gz")
    assert find_label(*find) == mine
    assert "space-T2w" in find_label("x", tmp_path / "d", scan(tmp_path, "T2w")).name
    own = write(labels, "sub-01_ses-A_acq-x_label-lesion_mask.nii.gz")  # names more of the scan
    assert find_label(*find) == own
    own.unlink()
    write(labels, "sub-01_ses-A_label-wm_probseg.nii.gz")
    with pytest.raises(BadDataError, match="2 label images fit"):
        find_label(*find)
    with pytest.raises(MissingInputError, match="no such folder"):
        find_label("x", tmp_path / "none", scan(tmp_path))
    write(labels, "sub-02_ses-A_label-lesion_mask.nii.gz")
    with pytest.raises(BadDataError, match="another participant"):
        find_label(*find)


def ball(at=(10, 12, 8), radius=3):
    return radius >= np.linalg.norm(np.indices(SHAPE).T - at, axis=-1).T


@pytest.mark.parametrize(
    ("kind", "data", "affine", "line"),
    [
        ("mask", np.zeros(SHAPE), AFFINE, "is empty"),
        ("probseg", ball() * 0.4, AFFINE, "is empty"),
        ("mask", ball() * 0.7, AFFINE, "a mask holds whole numbers"),
        ("probseg", ball() * 2.0, AFFINE, "values beyond those of a probseg"),
        ("mask", ball()[:10], AFFINE, "another grid than /data/sub-01_T1w.nii.gz"),
        ("mask", ball(), np.diag([1, 1, 1.1, 1]), "lies elsewhere than"),
        ("mask", ~BRAIN, AFFINE, "most of it lies outside the brain"),
    ],
)
def test_what_is_wrong_with_a_label_is_one_line_that_names_it(
    tmp_path, kind, data, affine, line, refused
):
    path = write(tmp_path, f"sub-01_{kind}.nii.gz", np.asarray(data), affine)
    said = refused(BadDataError, load_label, "x", path, IMAGE, BRAIN)
    assert line in said
    assert str(path) in said


def test_regions_have_the_names_of_the_table_beside_them(tmp_path):
    data = np.zeros(SHAPE)
    data[5:8, 5:8, 5:8], data[10:14, 10:14, 8] = 3, 2035
    image, path = nib.Nifti1Image(data, AFFINE), tmp_path / "sub-01_dseg.nii.gz"
    image.set_data_dtype(np.int16)  # nibabel scales float data to it: 3 becomes 3.0122
    nib.save(image, path)
    (tmp_path / "sub-01_dseg.tsv").write_text("index\tname\n3\tthalamus\n")
    label = load_label("x", path, IMAGE, BRAIN)
    regions = {name: int(share.sum()) for _, name, share in label.regions()}
    assert regions == {"thalamus": 27, "2035": 16}


def brute_force(share, shape, affine):
    """Average a share over voxels by many points."""
    n = 10
    fine = [n * side for side in shape]
    points = (np.indices(fine).reshape(3, -1) + 0.5) / n - 0.5
    near = np.rint(affine[:3, :3] @ points + affine[:3, 3:]).astype(int)
    ok = ((near >= 0) & (near < np.array(share.shape)[:, None])).all(0)
    values = np.zeros(fine)
    values.reshape(-1)[ok] = share[tuple(near[:, ok])]
    return block_means(values, np.full(3, n))


def lines_to(sides, profile="box"):
    return response_lines(SHAPE, AFFINE, *lf_grid(AFFINE, SHAPE, sides), VoxelResponse(profile))


def test_partial_volume_is_the_share_of_the_voxel_and_a_gaussian_slice_reaches_its_neighbours():
    share = ball((9.5, 11.5, 7.5), 4).astype(float)
    found = weigh_by_axis(share, lines_to((2.5, 2, 5)))
    truth = brute_force(share, *lf_grid(AFFINE, SHAPE, (2.5, 2, 5)))
    assert found == pytest.approx(truth, abs=0.02)
    assert found.sum() * 25 == pytest.approx(share.sum(), rel=1e-5)
    assert response_lines(SHAPE, AFFINE, SHAPE, AFFINE, VoxelResponse()) == []
    box, gauss = (weigh_by_axis(share, lines_to((1, 1, 4), kind)) for kind in ("box", "gauss"))
    assert (gauss > 0.01).sum() > (box > 0.01).sum()
    assert gauss.sum() == pytest.approx(box.sum(), rel=0.03)


def test_a_segmentation_keeps_whole_numbers():
    data = np.zeros(SHAPE, np.int32)
    data[4:10, 4:20, 4:12], data[10:16, 4:20, 4:12] = 5, 9
    label = Label("x", "f", "dseg", data, {})
    found = carry_label(label, lambda share: weigh_by_axis(share, lines_to((2, 2, 4))))
    assert set(np.unique(found)) == {0, 5, 9}
    assert np.count_nonzero(found == 5) * 16 == np.count_nonzero(data == 5)
