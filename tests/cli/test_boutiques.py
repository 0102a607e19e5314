"""The Boutiques descriptor: valid, complete, and of one mind with the parser."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bids_app_spec
from h2lo_bids.bids.derivatives import derivative_path, result_files
from h2lo_bids.cli.config import canonical, read_settings
from h2lo_bids.cli.parser import EXIT_CODES, build_parser
from h2lo_bids.cli.run import main
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import OPTIONS
from h2lo_bids.settings.options import MODES as EVERY
from h2lo_bids.vocabulary import LEVELS

DESCRIPTOR = bids_app_spec.load("boutiques.json")
INPUTS = {item["id"]: item for item in DESCRIPTOR["inputs"]}
ACTIONS = {
    action.dest: action for action in build_parser()._actions if action.help != argparse.SUPPRESS
}
TAKEN_BY = {option.name: option.modes for option in OPTIONS.values()}
FIRST = ("bids_dir", "out_dir", "analysis_level")
WORDS = (
    *(
        "label1",
        "2",
        "acq=MPRAGE",
        "rec=",
        "acq=a b",
        "T1w=/m/one.pth",
        "/m/it's",
        "x=/d/two words",
    ),
    *("run {input} {output}", "own=cp {input} {output}", "MNI152NLin2009cAsym:res-1", "model"),
    *("1.6x1.6x5", "8000M", "cuda:1", "ses-GE acq-iso", "splits.tsv"),
)
"""What is tried as the value of an option: those that its reader accepts are drawn."""


def accepted(action: argparse.Action, words: tuple[str, ...]) -> list[str]:
    """Return the words that an option's reader takes."""
    found = []
    for word in words:
        try:
            (action.type or str)(word)
        except argparse.ArgumentTypeError:
            continue
        found.append(word)
    return found


def values(item: dict) -> st.SearchStrategy:
    """Draw what the descriptor allows as the value of an input."""
    if item["type"] == "Flag":
        return st.just(True)
    if item["type"] == "Number":
        least, most = item.get("minimum"), item.get("maximum")
        number = st.floats(least, most)
        whole = item.get("integer")
        one = st.integers(least, 10**6 if most is None else most) if whole else number
    elif "value-choices" in item:
        one = st.sampled_from(item["value-choices"])
    else:
        own = accepted(ACTIONS[item["id"]], WORDS)
        assert own, f"no word of this test is a {item['id']}: add one"
        one = st.sampled_from(own)
    return st.lists(one, min_size=1, max_size=3) if item.get("list") else one


def refused(level: str, chosen: set[str]) -> set[str]:
    """Return what the descriptor lets nobody give beside a level and other inputs."""
    out = set(INPUTS["analysis_level"]["value-disables"][level])
    for name in chosen:
        out |= set(INPUTS[name].get("disables-inputs", ()))
    for group in DESCRIPTOR["groups"]:
        if group.get("mutually-exclusive"):
            taken = [name for name in group["members"] if name in chosen]
            out |= set(group["members"]) - set(taken[:1]) if taken else set()
    return out


MODES = {level: [mode for mode in EVERY if mode.split()[0] == level] for level in LEVELS}
"""Each level as it is, and with what changes the options that it takes."""


def opening(mode: str) -> dict:
    """Return the inputs that choose a mode of its level."""
    if mode.endswith("--pairs"):
        return {"pairs": True}
    return {"task": mode.rpartition(" ")[2]} if "--task" in mode else {}


