"""``h2lo methods`` and ``h2lo outputs``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import bids_app_spec
from h2lo_bids.cli.run import main
from h2lo_bids.vocabulary import METHODS


def test_every_method_is_listed_with_its_size_and_paper(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert "pix2pix: Pix2Pix, 4,165,537 parameters, 4,864,370 in training" in text
    assert "https://doi.org/10.1016/j.mri.2021.12.007" in text
    assert all(len(line) <= 92 for line in text.splitlines())
    assert [line.split(":")[0] for line in text.splitlines() if line and line[0] != " "] == [
        "identity", "arnold", "pix2pix", "diffi2i", "inr", "h2lo-mlp", "h2lo-nograd", "h2lo",
        "pfsr",
    ]  # fmt: skip


def test_json_tells_the_same(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods", "--json"]) == 0
    told = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name for name, entry in told.items() if entry["task"] == "synthesize"} == set(METHODS)
    assert told["pfsr"]["task"] == "enhance"
    assert (told["h2lo"]["parameters"], told["h2lo"]["trained"]) == (581_409, 581_409)
    assert told["inr"]["exact"]
    assert told["inr"]["ours"]


def test_patterns_are_printed_without_a_dataset(capsys: pytest.CaptureFixture) -> None:
    assert main(["outputs"]) == 0
    printed = json.loads(capsys.readouterr().out)
    spec = bids_app_spec.load("io_spec.json")
    assert all(printed[key] == spec[key] for key in ("outputs", "figures", "results"))
    assert main(["--output-spec"]) == 64  # which it was called
    assert "`h2lo outputs`" in capsys.readouterr().err


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from h2lo_bids.cli.run import main; main(['methods']); "
        "print(sorted({'torch', 'numpy', 'nipype', 'nibabel'} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_dataset_of_that_name_is_still_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["methods", "out", "participant"]) == 66
    assert "methods: no such folder" in capsys.readouterr().err
    assert main(["methods", "--yaml"]) == 64
    assert "unrecognized arguments: --yaml" in capsys.readouterr().err
