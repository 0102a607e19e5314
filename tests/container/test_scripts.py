"""Files fetched into the image are those that were promised, and .ci/container's checks find."""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENT = b"weights" * 1000
UNREACHABLE = ("file:///nowhere/at/all.pt", "ftp://x.invalid/a.pt")


def _run(script, *words, env=None):
    command = [sys.executable, ROOT / script, *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def _tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _search(tmp_path, layer, config=b"{}", **environment):
    image = tmp_path / "image.tar"
    image.write_bytes(_tar({"layer.tar": _tar(layer), "config.json": config}))
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MY_TOKEN": "planted-token"}
    return _run(".ci/layers.py", image, env=env | environment)


def test_what_belongs_to_the_machine_is_found_and_not_repeated(tmp_path):
    clean = _search(tmp_path, {"opt/h2lo/a.txt": b"nothing of note", "opt/b": b""})
    assert clean.returncode == 0, clean.stdout + clean.stderr
    index = "https://user:word@mirror.example.invalid/simple"
    layer = {
        "first": b"",
        "etc/x": b"key=planted-token\n",
        "a": b"see mirror.example.invalid/simple",
        "etc/pip.conf": b"",
        "b": str(ROOT).encode(),
    }
    done = _search(tmp_path, layer, b'{"Env": ["X=planted-token"]}', PIP_INDEX_URL=index)
    assert done.returncode == 1, done.stderr
    for told in (
        "layer.tar: etc/x: the value of MY_TOKEN",
        "layer.tar: a: a host of pip's index-url",
        "layer.tar: etc/pip.conf: lent to the build",
        "layer.tar: b: the checkout's path",
        "config.json: the value of MY_TOKEN",
    ):
        assert told in done.stdout
    assert "planted" not in done.stdout


def test_runs_that_differ_in_a_voxel_are_told_apart(tmp_path):
    for run, voxel in (("native", b"1"), ("same", b"1"), ("other", b"2")):
        anat = tmp_path / run / "sub-01" / "anat"
        anat.mkdir(parents=True)
        (anat / "sub-01_T1w.nii.gz").write_bytes(voxel)
        (anat / "sub-01_T1w.json").write_text(f'{{"python": "3.11.{len(run)}"}}')
        (tmp_path / run / "dataset_description.json").write_text(run)

    runs = ("same", "other", "absent")
    done = [_run(".ci/compare.py", tmp_path / "native", tmp_path / run) for run in runs]
    assert [run.returncode for run in done] == [0, 1, 1]
    assert "differs: sub-01/anat/sub-01_T1w.nii.gz\n" in done[1].stdout


def _entry(tmp_path, name="weights.pt", size=None, sha256=None):
    source = tmp_path / "source" / name
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(CONTENT)
    sha256 = sha256 or hashlib.sha256(CONTENT).hexdigest()
    size = len(CONTENT) if size is None else size
    return f"{source.as_uri()}#size={size}&sha256={sha256}"


def test_files_land_where_their_readers_look(tmp_path):
    template = "tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz"
    infant = "tpl-MNIInfant_cohort-1_res-1_T1w.nii.gz"
    entries = [_entry(tmp_path, name) for name in ("weights.pt", template, infant)]
    assert _run("container/fetch.py", tmp_path / "assets", "").returncode == 0
    done = _run("container/fetch.py", tmp_path / "assets", " ".join(entries))
    assert done.returncode == 0, done.stderr
    for name in (
        "weights.pt",
        f"tpl-MNI152NLin2009cAsym/{template}",
        f"tpl-MNIInfant/cohort-1/{infant}",
    ):
        assert (tmp_path / "assets" / name).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"size": len(CONTENT) - 1}, "more came"),
        ({"size": len(CONTENT) + 1}, f"{len(CONTENT)} bytes came"),
        ({"sha256": "0" * 64}, "was promised"),
        ({"sha256": "abc"}, "needs #size="),
        *((f"{url}#size=1&sha256={'0' * 64}", url) for url in UNREACHABLE),
    ],
)
def test_anything_else_ends_the_build_in_one_line(tmp_path, fault, told):
    entry = _entry(tmp_path, **fault) if isinstance(fault, dict) else fault
    done = _run("container/fetch.py", tmp_path / "assets", entry)
    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "assets").iterdir()) == []
