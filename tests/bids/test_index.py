from __future__ import annotations

import os.path
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from bids import BIDSLayout
from skeletons import HIGH, anat, write

from h2lo_bids.bids.index import DATABASE, index_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = [anat(f"0{n}", ses, "T1w") for n in (1, 2, 3) for ses in ("A", "B")]
    names += [anat("1", None, "T1w"), "sub-01/ses-A/func/sub-01_ses-A_task-x_bold.nii.gz"]
    root = write(tmp_path / "ds", dict.fromkeys(names, HIGH))
    for folder in ("sub-01/ses-A/anat", "sub-01/ses-A", "sub-01"):
        (root / folder / "._sub-01_ses-A_T1w.nii.gz").write_bytes(b"\0\5\x16\7Mac OS X")
        (root / folder / ".DS_Store").write_bytes(b"\0")
    return root


def names(found: list[Path]) -> list[str]:
    return [path.name.split(".")[0] for path in found]


FIRST = ["sub-01_ses-A_T1w", "sub-01_ses-B_T1w"]


def test_only_what_is_asked_for_as_pybids_itself_finds_it(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "db" / "layout_index.sqlite"  # of another program
    layout = BIDSLayout(root, validate=False, database_path=other.parent)
    content = other.read_bytes()
    (root / anat("02", "B", "T1w")).unlink()  # by which it is out of date
    for database in (None, other.parent):
        assert names(index_images(root, ("1",), (), database)[0]) == ["sub-1_T1w"]
        found, _ = index_images(root, ("01", "02", "1"), ("B",), database)
        assert names(found) == ["sub-01_ses-B_T1w"]
    expected = layout.get(datatype="anat", extension=".nii.gz", return_type="filename")
    found, _ = index_images(root, ("01", "02", "03", "1"), every_subject=True)
    assert [str(path) for path in found] == sorted(filter(os.path.exists, expected))
    assert other.read_bytes() == content


def test_a_stale_or_foreign_database_is_noticed_and_remade(root: Path, tmp_path: Path) -> None:
    database = tmp_path / "db"
    other = write(tmp_path / "other", {anat("01", "Z", "T1w"): HIGH})
    index_images(other, ("01",), (), database)
    found, notes = index_images(root, ("01",), (), database)
    assert names(found) == FIRST
    assert str(other) in notes[0]
    stamp = (database / DATABASE).stat().st_mtime_ns
    (root / "sub-01/ses-B/anat/._other_T1w.nii.gz").touch()  # hidden, it does not count
    assert index_images(root, ("01", "02"), (), database)[1] == []
    assert (database / DATABASE).stat().st_mtime_ns == stamp
    (root / anat("01", "A", "T1w")).unlink()
    found, (note,) = index_images(root, ("01",), (), database)
    assert (names(found), "1 of its images are gone, 0 are new" in note) == (FIRST[1:], True)
    write(root, {anat("04", "A", "T1w"): HIGH, anat("03", "C", "T2w"): HIGH})
    found, _ = index_images(root, ("03", "04"), ("A", "C"), database)
    assert names(found) == ["sub-03_ses-A_T1w", "sub-03_ses-C_T2w", "sub-04_ses-A_T1w"]
    assert not list(database.rglob(".tmp-*"))


def test_a_damaged_database_is_remade(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "db" / DATABASE
    file.parent.mkdir(parents=True)
    for content in (b"not a database at all", b""):
        file.write_bytes(content)
        found, notes = index_images(root, ("1",), (), tmp_path / "db")
        assert names(found) == ["sub-1_T1w"]
        assert "remade" in notes[0]
    assert index_images(root, ("1",), (), tmp_path / "db") == (found, [])
    again, (note,) = index_images(root, ("1",), (), file)  # a file where a folder is needed
    assert again == found
    assert "indexed without it" in note


def test_jobs_may_share_a_database(root: Path, tmp_path: Path) -> None:
    """As many as a cluster starts at once, each building what it does not find."""
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        jobs = [pool.submit(index_images, root, ("01",), (), tmp_path / "db") for _ in range(3)]
        results = [job.result()[0] for job in jobs]
    assert all(names(found) == FIRST for found in results)
    file = tmp_path / "db" / DATABASE
    assert list(file.parent.iterdir()) == [file]