@st.composite
def invocations(draw) -> dict:
    """Draw an invocation that keeps all that the descriptor asks for."""
    level = draw(st.sampled_from(INPUTS["analysis_level"]["value-choices"]))
    invocation = {"bids_dir": "/data/bids", "out_dir": "/data/my out", "analysis_level": level}
    mode = draw(st.sampled_from(MODES[canonical(level)]))
    # What --pairs and --task open or close at a level cannot be said in a descriptor.
    closed = {option for option, takers in TAKEN_BY.items() if mode not in takers}
    invocation |= opening(mode)
    names = draw(st.lists(st.sampled_from([n for n in INPUTS if n not in FIRST]), max_size=8))
    for name in names:
        if name in (*closed, *refused(level, set(invocation)), "config_file", "pairs", "task"):
            continue
        needed = INPUTS[name].get("requires-inputs", ())
        for each in (*needed, name):
            invocation[each] = draw(values(INPUTS[each]))
    return invocation


@pytest.fixture(scope="module")
def bosh():
    """Return the tool of Boutiques, which the extra `test` brings."""
    return pytest.importorskip("boutiques.bosh").bosh


def test_the_program_prints_the_descriptor_that_is_shipped(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--boutiques"])
    assert ended.value.code == 0
    shipped = Path(bids_app_spec.__file__).with_name("boutiques.json").read_text()
    assert capsys.readouterr().out == shipped  # which test_usage.py compares with the parser


def test_the_tool_of_boutiques_finds_the_descriptor_valid(bosh, tmp_path):
    path = tmp_path / "boutiques.json"
    path.write_text(json.dumps(DESCRIPTOR))
    bosh(["validate", str(path)])
    broken = json.loads(json.dumps(DESCRIPTOR))
    broken["inputs"][3].pop("value-key")
    path.write_text(json.dumps({**broken, "inputs": [*broken["inputs"], broken["inputs"][0]]}))
    with pytest.raises(Exception, match=r"(?i)error"):
        bosh(["validate", str(path)])


def test_every_option_of_every_level_is_an_input():
    silent = {"help", "version", "boutiques"}
    assert set(INPUTS) == {d if d != "level" else "analysis_level" for d in ACTIONS} - silent
    for name, item in INPUTS.items():
        action = ACTIONS["level" if name == "analysis_level" else name]
        if action.choices:
            assert item["value-choices"] == list(action.choices)
        assert item.get("list", False) is (action.nargs == "+")
        flag = item.get("command-line-flag")
        assert (
            flag in action.option_strings
            if flag
            else not action.option_strings or action.dest == "verbose"
        )
    grouped = {member for group in DESCRIPTOR["groups"] for member in group["members"]}
    assert grouped == set(INPUTS)
    codes = {item["code"] for item in DESCRIPTOR["error-codes"]}
    assert codes == set(EXIT_CODES) - {0}


@pytest.fixture
def quick(monkeypatch):
    """Return what makes Boutiques' command line, without its checks, which take seconds."""
    local = pytest.importorskip("boutiques.localExec")
    monkeypatch.setattr(local.boutiques, "invocation", lambda *words: None)
    options = {"forcePathType": True, "skipDataCollect": True, "sandbox": False}
    # Nor with outputs: the command line has none, and naming them takes seconds, too.
    text = json.dumps({k: v for k, v in DESCRIPTOR.items() if k != "output-files"})
    return lambda values: local.LocalExecutor(text, json.dumps(values), options).cmd_line[0]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(invocation=invocations())
def test_a_command_line_of_boutiques_is_read_as_it_was_meant(quick, tmp_path_factory, invocation):
    line = quick(invocation)
    file = tmp_path_factory.mktemp("config") / "config.toml"
    assert read_settings(shlex.split(line)[1:]) == read_settings(through_toml(invocation, file))


@pytest.mark.slow
def test_exec_simulate_prints_that_command_line_and_checks_invocations(bosh, quick, tmp_path):
    path = tmp_path / "boutiques.json"
    path.write_text(json.dumps(DESCRIPTOR))
    given_ = {"bids_dir": "/data/bids", "out_dir": "/data/my out", "analysis_level": "participant"}
    given_ |= {"participant_label": ["01", "02"], "lf_grid": ["1.6x1.6x5"], "random_seed": 7}
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        bosh(["exec", "simulate", str(path), "-i", json.dumps(given_)])
    line = told.getvalue().splitlines()[-1]
    assert line == quick(given_)
    assert read_settings(shlex.split(line)[1:]).random_seed == 7


def through_toml(invocation: dict, file: Path) -> list[str]:
    """Say the same with a configuration file, whose values no shell splits."""
    options = {k.replace("_", "-"): v for k, v in invocation.items() if k not in FIRST}
    if "verbose" in options:
        options["verbose"] = options["verbose"].count("v")
    file.write_text(tomli_w.dumps(options))
    return [*(str(invocation[name]) for name in FIRST), "--config-file", str(file)]


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_level_disables_is_what_the_parser_refuses(level):
    disabled = set(INPUTS["analysis_level"]["value-disables"][level])
    for name, item in INPUTS.items():
        if name in FIRST or "command-line-flag" not in item or name == "config_file":
            continue
        words = ["/b", "/o", level, item["command-line-flag"]]
        if item["type"] != "Flag":
            words.append(example(item))
        taken = {mode for mode in MODES[level] if is_read([*words, *words_of(opening(mode), name)])}
        assert bool(taken) is (name not in disabled), name
        assert name not in TAKEN_BY or taken == {*MODES[level]} & {*TAKEN_BY[name]}, name


def words_of(chosen: dict, name: str) -> list[str]:
    """Return what chooses a mode as words, unless it is the option itself."""
    return [
        word
        for key, value in chosen.items()
        if key != name
        for word in ([f"--{key}"] if value is True else [f"--{key}", value])
    ]


def is_read(words: list[str]) -> bool:
    """Tell whether the parser takes a command line."""
    try:
        read_settings(words)
    except UsageError:
        return False
    return True


def example(item: dict) -> str:
    """Return one value of an input."""
    if item["type"] == "Number":
        return str(item["minimum"])
    return (
        item["value-choices"][0]
        if "value-choices" in item
        else accepted(ACTIONS[item["id"]], WORDS)[0]
    )


def test_what_the_descriptor_calls_dependent_is_refused_alone(tmp_path, capsys):
    bids = tmp_path / "bids"
    bids.mkdir()
    (tmp_path / "file").write_text("")
    lines = {
        "participant": [
            "--dry-run --reports-only",
            *(
                f"--{name.replace('_', '-')} {tmp_path / 'file' if 'file' in name else 2}"
                for name, item in INPUTS.items()
                if "requires-inputs" in item
            ),
            *(
                f"--skull-strip {value} --{name.replace('_', '-')} {tmp_path / 'file'}"
                for value, names in INPUTS["skull_strip"]["value-disables"].items()
                for name in names
            ),
        ],
    }
    assert [len(own) for own in lines.values()] == [6]
    for level, words in lines.items():
        for line in words:
            code = main([str(bids), str(tmp_path / "out"), level, *line.split()])
            assert code == 64, line
    assert len(capsys.readouterr().err.splitlines()) == sum(map(len, lines.values()))


def test_outputs_are_found_by_their_patterns():
    templates = [
        o["path-template"].removeprefix("[OUTPUT_DIR]/") for o in DESCRIPTOR["output-files"]
    ]
    out = Path("/out")
    made = [
        derivative_path(out, {"sub": "01", **ses}, suffix=suffix, desc=desc, res="model", **kind)
        for ses in ({}, {"ses": "HF"})
        for suffix, desc, kind in (
            ("T1w", "lowfield", {}), ("T2w", "lowfieldstd", {}), ("mask", "pairT2w", {}),
        )
    ]  # fmt: skip
    made += result_files(out, "fold", contrast="T1w", method="h2lo-mlp", fold=3)
    made += result_files(out, "model", contrast="T1w", method="inr")
    made += result_files(out, "dataset")
    for path in made:
        name = path.relative_to(out).as_posix()
        hits = [t for t in templates if fnmatch(name, t) and name.count("/") == t.count("/")]
        assert hits, name
