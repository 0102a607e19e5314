"""The checks of .ci/container find what they are there to find."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from h2lo_bids.cli.resources import child_environment

ROOT = Path(__file__).parents[2]


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
    command = [sys.executable, ROOT / ".ci" / "layers.py", image]
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "MY_TOKEN": "planted-token",
        **environment,
    }
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_clean_image_passes(tmp_path):
    done = _search(tmp_path, {"opt/h2lo/a.txt": b"nothing of note", "opt/b": b""})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("layer", "config", "told"),
    [
        ({"first": b"", "etc/x": b"key=planted-token\n"}, b"{}", "etc/x: the value of MY_TOKEN"),
        ({"a": b"see mirror.example.invalid/simple"}, b"{}", "a: a host of pip's index-url"),
        ({"etc/pip.conf": b""}, b"{}", "etc/pip.conf: lent to the build"),
        ({"a": str(ROOT).encode()}, b"{}", "a: the checkout's path"),
        ({}, b'{"Env": ["X=planted-token"]}', "config.json: the value of MY_TOKEN"),
    ],
)
def test_what_belongs_to_the_machine_is_found_and_not_repeated(tmp_path, layer, config, told):
    index = "https://user:word@mirror.example.invalid/simple"
    done = _search(tmp_path, layer, config, PIP_INDEX_URL=index)
    assert done.returncode == 1, done.stderr
    assert told in done.stdout
    assert "planted" not in done.stdout


def test_a_build_is_lent_what_it_can_use_and_the_environment_wins(tmp_path):
    conf = tmp_path / "host.conf"
    conf.write_text(
        "[global]\nconstraint = /there/constraints.txt\ntimeout = 15\nretries = 1\n"
        f"extra-index-url =\n  file://{tmp_path}/simple\n  https://mirror.example.invalid/simple\n"
        "[install]\nretries = 2\n"
    )
    env = {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": str(conf), "PIP_TIMEOUT": "60"}
    command = [sys.executable, ROOT / ".ci" / "pipconf.py", tmp_path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout.splitlines()
    lent = (tmp_path / "pip.conf").read_text()
    assert "constraint" not in lent
    assert "timeout = 60\n" in lent
    assert "retries = 2\n" in lent
    assert f"file://{tmp_path}/simple https://mirror.example.invalid/simple\n" in lent


def test_runs_that_differ_in_a_voxel_are_told_apart(tmp_path):
    for run, voxel in (("native", b"1"), ("same", b"1"), ("other", b"2")):
        anat = tmp_path / run / "sub-01" / "anat"
        anat.mkdir(parents=True)
        (anat / "sub-01_T1w.nii.gz").write_bytes(voxel)
        (anat / "sub-01_T1w.json").write_text(f'{{"python": "3.11.{len(run)}"}}')
        (tmp_path / run / "dataset_description.json").write_text(run)

    def compare(run):
        command = [sys.executable, ROOT / ".ci" / "compare.py", tmp_path / "native", tmp_path / run]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert compare("same").returncode == 0
    other = compare("other")
    assert other.returncode == 1
    assert "differs: sub-01/anat/sub-01_T1w.nii.gz\n" in other.stdout
    assert compare("absent").returncode == 1


def test_an_empty_templateflow_home_counts_as_none(tmp_path):
    env = child_environment(tmp_path, 1, {"TEMPLATEFLOW_HOME": "", "HOME": str(tmp_path)})
    assert env["TEMPLATEFLOW_HOME"].startswith(str(tmp_path))
