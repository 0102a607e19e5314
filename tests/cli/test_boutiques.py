"""What describes the command line: help, listings, usage page and Boutiques descriptor."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
from heads import call

import bids_app_spec
from h2lo_bids.bids.derivatives import derivative_path, result_files
from h2lo_bids.cli.parser import build_parser, read_settings
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import OPTIONS
from h2lo_bids.vocabulary import ENHANCER, LEVELS, METHODS

DESCRIPTOR = bids_app_spec.load("boutiques.json")
INPUTS = {item["id"]: item for item in DESCRIPTOR["inputs"]}
ACTIONS = {action.dest: action for action in build_parser()._actions}
WORDS = ("1", "label1", "acq=MPRAGE", "T1w=/m/one.pth", "own=cp {input} {output}", "2x2x2", "cpu")


@pytest.mark.slow
def test_the_tool_of_boutiques_finds_it_valid_and_makes_a_command_line_that_is_read(tmp_path):
    bosh = pytest.importorskip("boutiques.bosh").bosh
    path = tmp_path / "boutiques.json"
    path.write_text(json.dumps(DESCRIPTOR))
    bosh(["validate", str(path)])
    values = {"bids_dir": "/data/bids", "out_dir": "/data/my out", "analysis_level": "participant"}
    values |= {"participant_label": ["01", "02"], "lf_grid": ["1.6x1.6x5"], "random_seed": 7}
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        bosh(["exec", "simulate", str(path), "-i", json.dumps(values)])
    s = read_settings(shlex.split(told.getvalue().splitlines()[-1])[1:])
    assert (s.out_dir, s.participant_label) == (Path("/data/my out"), ("01", "02"))
    assert (s.lf_grid, s.random_seed) == (((1.6, 1.6, 5.0),), 7)


def example(item: dict) -> list[str]:
    """Return the words of an input with one value that its reader takes, no default."""
    if item["type"] == "Flag":
        return [item["command-line-flag"]]
    action, values = ACTIONS[item["id"]], item.get("value-choices", [])[::-1] or WORDS
    if item["type"] == "Number":
        values = [f"{item['minimum'] + more:g}" for more in (2, 0)]
    for value in values:
        with contextlib.suppress(argparse.ArgumentTypeError):
            (action.type or str)(value)
            return [item["command-line-flag"], value]
    raise AssertionError(f"no example of {item['id']}")


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_takes_what_it_does_not_disable_and_hands_it_on(level):
    disabled, start = INPUTS["analysis_level"]["value-disables"][level], ["/b", "/o", level]
    for name in sorted(OPTIONS.keys() - {"verbose"}):
        taken = False
        for mode in ([], ["--pairs"], ["--task", "enhance"]):
            with contextlib.suppress(UsageError):
                given = read_settings([*start, *example(INPUTS[name]), *mode])
                assert getattr(given, name) != OPTIONS[name].default
                assert read_settings(given.words()) == given
                taken = True
                break
        assert taken is (name not in disabled), name


def test_outputs_are_found_by_their_patterns():
    """Where they are not, a platform hands no image on."""
    templates = [o["path-template"].partition("/")[2] for o in DESCRIPTOR["output-files"]]
    out = Path("/out")
    made = [
        derivative_path(out, {"sub": "01", **ses}, suffix=suffix, desc=desc, res="model")
        for ses in ({}, {"ses": "HF"})
        for suffix, desc in (("T1w", "lowfield"), ("T2w", "lowfieldstd"), ("mask", "pairT2w"))
    ]
    made += result_files(out, "fold", contrast="T1w", method="h2lo-mlp", fold=3)
    made += result_files(out, "model", contrast="T1w", method="inr")
    for path in (path.relative_to(out).as_posix() for path in made):
        assert any(fnmatch(path, t) and path.count("/") == t.count("/") for t in templates), path


def test_the_help_is_short_and_that_of_a_level_has_all_that_it_takes():
    code, short, _ = call("--help")
    assert (code, "--nprocs" in short, "--folds" in short) == (0, True, False)
    assert call("participant", "--help") == call("/bids", "/out", "participant", "-h")
    for level in LEVELS:
        named = set(re.findall(r"--[a-z-]+", call(level, "--help")[1]))
        taken = {o.flag for o in OPTIONS.values() if any(m.split()[0] == level for m in o.modes)}
        assert taken <= named


def test_listings_need_no_dataset_and_take_no_option(tmp_path, monkeypatch):
    code, text, _ = call("methods")
    assert code == 0
    assert "pix2pix: Pix2Pix, 4,165,537 parameters, 4,864,370 in training" in text
    assert "https://doi.org/10.1016/j.mri.2021.12.007" in text
    names = [line.split(":")[0] for line in text.splitlines() if line and line[0] != " "]
    assert sorted(names) == sorted([*METHODS, ENHANCER])
    code, told, _ = call("outputs")
    printed, spec = json.loads(told), bids_app_spec.load("io_spec.json")
    assert code == 0
    assert all(printed[key] == spec[key] for key in ("outputs", "figures", "results"))
    assert call("methods", "--json")[0] == 64
    monkeypatch.chdir(tmp_path)  # a dataset may have such a name
    assert "methods: no such folder" in call("methods", "out", "participant")[2]
