"""The command line and the configuration file."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from h2lo_bids.cli.configure import read_settings
from h2lo_bids.cli.parser import build_parser
from h2lo_bids.cli.run import main
from h2lo_bids.cli.settings import Settings, to_toml
from h2lo_bids.errors import UnknownLevelError, UsageError

BASE = ["/bids", "/out", "participant"]
EVERYTHING = [
    *BASE,
    *["--participant-label", "sub-01", "02", "--session-label", "ses-HF"],
    *["--filter", "acq=MPRAGE", "rec="],
    *["--bids-filter-file", "/f.json", "--all-scans", "--bids-database-dir", "/db"],
    *["--skip-bids-validation", "-d", "fmriprep=/d", "--model", "T1w=/m1", "T2w=/m2"],
    *["--skull-strip", "synthstrip", "--synthstrip-weights", "/s.pt", "--precision", "bf16"],
    *["--random-seed", "7", "--sloppy"],
    *["--output-spaces", "model", "MNI152NLin2009cAsym:res-1", "--template-file", "/t.nii.gz"],
    "--fetch-templates",
    *["--lf-grid", "1.6x1.6x5", "--nprocs", "8", "--omp-nthreads", "2", "--mem", "8000M"],
    *["--device", "cuda:1", "-w", "/work", "--clean-workdir", "--use-plugin", "/p.yml"],
    *["--dry-run", "--reports-only", "--stop-on-first-crash", "--write-graph", "-vv"],
]


def test_every_option_reaches_its_field():
    s = read_settings(EVERYTHING)
    assert s == Settings(
        bids_dir=Path("/bids"),
        out_dir=Path("/out"),
        level="participant",
        participant_label=("01", "02"),
        session_label=("HF",),
        bids_filter_file=Path("/f.json"),
        filter=("acq=MPRAGE", "rec="),
        all_scans=True,
        bids_database_dir=Path("/db"),
        skip_bids_validation=True,
        derivatives=(("fmriprep", Path("/d")),),
        model=(("T1w", Path("/m1")), ("T2w", Path("/m2"))),
        skull_strip="synthstrip",
        synthstrip_weights=Path("/s.pt"),
        precision="bf16",
        random_seed=7,
        sloppy=True,
        output_spaces=("model", "MNI152NLin2009cAsym:res-1"),
        template_file=Path("/t.nii.gz"),
        fetch_templates=True,
        lf_grid=(1.6, 1.6, 5.0),
        nprocs=8,
        omp_nthreads=2,
        mem=8.0,
        device="cuda:1",
        work_dir=Path("/work"),
        clean_workdir=True,
        use_plugin=Path("/p.yml"),
        dry_run=True,
        reports_only=True,
        stop_on_first_crash=True,
        write_graph=True,
        verbose=2,
    )
    defaults = read_settings(BASE)
    same = [name for name in vars(s) if getattr(s, name) == getattr(defaults, name)]
    assert same == ["bids_dir", "out_dir", "level"]  # the line above tries every option


def test_the_recorded_configuration_gives_the_same_settings_again(tmp_path):
    s = read_settings(EVERYTHING)
    config = tmp_path / "config.toml"
    config.write_text(to_toml({**s.to_options(), "run": {"version": "1"}}))
    assert read_settings([*BASE, "--config-file", str(config)]) == s


def test_the_command_line_wins_over_the_file(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('participant_label = ["01"]\nnprocs = 4\nsloppy = true\nverbose = 1\n')
    s = read_settings([*BASE, "--config-file", str(config), "--participant-label", "05"])
    assert (s.participant_label, s.nprocs, s.sloppy, s.verbose) == (("05",), 4, True, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nproc = 4", "did you mean 'nprocs'"),
        ("config-file = 'x'", "unknown option 'config-file'"),
        ("nprocs = true", "not a value"),
        ("nprocs = 0", "whole number of 1 or more"),
        ("sloppy = 'yes'", "true or false"),
        ("skull-strip = 'magic'", "magic"),
        ("nprocs = ", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_file(tmp_path, text, expected):
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_settings([*BASE, "--config-file", str(config)])
    assert expected in str(caught.value)
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--mem", "lots"],
        ["--mem", "0"],
        ["--lf-grid", "1.6x5"],
        ["--lf-grid", "0x1x1"],
        ["--device", "gpu"],
        ["--filter", "MPRAGE"],
        ["--participant-label", "a_b"],
        ["--output-spaces", "MNI:res"],
        ["--nprocs", "-1"],
        ["-d", "no-path"],
        ["--no-such-option"],
        ["--model", ""],
    ],
)
def test_a_wrong_word_is_a_usage_error_of_one_line(words, capsys):
    assert main([*BASE, *words]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("h2lo: error: ")


@pytest.mark.parametrize("level", ["group", "train", "evaluate"])
def test_levels_to_come_say_so(level, capsys):
    assert main(["/bids", "/out", level]) == 17
    assert "not in this version yet" in capsys.readouterr().err


def test_an_unknown_level_has_its_own_code():
    with pytest.raises(UnknownLevelError):
        read_settings(["/bids", "/out", "run"])


def test_underscores_pass_for_hyphens_but_not_in_values():
    s = read_settings([*BASE, "--participant_label=01", "--work_dir=/a_b"])
    assert s.participant_label == ("01",)
    assert s.work_dir == Path("/a_b")


def test_memory_is_read_with_its_unit():
    for text, gigabytes in {"8": 8, "8G": 8, "8GB": 8, "500M": 0.5, "0.5t": 500}.items():
        assert read_settings([*BASE, "--mem", text]).mem == pytest.approx(gigabytes)


def test_the_parser_imports_nothing_heavy():
    code = (
        "import sys; import h2lo_bids.cli.run; import h2lo_bids.cli.parser as p;"
        "p.build_parser().format_help();"
        "heavy = {'torch','nipype','ants','bids','numpy','nibabel','pandas','scipy','matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_version_name_every_exit_code_and_the_program(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("h2lo ")
    text = build_parser().format_help()
    for code in ("16", "17", "18", "64", "65", "66", "73", "74", "75", "130", "143"):
        assert f" {code} " in text


def test_toml_survives_awkward_characters():
    table = {"a": 'quote " back \\ tab \t', "b": ["ü", "x=1"], "c": True, "d": 1.5}
    assert tomllib.loads(to_toml(table)) == table
