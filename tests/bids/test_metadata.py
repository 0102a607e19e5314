from __future__ import annotations

from pathlib import Path

import pytest
from bids import BIDSLayout
from skeletons import anat, put, write

from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import BadDataError, MissingInputError


def read(root: Path, relative: str) -> dict:
    name = parse_name(Path(relative).name)
    assert name is not None
    return Sidecars(root).read(root / relative, name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with a sidecar on every level that inheritance knows."""
    root = write(
        tmp_path / "ds",
        {
            anat("01", "A", "acq-x_run-1_T1w"): {"EchoTime": 5},
            anat("01", "A", "T2w"): None,
            anat("02", "A", "acq-x_T1w"): None,
        },
    )
    put(root / "T1w.json", {"Manufacturer": "root", "RepetitionTime": 1, "EchoTime": 1})
    put(root / "acq-x_T1w.json", {"RepetitionTime": 2, "FlipAngle": 2})
    put(root / "acq-y_T1w.json", {"FlipAngle": 99})
    put(root / "sub-01" / "sub-01_T1w.json", {"FlipAngle": 3, "InversionTime": 3})
    put(root / "sub-01" / "ses-A" / "sub-01_ses-A_T1w.json", {"InversionTime": 4})
    put(root / "sub-01" / "ses-A" / "sub-01_ses-B_T1w.json", {"InversionTime": 98})
    return root


def test_nearer_and_more_specific_wins(root: Path) -> None:
    assert read(root, anat("01", "A", "acq-x_run-1_T1w")) == {
        "Manufacturer": "root",
        "RepetitionTime": 2,
        "FlipAngle": 3,
        "InversionTime": 4,
        "EchoTime": 5,
    }
    assert read(root, anat("01", "A", "T2w")) == {}


def test_agrees_with_pybids(root: Path) -> None:
    # PyBIDS's order within one folder is not defined, so one file per folder here.
    (root / "acq-x_T1w.json").unlink()
    layout = BIDSLayout(root, validate=False)
    files = layout.get(suffix=["T1w", "T2w"], extension=".nii.gz")
    assert len(files) == 3
    for file in files:
        assert read(root, str(Path(file.path).relative_to(root))) == file.get_metadata()


def test_broken_sidecars_that_do_not_apply_do_not_matter(root: Path) -> None:
    put(root / "acq-y_T1w.json", "{broken")
    put(root / "task-x_bold.json", "{broken")
    read(root, anat("01", "A", "acq-x_run-1_T1w"))
    put(root / "T1w.json", "{broken")
    with pytest.raises(BadDataError, match=r"T1w\.json.*repair"):
        read(root, anat("01", "A", "acq-x_run-1_T1w"))


def test_a_sidecar_without_content(root: Path) -> None:
    path = root / anat("01", "A", "acq-x_run-1_T1w", ".json")
    path.unlink()
    path.symlink_to(root / ".git" / "annex" / "objects" / "x")
    with pytest.raises(MissingInputError, match="datalad get"):
        read(root, anat("01", "A", "acq-x_run-1_T1w"))


def test_a_byte_order_mark_is_no_error(root: Path) -> None:
    (root / "T1w.json").write_bytes(b'\xef\xbb\xbf{"Manufacturer": "bom"}')
    assert read(root, anat("02", "A", "acq-x_T1w"))["Manufacturer"] == "bom"
