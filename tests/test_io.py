from __future__ import annotations

import errno
import gzip
import os
import resource
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.errors import CannotCreateError, InputOutputError
from h2lo_bids.io import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    remove_temporaries,
    save_nifti,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def image() -> nib.Nifti1Image:
    data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    return nib.Nifti1Image(data, np.diag([1.6, 1.6, 5, 1]))


def test_failure_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.txt"
    atomic_write_text(target, "old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert names(target.parent) == ["x.txt"]


def test_full_disk_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch, refused) -> None:
    path = tmp_path / "image.nii.gz"
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(code, os.strerror(code))))
        assert str(path) in refused(InputOutputError, save_nifti, image(), path)
        assert names(tmp_path) == []


def test_an_array_that_is_cut_by_a_quota_is_one_line_too(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with (
            pytest.raises(InputOutputError, match=r"pair\.npy: writing failed .*; free some space"),
            atomic_path(tmp_path / "pair.npy") as temporary,
            temporary.open("wb") as stream,
        ):
            np.save(stream, np.zeros(5000))  # NumPy raises OSError without a number
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_told_and_errors_about_other_files_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="file/x"):
        atomic_write_text(tmp_path / "file" / "x", "text")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "absent").read_text()


def test_equal_content_is_not_written_again_and_the_mode_follows_the_umask(tmp_path: Path) -> None:
    target, umask = tmp_path / "x", os.umask(0o027)
    try:
        atomic_write_bytes(target, b"one")
    finally:
        os.umask(umask)
    before = target.stat()
    assert before.st_mode & 0o777 == 0o640
    atomic_write_bytes(target, b"one")
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    atomic_write_bytes(target, b"two")
    assert target.read_bytes() == b"two"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_images_come_back_and_have_the_same_bytes(tmp_path: Path, name: str) -> None:
    first = save_nifti(image(), tmp_path / name).read_bytes()
    second = save_nifti(image(), tmp_path / ("b" + name)).read_bytes()
    assert first == second
    loaded = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(loaded.dataobj), image().dataobj)
    np.testing.assert_allclose(loaded.affine, image().affine)
    if name.endswith(".gz"):
        assert first[3] == 0  # no name in the header
        assert first[4:8] == bytes(4)  # no time
        assert gzip.decompress(first)[344:348] == b"n+1\0"


def test_only_temporaries_are_removed(tmp_path: Path) -> None:
    (tmp_path / "anat").mkdir()
    other = "anat/.tmp-3_sub-1_ses-B_T1w.nii.gz"  # that another run writes now
    for name in (".tmp-1_sub-1_ses-A_x", "anat/.tmp-2_sub-1_ses-A_y", "sub-1_ses-A_T1w", other):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path, "sub-1_ses-A")
    assert names(tmp_path) == ["anat", "sub-1_ses-A_T1w"]
    assert names(tmp_path / "anat") == [other.partition("/")[2]]


def test_the_longest_name_can_be_written_and_a_longer_one_is_told(tmp_path):
    target = tmp_path / ("x" * 248 + ".nii.gz")  # 255 bytes, the most that a name may have
    with atomic_path(target) as temporary:
        assert temporary.name.endswith("x.nii.gz")
        temporary.write_bytes(b"content")
    assert target.read_bytes() == b"content"
    with (
        pytest.raises(CannotCreateError, match="name is too long; shorten"),
        atomic_path(tmp_path / ("x" * 300)) as temporary,
    ):
        temporary.write_bytes(b"content")
    assert list(tmp_path.iterdir()) == [target]
