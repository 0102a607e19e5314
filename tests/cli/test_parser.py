"""The command line and the configuration file."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from heads import call

from h2lo_bids.cli import phantom, run, slurm
from h2lo_bids.cli.checks import check_values
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import MissingInputError, UsageError
from h2lo_bids.vocabulary import METHODS

BASE = ["/bids", "/out", "participant"]


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


READ = [
    ("participant --participant-label sub-01 02", ("01", "02")),
    ("participant --filter acq=MPRAGE rec=", ("acq=MPRAGE", "rec=")),
    ("participant --derivatives fmriprep=/d", (("fmriprep", Path("/d")),)),
    ("participant --model /a --model T1w=/b /a", (("", Path("/a")), ("T1w", Path("/b")))),
    ("participant --lf-grid 1.6x1.6x5 2x2x2 --lf-grid 1.60x1.6x5.0", ((1.6, 1.6, 5.0), (2.0,) * 3)),
    # Two conditions may have a value in common.
    ("participant --condition a lf-grid=2x2x2 b lf-grid=2x2x2",
     ("a", "lf-grid=2x2x2", "b", "lf-grid=2x2x2")),
    ("participant --mem 8000M", 8.0),
    ("participant --verbose -v", 2),
    ("train --lf 'ses-HFC acq-iso'", ("ses-HFC", "acq-iso")),
    ("train --fold 0 2", (0, 2)),
    ("train --init T1w=/m1 T2w=embedded", (("T1w", Path("/m1")), ("T2w", "embedded"))),
    ("evaluate --realism-reference /MS017_T2.nii.gz T1w=/x_T2w.nii",
     (("T2w", Path("/MS017_T2.nii.gz")), ("T1w", Path("/x_T2w.nii")))),
]  # fmt: skip


@pytest.mark.parametrize(("line", "value"), READ)
def test_values_are_read_as_they_are_meant_and_recorded_for_a_run_again(tmp_path, line, value):
    words, config = [*BASE[:2], *shlex.split(line)], tmp_path / "config.toml"
    s = read_settings(words)
    assert getattr(s, words[3][2:].replace("-", "_")) == value
    config.write_text(tomli_w.dumps({**s.to_options(), "run": {"version": "1"}}))
    assert read_settings([*words[:3], "--config-file", str(config)]) == s


REFUSED = [
    # Options of another level, with the levels that take them.
    ("participant --hf ses-GE", 64, "of participant --pairs and group and evaluate"),
    ("participant --pairs --model x", 64, "group --task enhance and trial; participant --pairs do"),
    ("train --uncertainty", 64, "of participant; group does not"),
    # Values of the wrong form.
    ("participant --mem 0", 64, "'0' is not an amount of memory"),
    ("participant --mem 8000", 64, "'8000' is not an amount of memory such as 8 or 8000M"),
    ("participant --lf-grid 1.6x5", 64, "'1.6x5' is not XxYxZ in mm"),
    ("participant --lf-grid 0x1x1", 64, "voxel sides go from 0.1 to 20 mm"),
    ("participant --lf-grid 1xnanx5", 64, "voxel sides go from 0.1 to 20 mm"),
    ("participant --lf-grid 2x2x2 --slice-thickness 0", 64, "not a number from 0.1 to 20"),
    ("participant --device gpu", 64, "'gpu' is not auto, cpu, cuda or cuda:NUMBER"),
    ("participant --filter 'acq-' run=1", 64, "'acq-' is not like ses-GE"),
    ("participant --participant-label ../x", 64, "'../x' is not a label"),
    ("participant --session-label ''", 64, "'' is not a label"),
    ("participant --output-spaces A:res-1:res-2", 64, "'A:res-1:res-2' is not a space"),
    ("participant --output-spaces A:res-native", 64, "'A:res-native' is not a space"),
    ("participant --output-spaces tpl-A", 64, "'tpl-A' is not a space"),
    ("participant -d no-path", 64, "'no-path' is not NAME=PATH"),
    ("benchmark --external '../x=cp {input} {output}'", 64, "is not NAME='program {input}"),
    ("participant --model ''", 64, "a path cannot be empty"),
    # Words that are unknown, and what was probably meant.
    ("participant --nproc=4", 64, "; did you mean --nprocs?"),
    ("group --contrast T1", 64, "; did you mean T1w?"),
    ("particpant", 17, "; did you mean participant?"),
    ("participant --xyzzy", 64, "--xyzzy; see h2lo --help"),
    ("xyzzy", 17, "'xyzzy' is unknown; use participant, "),
    ("participant group --nprocs 2", 64, "run one analysis level per call"),
    ("participant --sloppy ''", 64, "unrecognized arguments: an empty word, "),
    # Options that took the positional words.
    ("--participant-label 01 02 participant --sloppy", 64, "give positional arguments before"),
    ("--contrast T1w train", 64, "give positional arguments before the options"),
    # Options of earlier versions.
    ("group --epochs=3", 64, "no longer an option; use --steps"),
    # What makes no sense together.
    ("group --lambda-grad 0", 64, "use that"),
    ("group --folds 0 --fold 1", 64, "leave one of them out"),
    ("group --folds 0 --no-final", 64, "nothing to fit"),
    ("group --fold 0 --collect", 64, "leave one of them out"),
    ("group --folds ds006557 --val-count 3", 64, "has no effect"),
    ("group --folds 0 --test-count 3", 64, "has no effect"),
    ("group --protocol paper --batch 2", 64, "one volume per step"),
    ("group --method inr arnold --lambda-grad 1", 64, "nothing to inr and arnold"),
    ("group --method identity --devices 2", 64, "--devices means nothing to identity"),
    ("group --init embedded none", 64, "--init is given twice without a contrast"),
    ("group --method inr --init embedded", 64, "--init means nothing to inr"),
    ("group -d lf=bids", 64, "other than raw and lf"),
    ("evaluate --precision fp16", 64, "at the group level"),
    ("participant --realisations 2", 64, "add --noise calibrated"),
    ("participant --method h2lo arnold", 64, "give one method"),
    ("trial --method h2lo identity", 64, "give one method"),
    ("evaluate --task enhance --method h2lo", 64, "--method is for synthesized images"),
    # Paths.
    ("group --init embeded", 66, "no such file; did you mean embedded?"),
    ("group --init trained", 64, "its folder models/ holds some: "),
    ("group --lf-dir nowhere", 66, "is not a folder"),
    ("group --lf-dir bids", 64, "is bids_dir itself"),
    ("evaluate --realism-reference scan.nii", 64, "write T1w=IMAGE or T2w=IMAGE"),
    (f"participant --model {'x' * 300}", 66, "File name too long"),
]  # fmt: skip


def test_a_phantom_too_large_for_the_memory_is_one_line(tmp_path, monkeypatch, capsys):
    def fill(*_):
        return bytearray(2**60)

    monkeypatch.setattr("h2lo_bids.phantom.dataset.make_dataset", fill)
    assert phantom.main([str(tmp_path)]) == 75
    assert "memory ran out; give a larger --resolution" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_code_130(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("h2lo_bids.phantom.dataset.make_dataset", interrupt)
    monkeypatch.setattr("h2lo_bids.cli.slurm_tasks.stages_of", interrupt)
    monkeypatch.setattr("h2lo_bids.cli.participant.start_run", interrupt)
    place = str(tmp_path)
    asked = [f"{place}-out", "participant"]
    for program, more in ((phantom, []), (slurm, asked), (run, asked)):
        assert program.main([place, *more]) == 130
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


def test_a_task_of_an_array_takes_the_options_of_the_other_tasks():
    given = "--crop 16 --batch 4 --learning-rate 1e-3 --devices 2 --init embedded --fold 0"
    for words in (
        *(f"benchmark --method {method} {given}" for method in METHODS),
        "group --method arnold identity --crop 16",  # they are validated on crops
    ):
        check_values(read_settings([*BASE[:2], *words.split()]))


def test_words_that_other_bids_apps_take_mean_the_same():
    base = ["/bids2", "/out", "participant"]  # which no unit is put behind
    for words, plain in (
        ("--participant_label=01 --work_dir=/a_b", "--participant-label 01 --work-dir /a_b"),
        ("--n_cpus 3 --mem-mb 8000 --notrack", "--nprocs 3 --mem 8"),
        ("--notrack --nthreads=2 --mem-mb=500", "--nprocs 2 --mem 0.5"),
        ("--mem-gb 6", "--mem 6"),
    ):
        assert read_settings([*words.split(), *base]) == read_settings([*base, *plain.split()])


def test_participants_are_read_from_a_file(tmp_path, refused):
    asking, file = [*BASE, "--participant-label"], tmp_path / "people.tsv"
    for text, labels in (
        ("participant_id\tage\nsub-01\t30\nsub-02\tn/a\n", ("01", "02")),
        ("sub_id\nsub-01\n", ("01",)),
        ("01\n\n# later\nsub-02\n", ("01", "02")),
    ):
        file.write_text(text)
        s = read_settings([*asking, f"@{file}", "07"])
        assert s.participant_label == (*labels, "07")
    assert f"write @{file}" in refused(UsageError, read_settings, [*asking, str(file)])
    file.write_text("participant_id\n")
    assert "names no participant" in refused(UsageError, read_settings, [*asking, f"@{file}"])
    gone = f"@{tmp_path}/nowhere"
    assert "nowhere" in refused(MissingInputError, read_settings, [*asking, gone])


def test_a_file_takes_what_the_command_line_takes_which_wins(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("n-cpus = 3\nmem_mb = 8000\nnotrack = true\nfilter = []\nsloppy = false\n")
    s = read_settings([*BASE, "--config-file", str(config)])
    assert s == read_settings([*BASE, "--nprocs", "3", "--mem", "8"])
    config.write_text('participant_label = ["01"]\nnprocs = 4\nsloppy = true\nverbose = 1\n')
    s = read_settings([*BASE, "--config-file", str(config), "--participant-label", "05"])
    assert (s.participant_label, s.nprocs, s.sloppy, s.verbose) == (("05",), 4, True, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nproc = 4", "did you mean --nprocs"),
        ("help = true", "help is not allowed in a configuration"),
        ("nprocs = true", "expected one argument"),
        ("sloppy = 'yes'", "unrecognized arguments: yes"),
        ("folds = 3", "--folds is an option of group and benchmark"),
        ("nprocs = ", "not TOML"),
        ("nprocs = 2\nn_cpus = 8", "nprocs and n_cpus are the same option; remove one of them"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("verbose = 99999999999", "unrecognized arguments: 99999999999"),
        ("verbose = 1.0", "unrecognized arguments: 1.0"),
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
