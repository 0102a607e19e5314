"""Template lookup in hand-made TemplateFlow folders, with no network."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from h2lo_bids.errors import MissingInputError
from h2lo_bids.imaging.templates import find_template


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))


def put(folder: Path, name: str, content: bytes = b"x") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_custom_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put(tmp_path, "tpl-Own/tpl-Own_res-01_T1w.nii.gz")
    put(tmp_path, "tpl-Own/tpl-Own_res-01_desc-brain_T1w.nii.gz")
    mask = put(tmp_path, "tpl-Own/tpl-Own_res-01_desc-brain_mask.nii.gz")
    finer = put(tmp_path, "tpl-Own/tpl-Own_res-02_T1w.nii.gz")
    assert find_template("Own:res-1") == find_template("Own") == (image, mask)
    assert find_template("Own:res-2")[0] == finer
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path.parent)
        patch.setenv("TEMPLATEFLOW_HOME", tmp_path.name)  # but a step has a folder of its own
        assert find_template("Own:res-1") == (image, mask)
    assert find_template("Own:res-1", suffix="T2w")[0] == image
    second = put(tmp_path, "tpl-Own/tpl-Own_res-1_T2w.nii.gz")
    assert find_template("Own:res-1", suffix="T2w")[0] == second
    flat = put(tmp_path, "tpl-Own/tpl-Own_T1w.nii.gz")
    assert find_template("Own")[0] == flat
    child = put(tmp_path, "tpl-Kid/cohort-2/tpl-Kid_cohort-2_res-1_T1w.nii.gz")
    assert find_template("Kid:cohort-2:res-1")[0] == child


def test_absent_and_empty_files_name_the_variable_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    stub = put(tmp_path, "tpl-M/tpl-M_res-01_T1w.nii.gz", b"")
    for text, file in (("M:res-1", stub), ("Unknown:res-2", "tpl-Unknown_res-02_T1w.nii.gz")):
        message = refused(MissingInputError, find_template, text)
        for part in ("TEMPLATEFLOW_HOME", "--template-file", str(file)):
            assert part in message
    for name in ("TEMPLATEFLOW_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    message = refused(MissingInputError, find_template, "MNI152NLin2009cAsym:res-1")
    assert message.startswith("/nonexistent/.cache/templateflow/tpl-MNI152NLin2009cAsym/")


def test_the_client_is_never_imported_unasked(tmp_path: Path, monkeypatch, refused) -> None:
    monkeypatch.setitem(sys.modules, "templateflow", None)
    monkeypatch.setattr("socket.socket", None)
    put(tmp_path, "tpl-Own/tpl-Own_res-01_T1w.nii.gz")
    find_template("Own:res-1")
    assert "not there" in refused(MissingInputError, find_template, "A:res-1")
    fetched = refused(MissingInputError, find_template, "A:res-1", fetch=True)
    assert "could not be fetched" in fetched


def test_the_client_fetches_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(name: str, *, suffix: str, raise_empty: bool = False, **query: object) -> None:
        asked.append(suffix)
        if suffix == "T2w":  # as of most templates, there is none
            assert not raise_empty
            return
        ending = "desc-brain_mask" if query["desc"] == "brain" else suffix
        home = Path(os.environ["TEMPLATEFLOW_HOME"])
        put(home, f"tpl-{name}/tpl-{name}_res-{query['resolution']:02d}_{ending}.nii.gz")

    api = types.SimpleNamespace(get=get)
    monkeypatch.setitem(sys.modules, "templateflow", types.SimpleNamespace(api=api))
    stem = str(tmp_path / "tpl-Far" / "tpl-Far_res-02_")
    files = Path(f"{stem}T1w.nii.gz"), Path(f"{stem}desc-brain_mask.nii.gz")
    for _ in range(2):
        assert find_template("Far:res-2", fetch=True) == files
        assert asked == ["T1w", "mask"]
    assert find_template("Far:res-2", suffix="T2w", fetch=True) == files
