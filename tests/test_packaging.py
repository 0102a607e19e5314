"""The wheel and the sdist hold what they must, and the packs for clusters fit the program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

import bids_app_spec
import h2lo_bids

ROOT = Path(__file__).parents[1]
PACKAGES = ("bids_app_spec", "h2lo_bids", "pipelines")
PACKS = ROOT / "docs" / "packs"
BUILD = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(tmp_path):
    source = tmp_path / "source"  # a build leaves files beside it
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=junk)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    words = [sys.executable, "-c", BUILD, str(tmp_path / "dist")]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (made,) = tmp_path.glob("dist/*.whl")
    with zipfile.ZipFile(made) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        points = wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt")))
    files = {p for name in PACKAGES for p in (source / name).rglob("*") if p.is_file()}
    assert names == {path.relative_to(source).as_posix() for path in files}
    assert {line.split(" =")[0] for line in points.decode().splitlines() if "=" in line} == {
        "h2lo", "h2lo-phantom", "h2lo-slurm",
    }  # fmt: skip


def pack(name: str) -> dict:
    return json.loads((PACKS / "nipoppy" / f"{name}.json").read_text())


def test_the_nipoppy_pack_calls_options_that_there_are():
    inputs = {item["id"]: item for item in bids_app_spec.load("boutiques.json")["inputs"]}
    descriptor = pack("descriptor")
    for item in descriptor["inputs"]:
        ours = inputs[item["id"]]
        for key in ("type", "list", "optional", "command-line-flag", "value-key"):
            assert item.get(key) == ours.get(key), f"{item['id']}: {key}"
        assert item["value-key"] in descriptor["command-line"]
    # A login shell of Debian would forget the image's PATH, and with it where h2lo is.
    assert descriptor["shell"] != "/bin/sh"
    assert set(pack("invocation")) <= {item["id"] for item in descriptor["inputs"]}
    versions = {pack("config")["VERSION"], descriptor["tool-version"]}
    assert versions == {h2lo_bids.__version__}


def test_the_babs_pack_calls_options_that_there_are():
    content = yaml.safe_load((PACKS / "babs.yaml").read_text())
    inputs = bids_app_spec.load("boutiques.json")["inputs"]
    flags = {item.get("command-line-flag") for item in inputs}
    used = {key for key in content["bids_app_args"] if key.startswith("--")}
    assert used == {"--work-dir", "--nprocs", "--mem"}
    assert used <= flags
    # Its patterns must all match right below sub-*: none does of participants with sessions.
    assert "required_files" not in content["input_datasets"]["BIDS"]
    assert content["zip_foldernames"] == {"h2lo": h2lo_bids.__version__.replace(".", "-")}
