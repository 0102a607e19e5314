"""Hostile files, names and surroundings: one line and a code, never a traceback or a wait."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import head, importable, write_bundle, write_dataset

from h2lo_bids.cli.console import Console
from h2lo_bids.cli.run import main
from h2lo_bids.errors import BadDataError
from h2lo_bids.models.bundle import load_bundle, load_model
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings.convert import path

DEEP = "[" * 100_000


@pytest.fixture
def bids(tmp_path):
    """Return a dataset of one T1w image."""
    return write_dataset(tmp_path / "bids", suffixes=("T1w",))


def run(capsys, bids, out, *words) -> tuple[int, str, str]:
    """Run in this process; give code, standard output and standard error."""
    code = main([str(bids), str(out), "participant", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def add_subject(bids, label: str):
    """Copy the first subject; give the folder of its images."""
    anat = bids / f"sub-{label}" / "anat"
    shutil.copytree(bids / "sub-01" / "anat", anat)
    for file in list(anat.iterdir()):
        file.rename(anat / file.name.replace("sub-01", f"sub-{label}"))
    return anat


def test_odd_files_cost_their_own_scan_and_nothing_else(tmp_path, bids, capsys):
    image = add_subject(bids, "pipe") / "sub-pipe_T1w.nii.gz"
    image.unlink()
    os.mkfifo(image)  # to open it would take for ever
    (add_subject(bids, "deep") / "sub-deep_T1w.json").write_text(DEEP)
    number = '{"MagneticFieldStrength": ' + "9" * 400 + "}"  # no float is as large
    (add_subject(bids, "number") / "sub-number_T1w.json").write_text(number)
    (bids / "sub-self").symlink_to("sub-self")
    words = ("--dry-run", "--skip-bids-validation")
    code, out, err = run(capsys, bids, tmp_path / "out", *words)
    assert (code, err) == (1, "")  # as the run would end
    assert "exit with code 1" in out.splitlines()[-1]
    problems = [line for line in out.splitlines() if line.startswith("cannot use: ")]
    assert len(problems) == 4
    for name in ("sub-pipe_T1w.nii.gz", "sub-deep_T1w.json", "sub-self", "sub-number_T1w"):
        (line,) = [line for line in problems if name in line]
        assert ";" in line
    read = [line for line in out.splitlines() if line.startswith("read ")]
    assert len(read) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("verbose = 99999999999", "unrecognized arguments: 99999999999"),
        ("mem = [1, 2]", "unrecognized arguments: 2"),
        ("a = " + DEEP, "not TOML"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_told_in_one_line(
    tmp_path, bids, capsys, text, told
):
    config = tmp_path / "config.toml"
    config.write_text(text)
    code, _, err = run(capsys, bids, tmp_path / "out", "--config-file", config)
    assert code == 64
    (line,) = err.splitlines()
    assert str(config) in line
    assert told in line


@pytest.mark.parametrize("name", ["dataset_description.json", "filters.json"])
def test_deep_json_is_told_in_one_line(tmp_path, bids, capsys, name):
    (bids / name).write_text(DEEP)
    words = ("--bids-filter-file", bids / name) if name == "filters.json" else ()
    code, _, err = run(capsys, bids, tmp_path / "out", "--dry-run", *words)
    assert code == (64 if words else 16)
    (line,) = err.splitlines()
    assert name in line
    assert "nested too deeply" in line


def test_a_dry_run_makes_no_index(tmp_path, bids, capsys):
    index = tmp_path / "index"
    words = ("--dry-run", "--skip-bids-validation", "--bids-database-dir", index)
    assert run(capsys, bids, tmp_path / "out", *words)[0] == 0
    assert not index.exists()


def test_derivatives_have_to_be_a_folder(tmp_path, bids, capsys):
    file = tmp_path / "masks"
    file.write_text("not a dataset")
    code, _, err = run(capsys, bids, tmp_path / "out", "-d", f"x={file}")
    assert code == 66
    assert str(file) in err
    assert len(err.splitlines()) == 1
    # What is expected of them is named where it is not there.
    words = ("-d", f"x={tmp_path / 'none'}", "--skip-bids-validation", "--dry-run")
    (tmp_path / "none").mkdir()
    _, out, _ = run(capsys, bids, tmp_path / "out", *words)
    mask = tmp_path / "none/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert f"brain mask: computed, as there is no {mask}]" in out


def test_a_surprise_is_one_line_and_its_traceback_is_in_the_log(
    tmp_path, bids, capsys, monkeypatch
):
    def broken(settings):
        raise LookupError("of a kind\nnobody thought of")

    monkeypatch.setattr("h2lo_bids.cli.participant.find", broken)
    code, _, err = run(capsys, bids, tmp_path / "out")
    assert code == 1
    (line,) = err.splitlines()
    assert "LookupError: of a kind nobody thought of" in line
    (log,) = tmp_path.glob("out/logs/*/h2lo.log")
    assert str(log) in line
    assert "Traceback" in log.read_text()


def test_lines_are_neither_obeyed_nor_lost_by_a_terminal():
    raw = io.BytesIO()
    console = Console(io.TextIOWrapper(raw, encoding="ascii"))
    console.line("sub-\x1b[31m01 é\r \udcff")
    assert raw.getvalue() == b"sub-\\x1b[31m01 \\xe9\\r \\udcff\n"


def test_a_path_that_is_no_text_is_refused(capsys):
    code, _, err = run(capsys, "/data/\udcff", "/out")
    assert code == 64
    assert "UTF-8" in err
    assert len(err.splitlines()) == 1
    assert path("/data/é").name == "é"


def _outside(script: str, cwd) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", script]
    env = {**os.environ, **importable()}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_a_deleted_current_folder_is_no_obstacle(tmp_path, bids):
    gone = tmp_path / "gone"
    gone.mkdir()
    h2lo = f"{sys.executable} -m h2lo_bids.cli.run"
    words = f"{tmp_path}/out participant --dry-run --skip-bids-validation"
    done = _outside(f"rmdir {gone}; {h2lo} {bids} {words}; {h2lo} bids {words}; echo $?", gone)
    assert f"read  {bids}" in done.stdout
    assert done.stdout.splitlines()[-1] == "64"
    (line,) = [line for line in done.stderr.splitlines() if "h2lo: error: " in line]
    assert "deleted" in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training_data", ["real"]),
        ("name", {"first": "last"}),
        ("value_range", "0 to 1"),
        ("frame", {**asdict(Frame()), "shape": [10**6] * 3}),
        ("frame", {**asdict(Frame()), "shape": [float("inf")] * 3}),
        ("frame", {**asdict(Frame()), "spacing": [float("nan")] * 3}),
        ("frame", {**asdict(Frame()), "orientation": "RRS"}),
    ],
)
def test_metadata_of_the_wrong_type_are_refused(tmp_path, key, value):
    folder = write_bundle(tmp_path / "model", "T1w")
    file = folder / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(BadDataError, match="wrong field"):
        load_bundle(folder)


def test_weights_with_names_of_several_types_are_refused(tmp_path):
    file = tmp_path / "T1w.pth"
    whole = load_model(load_bundle(write_bundle(tmp_path / "model", "T1w")))
    state = {**whole.state_dict(), "other": torch.zeros(1), 3: torch.zeros(1)}
    sizes = {"feature_dim": 8, "encoder_base_channels": 4, "decoder_width": 16}
    torch.save({"model_state_dict": state, "args": sizes}, file)
    with pytest.raises(BadDataError, match="do not belong to this model"):
        load_model(load_bundle(file))


@pytest.mark.slow
def test_what_cannot_work_is_told_at_the_start(tmp_path, bids, h2lo):
    weights = tmp_path / "synthstrip.1.pt"
    weights.write_text("nothing of the kind")
    words = ("--skull-strip", "synthstrip", "--synthstrip-weights", weights)
    done = h2lo(bids, tmp_path / "out", *words)
    assert done.returncode == 65
    (line,) = done.stderr.splitlines()
    assert str(weights) in line
    assert not (tmp_path / "out" / "sub-01").exists()


@pytest.mark.slow
def test_long_labels_odd_paths_and_empty_subjects(tmp_path, bids, h2lo):
    label = "a" * 200
    add_subject(bids, label)
    (bids / "sub-none" / "func").mkdir(parents=True)
    out = tmp_path / "a \"b' $c" / "ö"
    done = h2lo(bids, out, "--skip-bids-validation")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sub-none: no T1w or T2w image: no anat folder (found func)" in done.stdout
    assert (out / f"sub-{label}" / "anat" / f"sub-{label}_desc-lowfield_T1w.nii.gz").exists()


@pytest.mark.slow
def test_what_is_doubtful_is_said_on_the_terminal(tmp_path, h2lo):
    bids = write_dataset(tmp_path / "bids", suffixes=("T1w",))
    file = bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    image = nib.Nifti1Image(head(0) + 1, np.diag([4.0, 4, 4, 1]))  # no zero background
    image.set_sform(None)
    image.set_qform(None)
    image.header.set_zooms((4, 4, 4))
    nib.save(image, file)
    done = h2lo(bids, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert any("neither sform nor qform" in line for line in warnings)
    assert any("does not look like a brain alone" in line for line in warnings)


def test_many_absent_images_are_one_line_with_one_command(tmp_path, capsys):
    bids = write_dataset(tmp_path / "bids", subjects=0)
    images = [bids / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_T1w.nii.gz" for n in range(30)]
    for image in images:
        image.parent.mkdir(parents=True)
        image.symlink_to(f"../../.git/annex/objects/{image.name}")
    words = ("--skip-bids-validation",)
    code, rehearsed, _ = run(capsys, bids, tmp_path / "out", *words, "--dry-run")
    assert (code, run(capsys, bids, tmp_path / "out", *words)[0]) == (66, 66)
    (log,) = (tmp_path / "out").glob("logs/*/h2lo.log")
    for text in (rehearsed, log.read_text()):
        assert len([line for line in text.splitlines() if "sub-" in line]) == 1
        (line,) = [line for line in text.splitlines() if "datalad get" in line]
        assert "(30 images: sub-00_T1w.nii.gz, " in line
        command = line.partition("datalad get ")[2].partition(" (")[0]
        done = subprocess.run(
            ["bash", "-c", f"ls -d {command}"], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == list(map(str, images))
    assert len((log.parent / "failures.tsv").read_text().splitlines()) == 31


def test_what_is_assumed_is_a_warning_also_of_a_dry_run(tmp_path, bids, capsys):
    (bids / "sub-01" / "anat" / "sub-01_T1w.json").unlink()
    words = ("--skip-bids-validation", "--dry-run")
    code, out, _ = run(capsys, bids, tmp_path / "out", *words)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert "assumed to be high field" in line


def test_outputs_may_be_in_derivatives_and_are_not_read_again(tmp_path, bids, capsys):
    out = bids / "derivatives" / "h2lo"
    shutil.copytree(bids / "sub-01", out / "sub-01")
    words = ("--skip-bids-validation", "--dry-run")
    code, told, err = run(capsys, bids, out, *words)
    assert (code, err) == (0, "")
    read = [line.split()[1] for line in told.splitlines() if line.startswith("read ")]
    assert read == [str(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")]
    for folder in ("derivatives", "h2lo", "sub-01/derivatives/h2lo"):
        code, _, err = run(capsys, bids, bids / folder, *words)
        assert code == 64
        assert "derivatives/NAME" in err
        assert err.count(str(bids)) == 1
    code, _, err = run(capsys, bids, out, "-d", f"x={out}", *words)
    assert code == 64
