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
from h2lo_bids.cli.parser import EXIT_CODES, build_parser, read_settings
from h2lo_bids.cli.run import main
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import OPTIONS
from h2lo_bids.vocabulary import ENHANCER, LEVELS, METHODS

DESCRIPTOR = bids_app_spec.load("boutiques.json")
INPUTS = {item["id"]: item for item in DESCRIPTOR["inputs"]}
ACTIONS = {action.dest: action for action in build_parser()._actions}
WORDS = ("1", "label1", "acq=MPRAGE", "T1w=/m/one.pth", "own=cp {input} {output}", "2x2x2", "cpu")


def test_the_tool_of_boutiques_finds_the_descriptor_valid(tmp_path):
    bosh = pytest.importorskip("boutiques.bosh").bosh
    path = tmp_path / "boutiques.json"
    path.write_text(json.dumps(DESCRIPTOR))
    bosh(["validate", str(path)])
    path.write_text(json.dumps({**DESCRIPTOR, "inputs": DESCRIPTOR["inputs"][:1] * 2}))
    with pytest.raises(Exception, match=r"(?i)error"):
        bosh(["validate", str(path)])


def test_every_option_of_every_level_is_an_input():
    assert set(INPUTS) == {*ACTIONS, "analysis_level"} - {"help", "version", "level"}
    for name, item in INPUTS.items():
        action = ACTIONS["level" if name == "analysis_level" else name]
        assert item.get("list", False) is (action.nargs == "+")
        if action.choices:
            assert item["value-choices"] == list(action.choices)
        if action.option_strings and name != "verbose":
            assert item["command-line-flag"] in action.option_strings
    grouped = {member for group in DESCRIPTOR["groups"] for member in group["members"]}
    assert grouped == set(INPUTS)
    assert {item["code"] for item in DESCRIPTOR["error-codes"]} == set(EXIT_CODES) - {0}


@pytest.mark.slow
def test_its_command_line_is_read_as_it_was_meant(tmp_path):
    bosh = pytest.importorskip("boutiques.bosh").bosh
    path = tmp_path / "boutiques.json"
    path.write_text(json.dumps(DESCRIPTOR))
    values = {"bids_dir": "/data/bids", "out_dir": "/data/my out", "analysis_level": "participant"}
    values |= {"participant_label": ["01", "02"], "lf_grid": ["1.6x1.6x5"], "random_seed": 7}
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        bosh(["exec", "simulate", str(path), "-i", json.dumps(values)])
    s = read_settings(shlex.split(told.getvalue().splitlines()[-1])[1:])
    assert (s.out_dir, s.participant_label) == (Path("/data/my out"), ("01", "02"))
    assert (s.lf_grid, s.random_seed) == (((1.6, 1.6, 5.0),), 7)


def example(item: dict) -> list[str]:
    """Return the words of an input with one value that its reader takes."""
    if item["type"] == "Flag":
        return [item["command-line-flag"]]
    action, values = ACTIONS[item["id"]], WORDS
    if item["type"] == "Number":
        values = (str(item["minimum"]),)
    for value in item.get("value-choices", values):
        with contextlib.suppress(argparse.ArgumentTypeError):
            (action.type or str)(value)
            return [item["command-line-flag"], value]
    raise AssertionError(f"no example of {item['id']}")


def is_read(words: list[str]) -> bool:
    try:
        read_settings(words)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_level_disables_is_what_the_parser_refuses(level):
    disabled = INPUTS["analysis_level"]["value-disables"][level]
    for name, item in INPUTS.items():
        if "command-line-flag" in item and name != "config_file":
            words = ["/b", "/o", level, *example(item)]
            modes = ([], ["--pairs"], ["--task", "enhance"])
            taken = any(is_read([*words, *mode]) for mode in modes)
            assert taken is (name not in disabled), name


def test_what_needs_another_input_is_refused_alone(tmp_path):
    (tmp_path / "bids").mkdir()
    (tmp_path / "file").touch()
    needy = [name for name, item in INPUTS.items() if "requires-inputs" in item]
    assert needy == ["template_file", "slice_profile", "slice_thickness"]
    for name in needy:
        value = tmp_path / "file" if name == "template_file" else example(INPUTS[name])[1]
        words = [tmp_path / "bids", tmp_path / "out", "participant", f"--{name}", value]
        code, _, err = call(*words)
        assert (code, len(err.splitlines())) == (64, 1), name


def test_outputs_are_found_by_their_patterns():
    templates = [
        o["path-template"].removeprefix("[OUTPUT_DIR]/") for o in DESCRIPTOR["output-files"]
    ]
    out = Path("/out")
    made = [
        derivative_path(out, {"sub": "01", **ses}, suffix=suffix, desc=desc, res="model")
        for ses in ({}, {"ses": "HF"})
        for suffix, desc in (("T1w", "lowfield"), ("T2w", "lowfieldstd"), ("mask", "pairT2w"))
    ]
    made += result_files(out, "fold", contrast="T1w", method="h2lo-mlp", fold=3)
    made += result_files(out, "model", contrast="T1w", method="inr")
    made += result_files(out, "dataset")
    for path in made:
        name = path.relative_to(out).as_posix()
        hits = [t for t in templates if fnmatch(name, t) and name.count("/") == t.count("/")]
        assert hits, name


def printed(capsys, *words) -> str:
    """Return what the program prints instead of a run."""
    with pytest.raises(SystemExit) as caught:
        main([*words])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_help_is_short_and_that_of_a_level_is_whole(capsys):
    assert printed(capsys, "--version").startswith("h2lo ")
    short = printed(capsys, "--help")
    assert all(level in short for level in LEVELS)
    assert "--nprocs" in short
    assert "--folds" not in short
    assert printed(capsys, "participant", "--help") == printed(
        capsys, "/bids", "/out", "participant", "-h"
    )
    for level in LEVELS:
        text = printed(capsys, level, "--help")
        assert len(short) < len(text)
        for code in ("16", "17", "18", "64", "65", "66", "73", "74", "75", "130", "143"):
            assert f" {code} " in text
            assert f" {code} " in short
        for option in OPTIONS.values():
            taken = any(mode.split()[0] == level for mode in option.modes)
            assert bool(re.search(rf"^  (-\w\b.*)?{option.flag}\b(?!-)", text, re.M)) is taken


def test_every_method_is_listed_with_its_size_and_paper():
    code, text, _ = call("methods")
    assert code == 0
    assert "pix2pix: Pix2Pix, 4,165,537 parameters, 4,864,370 in training" in text
    assert "https://doi.org/10.1016/j.mri.2021.12.007" in text
    names = [line.split(":")[0] for line in text.splitlines() if line and line[0] != " "]
    assert sorted(names) == sorted([*METHODS, ENHANCER])


def test_a_listing_takes_no_option_and_a_dataset_of_that_name_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, code, text in (
        (["methods", "--json"], 64, "--json is no longer an option; use h2lo methods"),
        (["methods", "out", "participant"], 66, "methods: no such folder"),
    ):
        found, told, err = call(*words)
        (line,) = err.splitlines()
        assert (found, told, text in line) == (code, "", True)


def test_patterns_of_outputs_are_printed_without_a_dataset():
    code, told, _ = call("outputs")
    printed, spec = json.loads(told), bids_app_spec.load("io_spec.json")
    assert code == 0
    assert all(printed[key] == spec[key] for key in ("outputs", "figures", "results"))
