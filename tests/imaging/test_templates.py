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
    found = find_template("Own:res-1")
    assert found == (image, mask)
    assert find_template("Own:res-2")[0] == finer
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path.parent)
        patch.setenv("TEMPLATEFLOW_HOME", tmp_path.name)  # but a step has a folder of its own
        assert find_template("Own:res-1") == (image, mask)
    assert find_template("Own") == (image, mask)
    assert find_template("Own:res-1", suffix="T2w")[0] == image
    second = put(tmp_path, "tpl-Own/tpl-Own_res-1_T2w.nii.gz")
    assert find_template("Own:res-1", suffix="T2w")[0] == second
    flat = put(tmp_path, "tpl-Own/tpl-Own_T1w.nii.gz")
    assert find_template("Own")[0] == flat
    child = put(tmp_path, "tpl-Kid/cohort-2/tpl-Kid_cohort-2_res-1_T1w.nii.gz")
    assert find_template("Kid:cohort-2:res-1")[0] == child


def test_absent_and_empty_files_name_the_variable_and_the_file(tmp_path: Path, refused) -> None:
    stub = put(tmp_path, "tpl-M/tpl-M_res-01_T1w.nii.gz", b"")
    for text, file in (("M:res-1", stub), ("Unknown:res-2", "tpl-Unknown_res-02_T1w.nii.gz")):
        message = refused(MissingInputError, find_template, text)
        for part in ("TEMPLATEFLOW_HOME", "--template-file", str(file)):
            assert part in message


def test_the_client_is_never_imported_unasked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "templateflow", None)
    monkeypatch.setattr("socket.socket", None)
    put(tmp_path, "tpl-Own/tpl-Own_res-01_T1w.nii.gz")
    find_template("Own:res-1")
    with pytest.raises(MissingInputError, match="not there"):
        find_template("Other:res-1")
    with pytest.raises(MissingInputError, match="could not be fetched"):
        find_template("Other:res-1", fetch=True)


def test_the_client_fetches_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(name: str, *, suffix: str, raise_empty: bool = False, **query: object) -> None:
        asked.append(suffix)
        if suffix == "T2w":  # as of most templates, there is none
            if raise_empty:
                raise RuntimeError("No results found")
            return
        ending = "desc-brain_mask" if query["desc"] == "brain" else suffix
        home = Path(os.environ["TEMPLATEFLOW_HOME"])
        put(home, f"tpl-{name}/tpl-{name}_res-{query['resolution']:02d}_{ending}.nii.gz")

    client = types.ModuleType("templateflow")
    client.api = types.SimpleNamespace(get=get)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "templateflow", client)
    found = find_template("Far:res-2", fetch=True)
    assert found[0] == tmp_path / "tpl-Far" / "tpl-Far_res-02_T1w.nii.gz"
    assert found[1] is not None
    assert asked == ["T1w", "mask"]
    find_template("Far:res-2", fetch=True)
    assert asked == ["T1w", "mask"]
    assert find_template("Far:res-2", suffix="T2w", fetch=True) == found


def test_a_user_without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMPLATEFLOW_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingInputError, match=r"^/nonexistent/\.cache/templateflow/tpl-MNI152"):
        find_template("MNI152NLin2009cAsym:res-1")
