"""The command line and the configuration file."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from heads import call

from h2lo_bids.cli import phantom, slurm
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import MissingInputError, UsageError

BASE = ["/bids", "/out", "participant"]
EVERYTHING = [
    *BASE,
    *["--participant-label", "sub-01", "02", "--session-label", "ses-HF"],
    *["--filter", "acq=MPRAGE", "rec="],
    *["--bids-filter-file", "/f.json", "--all-scans", "--bids-database-dir", "/db"],
    *["--skip-bids-validation", "-d", "fmriprep=/d", "--model", "T1w=/m1", "T2w=/m2"],
    *["--skull-strip", "synthstrip", "--synthstrip-weights", "/s.pt", "--precision", "bf16"],
    *["--random-seed", "7", "--sloppy", "--method", "identity"],
    *["--output-spaces", "model", "MNI152NLin2009cAsym:res-1", "--template-file", "/t.nii.gz"],
    *["--fetch-templates", "--noise", "calibrated", "--realisations", "3", "--uncertainty"],
    *["--lf-grid", "1.6x1.6x5", "2x2x2", "--lf-grid", "1.60x1.6x5.0", "--slice-profile", "gauss"],
    *["--slice-thickness", "4.5", "--noise-scale", "1.5", "--labels", "lesion=/l"],
    *["--condition", "a", "lf-grid=2x2x2", "b", "lf-grid=2x2x2"],
    *["--nprocs", "8", "--omp-nthreads", "2", "--mem", "8000M"],
    *["--device", "cuda:1", "-w", "/work", "--clean-workdir"],
    *["--dry-run", "--reports-only", "--stop-on-first-crash", "-vv"],
]

TRAINING = [
    *["/bids", "/out", "train", "--contrast", "T1w", "--hf", "ses-GE", "--lf", "ses-HFC acq-iso"],
    *["--lf-dir", "/lf", "--lf-fusion", "mrr", "--resolution", "2", "--keep-flagged-pairs"],
    *["--method", "h2lo", "h2lo-mlp", "--protocol", "paper", "--steps", "9", "--sampling", "patch"],
    *["--crop", "24", "--batch", "2", "--lambda-grad", "0.5", "--max-time", "3"],
    *["--learning-rate", "3e-4", "--validate-every", "5", "--devices", "2", "--folds", "3"],
    *["--val-count", "1", "--test-count", "4", "--fold", "0", "2", "--n-folds-parallel", "2"],
    *["--no-final", "--collect", "--init", "T1w=/m1", "T2w=embedded"],
]
EVALUATION = [
    *["/bids", "/out", "evaluate", "--realism-reference"],
    *["/a_T1w.nii.gz", "/MS017_T2.nii.gz", "T1w=/x_T2w.nii"],
]


def test_paths_lead_through_no_other_folder_unless_by_a_link(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "here/link").symlink_to(tmp_path / "far/away")
    monkeypatch.chdir(tmp_path / "here")
    asked = read_settings(["../bids/", "link/../out", "participant", "-w", "../here/link"])
    assert asked.bids_dir == tmp_path / "bids"
    assert asked.work == tmp_path / "here/link"
    assert asked.out_dir.resolve() == tmp_path / "far/out"
    words = ["thin", "model=../far", "thick", "lf-grid=2x2x5"]
    asked = read_settings(["..", "out", "participant", "--condition", *words])
    assert asked.condition == ("thin", f"model={tmp_path}/far", *words[2:])


@pytest.mark.parametrize(
    ("line", "level", "values"),
    [
        (
            EVERYTHING,
            "participant",
            {
                "participant_label": ("01", "02"),
                "session_label": ("HF",),
                "filter": ("acq=MPRAGE", "rec="),
                "derivatives": (("fmriprep", Path("/d")),),
                "model": (("T1w", Path("/m1")), ("T2w", Path("/m2"))),
                "output_spaces": ("model", "MNI152NLin2009cAsym:res-1"),
                "lf_grid": ((1.6, 1.6, 5.0), (2.0, 2.0, 2.0)),  # each once
                "condition": ("a", "lf-grid=2x2x2", "b", "lf-grid=2x2x2"),  # a value may be in both
                "mem": 8.0,
                "device": "cuda:1",
                "work_dir": Path("/work"),
                "random_seed": 7,
                "verbose": 2,
            },
        ),
        (
            TRAINING,
            "group",  # train is another word for it
            {
                "lf": ("ses-HFC", "acq-iso"),
                "method": ("h2lo", "h2lo-mlp"),
                "lambda_grad": 0.5,
                "learning_rate": 3e-4,
                "folds": "3",
                "fold": (0, 2),
                "init": (("T1w", Path("/m1")), ("T2w", "embedded")),
            },
        ),
    ],
)
def test_every_option_reaches_its_field(line, level, values):
    s, defaults = read_settings(line), read_settings([*BASE[:2], level])
    assert (s.bids_dir, s.out_dir, s.level) == (Path("/bids"), Path("/out"), level)
    assert {name: getattr(s, name) for name in values} == values
    given = {word[2:].replace("-", "_") for word in line if word.startswith("--")}
    assert [name for name in given if getattr(s, name) == getattr(defaults, name)] == []


REFUSED = [
    # Options of another level, with the levels that take them.
    ("participant --folds 3", 64, "an option of group"),
    ("participant --hf ses-GE", 64, "of participant --pairs and group and evaluate"),
    (
        "participant --pairs --lf-grid 1x1x1", 64,
        "of participant and trial; participant --pairs does not",
    ),
    (
        "group --model x", 64,
        "of participant and evaluate and group --task enhance and trial; group does not",
    ),
    ("train --uncertainty", 64, "of participant; group does not"),
    ("evaluate --steps 3", 64, "of group and benchmark; evaluate does not"),
    ("group --realism-reference x_T1w.nii", 64, "an option of evaluate; group does not"),
    ("evaluate --pairs", 64, "of participant; evaluate does not"),
    ("trial --task enhance", 64, "of participant and group and benchmark and evaluate; trial"),
    ("--folds 3 participant", 64, "an option of group and benchmark; participant does not"),
    # Values of the wrong form.
    ("participant --mem lots", 64, "'lots' is not an amount of memory"),
    ("participant --mem 0", 64, "'0' is not an amount of memory"),
    ("participant --mem 8000", 64, "'8000' is not an amount of memory such as 8 or 8000M"),
    ("participant --lf-grid 1.6x5", 64, "'1.6x5' is not XxYxZ in mm"),
    ("participant --lf-grid 0x1x1", 64, "voxel sides go from 0.1 to 20 mm"),
    ("participant --lf-grid 2x2x2 --slice-profile round", 64, "'round'"),
    ("participant --lf-grid 2x2x2 --slice-thickness 0", 64, "not a number from 0.1 to 20"),
    ("participant --noise calibrated --noise-scale -1", 64, "--noise-scale"),
    ("participant --noise loud", 64, "'loud'"),
    ("participant --device gpu", 64, "'gpu' is not auto, cpu, cuda or cuda:NUMBER"),
    ("participant --filter MPRAGE", 64, "'MPRAGE' is not like ses-GE"),
    ("participant --filter 'acq-' run=1", 64, "'acq-' is not like ses-GE"),
    *(
        (f"participant --{option}-label {shlex.quote(label)}", 64, f"{label!r} is not a label")
        for option, label in (
            ("participant", "a_b"), ("participant", "../x"), ("participant", "a b"),
            ("participant", ""), ("participant", "sub-"), ("session", "*"),
        )
    ),
    *(
        (f"participant --output-spaces {shlex.quote(space)}", 64, f"{space!r} is not a space")
        for space in (
            "", "A:res", "A:res-", "A:res-native", "A:den-2", "tpl-A", "A+B", "a b",
            "A:res-1:res-2", "A:cohort-1:res-1:cohort-2",
        )
    ),
    ("participant --nprocs -1", 64, "--nprocs"),
    ("participant -d no-path", 64, "'no-path' is not NAME=PATH"),
    ("participant --model ''", 64, "a path cannot be empty"),
    ("participant --pairs --hf GE", 64, "'GE' is not like ses-GE"),
    ("participant --pairs --resolution 0", 64, "not a number from 0.5 to 8"),
    # Words that are unknown, and what was probably meant.
    ("participant --sloopy", 64, "; did you mean --sloppy?"),
    ("participant --nproc=4", 64, "; did you mean --nprocs?"),
    ("participant --participant-lable 01", 64, "; did you mean --participant-label?"),
    ("group --method H2LO", 64, "; did you mean h2lo?"),
    ("group --contrast T1", 64, "; did you mean T1w?"),
    ("participant --skull-strip deepbeet", 64, "; did you mean deepbet?"),
    ("particpant", 17, "; did you mean participant?"),
    ("Group", 17, "; did you mean group?"),
    ("participant --xyzzy", 64, "--xyzzy; see h2lo --help"),
    ("xyzzy", 17, "'xyzzy' is unknown; use participant, "),
    ("participant group --nprocs 2", 64, "run one analysis level per call"),
    ("participant --sloppy ''", 64, "unrecognized arguments: an empty word, "),
    # Options of earlier versions.
    ("group --trunk mlp", 64, "no longer an option; use --method h2lo-mlp"),
    ("group --epochs=3", 64, "no longer an option; use --steps"),
    ("participant --max-memory 8", 64, "no longer an option; use --mem"),
    ("benchmark --task enhance --cohort c", 64, "no longer an option; use --pretrain-derivatives"),
    ("participant --json", 64, "no longer an option; use h2lo methods, which prints text"),
    ("participant --use-plugin p.yml", 64, "use --nprocs here, or h2lo-slurm"),
    # What makes no sense together.
    ("group --lambda-grad 0", 64, "use that"),
    ("group --folds 0 --fold 1", 64, "leave one of them out"),
    ("group --folds 0 --no-final", 64, "nothing to fit"),
    ("group --fold 0 --collect", 64, "leave one of them out"),
    ("group --folds ds006557 --test-count 3", 64, "has no effect"),
    ("group --folds ds006557 --val-count 3", 64, "has no effect"),
    ("group --folds 0 --test-count 3", 64, "has no effect"),
    ("group --protocol paper --batch 2", 64, "one volume per step"),
    ("group --protocol paper --devices 2", 64, "leave --batch and --devices out"),
    ("group --method pix2pix --crop 8", 64, "--crop means nothing to pix2pix"),
    ("group --method inr arnold --lambda-grad 1", 64, "nothing to inr and arnold"),
    ("group --method diffi2i --learning-rate 1e-3", 64, "whose own value is fixed"),
    ("group --method identity --devices 2", 64, "can be fitted by one process only"),
    ("group --init embedded none", 64, "--init is given twice without a contrast"),
    ("group --method inr --init embedded", 64, "--init means nothing to inr"),
    ("group -d lf=bids", 64, "other than raw and lf"),
    ("evaluate --precision fp16", 64, "at the group level"),
    ("participant --realisations 2", 64, "add --noise calibrated"),
    ("participant --task enhance --sloppy", 64, "participant --task enhance does not take it"),
    # Paths.
    ("group --init nowhere", 66, "no such file"),
    ("group --init embeded", 66, "no such file; did you mean embedded?"),
    ("group --init trained", 64, "its folder models/ holds some: "),
    ("group --folds none.tsv", 66, "no such file"),
    ("group --lf-dir nowhere", 66, "is not a folder"),
    ("group --lf-dir bids", 64, "is bids_dir itself"),
    ("evaluate --realism-reference scan.nii", 64, "write T1w=IMAGE or T2w=IMAGE"),
    ("evaluate --realism-reference T1w=scan.nii", 66, "scan.nii: no such file"),
    (f"participant --participant-label {','.join('01' * 99)}", 64, "is not a label"),
    (f"participant --model {'x' * 300}", 66, "File name too long"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "work"),
    [(phantom, "h2lo_bids.phantom.dataset.make_dataset"), (slurm, "h2lo_bids.cli.slurm.stages_of")],
)
def test_ctrl_c_is_one_line_and_code_130(tmp_path, monkeypatch, capsys, program, work):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(work, interrupt)
    (tmp_path / "bids").mkdir()
    words = [str(tmp_path / "bids")]
    words += [str(tmp_path / "out"), "participant"] if program is slurm else []
    assert program.main(words) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert ": error: interrupted; " in line


@pytest.mark.parametrize(("line", "code", "text"), REFUSED)
def test_a_wrong_command_line_is_one_line_and_its_code(tmp_path, monkeypatch, line, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bids").mkdir()
    (tmp_path / "trained/models/h2lo_T1w").mkdir(parents=True)
    (tmp_path / "trained/models/h2lo_T1w/metadata.json").touch()
    found, _, err = call("bids", "out", *shlex.split(line))
    (line,) = err.splitlines()
    assert (found, line.startswith("h2lo: error: "), text in line) == (code, True, True), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "taken", "right"),
    [
        ("--participant-label 01 bids out participant", "bids, out and participant",
         "bids out participant --participant-label 01"),
        ("bids out --participant-label 01 02 participant --sloppy", "participant",
         "bids out participant --participant-label 01 02 --sloppy"),
        ("--sloppy --participant-label /a/bids --nprocs 2", "", ""),
        ("--filter acq=MPRAGE /a/bids /a/out group", "/a/bids, /a/out and group",
         "/a/bids /a/out group --filter acq=MPRAGE"),
        ("--output-spaces model /a /b participant", "/a, /b and participant",
         "/a /b participant --output-spaces model"),
        ("--nprocs 2 -d x=/d /a /b participant", "/a, /b and participant",
         "/a /b participant --nprocs 2 -d x=/d"),
        ("/a --lf-grid 2x2x2 /b participant", "/b and participant",
         "/a /b participant --lf-grid 2x2x2"),
        ("bids --hf ses-A out train --nprocs=2", "out and train",
         "bids out train --hf ses-A --nprocs=2"),
        ("bids out --participant-label 01 02", "", ""),
    ],
)  # fmt: skip
def test_an_option_that_took_the_positional_words_is_named(refused, words, taken, right) -> None:
    told = refused(UsageError, read_settings, words.split())
    assert ("took" in told) == bool(taken)
    if taken:
        assert f"took {taken} as well" in told
        assert told.endswith(f": h2lo {right}")
        read_settings(right.split())  # and that is right


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("--participant_label=01 --work_dir=/a_b", "--participant-label 01 --work-dir /a_b"),
        ("--n_cpus 3 --mem-mb 8000 --notrack", "--nprocs 3 --mem 8"),
        ("--notrack --nthreads=2 --mem-mb=500", "--nprocs 2 --mem 0.5"),
        ("--mem-gb 6 --n-cpus 1", "--nprocs 1 --mem 6"),
        ("--model /a --model T1w=/b /a", "--model /a T1w=/b"),  # each once
    ],
)
def test_words_that_other_bids_apps_take_mean_the_same(words, plain):
    assert read_settings([*BASE, *words.split()]) == read_settings([*BASE, *plain.split()])


def test_a_unit_is_given_to_the_value_of_mem_mb_alone():
    s = read_settings(["--mem-mb=500", "/bids2", "/out", "participant"])
    assert (s.bids_dir, s.mem) == (Path("/bids2"), 0.5)


def test_a_file_takes_what_the_command_line_takes(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("n-cpus = 3\nmem_mb = 8000\nnotrack = true\nfilter = []\nsloppy = false\n")
    s = read_settings([*BASE, "--config-file", str(config)])
    assert s == read_settings([*BASE, "--nprocs", "3", "--mem", "8"])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("participant_id\tage\nsub-01\t30\nsub-02\tn/a\n", ("01", "02")),
        ("sub_id\nsub-01\n", ("01",)),
        ("01\n\n# later\nsub-02\n", ("01", "02")),
    ],
)
def test_participants_are_read_from_a_file(tmp_path, text, labels):
    file = tmp_path / "people.tsv"
    file.write_text(text)
    s = read_settings([*BASE, "--participant-label", f"@{file}", "07"])
    assert s.participant_label == (*labels, "07")
    with pytest.raises(UsageError, match=f"write @{file}"):
        read_settings([*BASE, "--participant-label", str(file)])
    file.write_text("participant_id\n")
    with pytest.raises(UsageError, match="names no participant"):
        read_settings([*BASE, "--participant-label", f"@{file}"])
    with pytest.raises(MissingInputError, match="nowhere"):
        read_settings([*BASE, "--participant-label", f"@{tmp_path}/nowhere"])


@pytest.mark.parametrize("line", [EVERYTHING, TRAINING, EVALUATION])
def test_the_recorded_configuration_gives_the_same_settings_again(tmp_path, line):
    s = read_settings(line)
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({**s.to_options(), "run": {"version": "1"}}))
    assert read_settings([*line[:3], "--config-file", str(config)]) == s


def test_the_command_line_wins_over_the_file(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('participant_label = ["01"]\nnprocs = 4\nsloppy = true\nverbose = 1\n')
    s = read_settings([*BASE, "--config-file", str(config), "--participant-label", "05"])
    assert (s.participant_label, s.nprocs, s.sloppy, s.verbose) == (("05",), 4, True, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nproc = 4", "did you mean --nprocs"),
        ("slopy = false", "did you mean --sloppy"),
        ("filtre = []", "did you mean --filter"),
        ("help = true", "help is not allowed in a configuration"),
        ("version = false", "version is not allowed"),
        ("nprocs = true", "expected one argument"),
        ("nprocs = false", "expected one argument"),
        ("nprocs = 0", "whole number of 1 to 1000000000"),
        ("sloppy = 'yes'", "unrecognized arguments: yes"),
        ("skull-strip = 'magic'", "magic"),
        ("folds = 3", "--folds is an option of group and benchmark"),
        ("nprocs = ", "not TOML"),
        ("nprocs = 2\nn_cpus = 8", "nprocs and n_cpus are the same option; remove one of them"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("verbose = 99999999999", "unrecognized arguments: 99999999999"),
        ("mem = [1, 2]", "unrecognized arguments: 2"),
        ("trunk = 'mlp'", "use --method h2lo-mlp"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_file(tmp_path, refused, text, expected):
    config = tmp_path / "c.toml"
    config.write_text(text)
    told = refused(UsageError, read_settings, [*BASE, "--config-file", str(config)])
    assert expected in told
    assert str(config) in told


def test_the_parser_imports_nothing_heavy():
    code = (
        "import sys; from h2lo_bids.cli.run import main; main(['methods']);"
        "heavy = {'torch','nipype','ants','bids','numpy','nibabel','pandas','scipy','matplotlib'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
