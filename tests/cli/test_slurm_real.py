"""Job arrays under a real Slurm, which ``.ci/slurm`` starts on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLURM = HERE.parents[1] / ".ci" / "slurm"
NONE_HERE = 77

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no slurmctld on this machine"),
]


def under_slurm(*words: object) -> subprocess.CompletedProcess[str]:
    # More processors than the throttle lets tasks run, so that it is the throttle that holds.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_CPUS": "4", "SLURM_MEMORY": "8000"}
    env.pop("PYTHONUNBUFFERED", None)  # which would hide lines that come in the wrong order
    done = subprocess.run(
        [SLURM, *map(str, words)], capture_output=True, text=True, check=False, env=env
    )
    if done.returncode == NONE_HERE:
        pytest.skip(f"no Slurm can be had: {done.stderr.strip()}")
    return done


def test_an_array_survives_a_broken_scan_and_a_requeue_and_a_rerun_does_the_rest(tmp_path):
    done = under_slurm(sys.executable, HERE / "slurm_rehearsal.py", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    tasks = ["sub-01", "sub-02", "sub-03", "sub-99_ses-A", "sub-99_ses-B"]
    assert facts["test_only"]
    assert all(": 0 " in line for line in facts["test_only"]), facts["test_only"]
    assert facts["first"] == "participant: 5 of 5 tasks to submit"
    assert facts["while_running"] == "participant: 0 of 5 tasks to submit"
    assert facts["disturbed"] == ["requeue sub-01"]
    assert facts["most_at_once"] == 2
    assert "JobArrayTaskLimit" in facts["reasons"]
    # The broken scan costs its own task alone, and is told of by name.
    assert facts["states"] == {name: "65" if name == "sub-02" else "0" for name in tasks}
    assert len(facts["failures"]) == 2
    assert facts["failures"][1].startswith("sub-02\tsub-02/anat/sub-02_T1w.nii.gz\tcheck\t")
    assert facts["failed_tasks"][1].startswith("participant\tsub-02\t65\t")
    assert facts["left_in_scratch"] == ["sub-02"]
    # Repaired, it is all that a rerun does.
    assert facts["rerun"] == "participant: 1 of 5 tasks to submit"
    assert facts["states_after"] == dict.fromkeys(tasks, "0")
    assert facts["touched"] == []
    assert facts["images"] == 5
    assert facts["third"] == "all 5 tasks are done or in the queue"
    assert facts["sessions_on_page"] == ["A", "B"]
    assert facts["temporaries"] == []


def test_fits_survive_a_requeue_and_a_loss_and_end_in_the_bytes_of_a_plain_run(tmp_path):
    done = under_slurm(sys.executable, HERE / "slurm_fits_rehearsal.py", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert all(": 0 " in line for line in facts["test_only"]), facts["test_only"]
    told = ["pairs: 4 of 4", "folds: 2 of 2", "collect: 1 of 1"]
    assert facts["first"] == [f"{text} tasks to submit" for text in told]
    assert sorted(facts["disturbed"]) == ["T1w_h2lo_fold-0", "T1w_h2lo_fold-1"]
    # The requeued fold went on where it was; the other tasks of its array were left alone.
    assert facts["requeued"] == 1
    (step,) = facts["resumed"]
    assert 0 < step < 60
    assert facts["pairs"] == {f"sub-0{n}": "0" for n in range(1, 5)}
    assert facts["folds"]["T1w_h2lo_fold-0"] != "0"
    assert facts["folds"]["T1w_h2lo_fold-1"] == "0"
    # The last job tells what is missing, reports the rest, and fits no model.
    assert facts["collect"] == {"collect": "75"}
    lost = "folds/T1w/h2lo/fold-0: is missing; fit it with --fold 0, then collect again"
    assert any(line.startswith("collect\t") and lost in line for line in facts["failures"])
    tasks = [line.split("\t")[:2] for line in facts["failed_tasks"][1:]]
    assert tasks == [["folds", "T1w_h2lo_fold-0"], ["collect", "collect"]]
    assert facts["page"]
    assert not facts["model"]
    # The same command does the rest, and ends in what one machine would have made.
    assert [line.partition(" tasks")[0] for line in facts["again"]] == [
        "pairs: 0 of 4",
        "folds: 1 of 2",
        "collect: 1 of 1",
    ]
    assert {code for stage in facts["after"].values() for code in stage.values()} == {"0"}
    assert facts["third"] == "all 7 tasks are done or in the queue"
    assert facts["temporaries"] == []
    assert facts["plain"] == 0
    assert facts["lacking"] == []
    assert facts["different"] == []
    assert facts["compared"] == 14


def test_srun_with_several_tasks_is_refused_and_one_in_a_larger_job_is_not(tmp_path):
    """Only a step of several tasks runs several copies; a batch script is one process."""
    h2lo = f"{sys.executable} -m h2lo_bids.cli.run {tmp_path}/none {tmp_path}/out participant"
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n{h2lo}\necho batch $?\nsrun -n2 {h2lo}\necho srun $?\n")
    log = tmp_path / "log.txt"
    done = under_slurm("sbatch", "--wait", "--ntasks=2", f"--output={log}", script)
    text = log.read_text()
    assert done.returncode == 0, done.stderr
    assert "batch 66" in text  # as far as the input, which is not there
    assert text.count("srun started 2 of these") == 2
    assert "srun 64" in text
