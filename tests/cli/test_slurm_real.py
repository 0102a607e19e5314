"""Job arrays under a real Slurm, which ``.ci/slurm`` starts on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from heads import (
    BAD,
    call,
    importable,
    results,
    rows_of,
    run,
    write_bundle,
    write_dataset,
    write_pairs,
    write_scan,
)

from h2lo_bids.cli import slurm
from h2lo_bids.cli.slurm_tasks import read_states

SLURM = Path(__file__).parents[2] / ".ci" / "slurm"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no slurmctld on this machine"),
]


class Cluster:
    """Commands of a Slurm that runs on this machine."""

    def __init__(self, conf: str, env: dict[str, str]) -> None:
        self.env = {**env, **importable(), "SLURM_CONF": conf}

    def __call__(self, *words: object) -> str:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=self.env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def divide(self, *words: object) -> list[str]:
        with patch.dict(os.environ, self.env):
            code, said, err = call(*words, "--skip-bids-validation", program=slurm.main)
        assert code == 0, err
        return said.splitlines()

    def wait(self, disturb=lambda: None) -> set[str]:
        """Wait until the queue is empty; return for what tasks waited."""
        reasons, hastened = set[str](), set[str]()
        while queue := self("squeue", "-h", "-r", "-o", "%i %r"):
            for job, why in map(str.split, queue.splitlines()):
                if why == "BeginTime" and job not in hastened:
                    # Shorten the two minutes that Slurm lets a task wait that was put back.
                    with contextlib.suppress(AssertionError):
                        self("scontrol", "update", f"JobId={job}", "StartTime=now+1")
                        hastened.add(job)
                reasons.add(why)
            disturb()
            time.sleep(0.2)
        return reasons


@pytest.fixture(scope="module")
def cluster():
    # More processors than the throttle lets tasks run, so that it is the throttle that holds.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_CPUS": "4", "SLURM_MEMORY": "8000"}
    command = [SLURM, "bash", "-c", 'echo "$SLURM_CONF"; read -r']
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=env, text=True, **pipes) as process:
        if not (conf := process.stdout.readline().strip()):
            pytest.skip("no Slurm can be had")
        yield Cluster(conf, env)
        process.stdin.close()


class Disturb:
    """Does something once to each of some tasks, when its log shows that it is under way."""

    def __init__(self, folder: Path, stage: str, sign: str, acts: dict) -> None:
        self.folder, self.stage, self.sign, self.acts = folder, stage, sign, dict(acts)

    def __call__(self) -> None:
        for name, act in list(self.acts.items()):
            with contextlib.suppress(OSError, ValueError, AssertionError):
                word, job = (self.folder / "state" / self.stage / name).read_text().split()
                log = self.folder / "log" / f"{self.stage}-{job}.log"
                if word == "begun" and self.sign in log.read_text():
                    act(job)
                    del self.acts[name]


def codes(folder: Path, stage: str) -> dict[str, int | None]:
    return {name: state.code for name, state in read_states(folder, stage).items()}


def test_an_array_survives_a_broken_scan_and_a_requeue(cluster, tmp_path):
    root = tmp_path / "it's a %j"  # with spaces, quotation marks and Slurm's own patterns
    bids, out = write_dataset(root / "bids", suffixes=("T1w",)), root / "out"
    for session in ("A", "B"):  # two tasks that share a report
        anat = bids / "sub-99" / f"ses-{session}" / "anat"
        write_scan(anat / f"sub-99_ses-{session}_T1w.nii.gz", seed=9)
    broken = bids / "sub-01/anat/sub-01_T1w.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    command = ["--cpus", 1, "--mem", "1300M", "--time", "20", "--requeue", "--throttle", 2]
    command += ["--scratch", root / "scratch", bids, out, "participant", "--skull-strip", "skip"]
    command += ["--model", f"T1w={write_bundle(root / 'model', 'T1w')}"]
    assert cluster.divide("--submit", *command)[0] == "participant: 3 of 3 tasks to submit"
    assert cluster.divide(*command)[0] == "participant: 0 of 3 tasks to submit"
    folder = next((out / "logs" / "slurm").iterdir())
    acts = {"sub-99_ses-A": lambda job: cluster("scontrol", "requeue", job)}
    disturb = Disturb(folder, "participant", " at a time", acts)
    assert "JobArrayTaskLimit" in cluster.wait(disturb)
    assert disturb.acts == {}
    ended = {"sub-01": 65, "sub-99_ses-A": 0, "sub-99_ses-B": 0}
    assert codes(folder, "participant") == ended
    assert [path.name for path in (root / "scratch").iterdir()] == [
        f"h2lo-{folder.name.rpartition('-')[2]}-sub-01"
    ]

    # The broken scan costs its own task alone; repaired, it is all that is missing.
    assert len(list(out.rglob("*_desc-lowfield_*.nii.gz"))) == 2
    page = (out / "sub-99.html").read_text()
    assert all(f"sub-99_ses-{session}_T1w" in page for session in "AB")
    assert not list(out.rglob(".tmp-*"))
    broken.write_bytes(whole)
    assert cluster.divide(*command)[0] == "participant: 1 of 3 tasks to submit"
    (row,) = rows_of(folder / "failures.tsv")
    assert (row["stage"], row["task"], row["exit_code"]) == ("participant", "sub-01", "65")
    assert (row["scan"], row["step"]) == ("sub-01/anat/sub-01_T1w.nii.gz", "prepare")


def test_fits_survive_a_requeue_and_a_loss_and_end_in_the_bytes_of_a_plain_run(cluster, tmp_path):
    root = tmp_path / "it's a %j"
    bids, out = write_pairs(root / "bids"), root / "out"
    shutil.rmtree(bids / f"sub-{BAD}")
    # So many steps that a fit is met while it goes on.
    fit = ["--skull-strip", "skip", "--resolution", 8, "--crop", 8, "--batch", 1, "--folds", 2]
    fit += ["--steps", 60, "--validate-every", 30, "--device", "cpu", "--precision", "fp32"]
    fit += ["--nprocs", 1, "--mem", 8]
    run(bids, root / "plain", "group", *fit, code=0)
    for subject in root.glob("plain/sub-*"):
        shutil.copytree(subject, out / subject.name)
    command = ["--cpus", 1, "--mem", "1900M", "--time", 20, "--requeue", bids, out, "group", *fit]
    said = cluster.divide("--submit", *command)
    counts = ["pairs: 0 of 4", "folds: 2 of 2", "collect: 1 of 1"]
    assert said[:3] == [f"{text} tasks to submit" for text in counts]
    folder = next((out / "logs" / "slurm").iterdir())
    acts = {
        "T1w_h2lo_fold-0": lambda job: cluster("scancel", "--full", "--signal=KILL", job),
        "T1w_h2lo_fold-1": lambda job: cluster("scancel", "--batch", "--signal=USR1", job),
    }
    disturb = Disturb(folder, "folds", ": step 1 of ", acts)
    cluster.wait(disturb)
    assert disturb.acts == {}
    # The requeued fold went on where it was; the other tasks of its array were left alone.
    logs = [path.read_text() for path in (folder / "log").iterdir()]
    assert sum(text.count("back into the queue") for text in logs) == 1
    assert sum("going on from step " in path.read_text() for path in out.rglob("h2lo.log")) == 1
    assert codes(folder, "folds")["T1w_h2lo_fold-1"] == 0
    # The last job reports what is missing and the rest, and fits no model.
    assert codes(folder, "collect") == {"collect": 75}
    assert (out / "group.html").is_file()
    assert not (out / "models").exists()
    assert cluster.divide("--submit", *command)[:3] == [
        "pairs: 0 of 4 tasks to submit",
        "folds: 1 of 2 tasks to submit",
        "collect: 1 of 1 tasks to submit",
    ]
    lost, told = rows_of(folder / "failures.tsv")
    assert (lost["stage"], lost["task"]) == ("folds", "T1w_h2lo_fold-0")
    missing = "folds/T1w/h2lo/fold-0: is missing; fit it with --fold 0, then collect again"
    assert told["message"] == missing
    cluster.wait()
    assert cluster.divide(*command)[-1] == "all 7 tasks are done or in the queue"
    assert results(out) == results(root / "plain")


def test_srun_with_several_tasks_is_refused_and_one_in_a_larger_job_is_not(cluster, tmp_path):
    """Only a step of several tasks runs several copies; a batch script is one process."""
    h2lo = f"{sys.executable} -m h2lo_bids.cli.run {tmp_path}/none {tmp_path}/out participant"
    script, log = tmp_path / "job.sh", tmp_path / "log.txt"
    script.write_text(f"#!/bin/bash\n{h2lo}\necho batch $?\nsrun -n2 {h2lo}\necho srun $?\n")
    shell = "SLURM_STEP_NUM_TASKS=3"  # as submitted from that of `srun -n3 --pty bash`
    cluster("env", shell, "sbatch", "--wait", "--ntasks=2", f"--output={log}", script)
    text = log.read_text()
    assert "batch 66" in text  # as far as the input, which is not there
    assert text.count("srun started 2 processes") == 2
    assert "srun 64" in text
