"""What a cluster does to a run, rehearsed under a real Slurm; prints its facts as JSON.

Run by ``test_slurm_real.py`` with small heads, or at length by hand:

    .ci/slurm python tests/cli/slurm_rehearsal.py FOLDER --subjects 20 --phantom
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import psutil
from heads import importable, write_bundle, write_dataset, write_scan

BROKEN, REQUEUED, KILLED = "sub-02", "sub-01", "sub-03"


def program(*words: object) -> str:
    """Run ``h2lo-slurm`` and return what it prints."""
    command = [sys.executable, "-m", "h2lo_bids.cli.slurm", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"h2lo-slurm ended with {done.returncode}: {done.stdout}{done.stderr}")
    print(done.stdout, file=sys.stderr, flush=True)
    return done.stdout


def slurm(*words: object) -> str:
    """Run a command of Slurm."""
    return subprocess.run(
        [*map(str, words)], check=True, capture_output=True, text=True
    ).stdout.strip()


def running() -> dict[str, str]:
    """Return the job of each array element that runs, by stage and number."""
    lines = slurm("squeue", "-h", "-r", "-t", "running", "-o", "%j %K %F_%K").splitlines()
    return {f"{name} {number}": job for name, number, job in map(str.split, lines)}


def hurry(late: set[str], hurried: set[str]) -> set[str]:
    """Shorten the two minutes that Slurm lets a task wait that was put back; return whose."""
    for job in late - hurried:
        with contextlib.suppress(subprocess.CalledProcessError):
            # In the same second its credential would still be the one that was revoked.
            slurm("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    return late


def wait_for_all(folder: Path, disturb) -> dict:
    """Wait until the queue is empty; count how many ran at once, and disturb tasks on the way."""
    most, began = 0, time.monotonic()
    reasons: set[str] = set()
    hurried: set[str] = set()
    while queue := slurm("squeue", "-h", "-r", "-o", "%i %r"):
        waiting = dict(line.split() for line in queue.splitlines())
        reasons |= {*waiting.values()}
        hurried = hurry({job for job, why in waiting.items() if why == "BeginTime"}, hurried)
        now = [name for name in running() if "failures" not in name]
        most = max(most, len(now))
        disturb(folder)
        time.sleep(0.2)
    return {
        "most_at_once": most,
        "reasons": sorted(reasons),
        "seconds": round(time.monotonic() - began),
    }


class Disturb:
    """Requeues one task and kills another, once each, while they run."""

    def __init__(self, requeue: str, kill: str | None) -> None:
        self._wanted = {requeue: self._requeue} | ({kill: self._kill} if kill else {})
        self.told: list[str] = []

    def __call__(self, folder: Path) -> None:
        for name, act in list(self._wanted.items()):
            state = folder / "state" / "participant" / name
            with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
                word, job = state.read_text().split()
                log = folder / "log" / f"participant-{job}.log"
                # It is well under way once it has told how many scans there are.
                if word == "begun" and " at a time" in log.read_text() and act(job, name):
                    self.told.append(f"{act.__name__.strip('_')} {name}")
                    del self._wanted[name]

    def _requeue(self, job: str, name: str) -> bool:
        slurm("scontrol", "requeue", job)
        return True

    def _kill(self, job: str, name: str) -> bool:
        label = name.removeprefix("sub-").split("_")[0]
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "participant" in words and words[-4:-2] == ["--participant-label", label]:
                process.send_signal(signal.SIGKILL)
                return True
        return False


def states(folder: Path, stage: str) -> dict[str, str]:
    return {p.name: p.read_text().split()[0] for p in sorted((folder / "state" / stage).iterdir())}


def check_scripts(folder: Path) -> list[str]:
    """Let Slurm itself look at each script; return what it says."""
    said = []
    for script in sorted(folder.glob("*.sh")):
        if script.name != "submit.sh":
            array = [] if script.name == "failures.sh" else ["--array=0"]
            done = subprocess.run(
                ["sbatch", "--test-only", *array, str(script)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            said.append(f"{script.name}: {done.returncode} {done.stderr.strip()}")
    return said


def participants(root: Path, subjects: int, phantom: bool) -> dict:
    """Rehearse the participant level."""
    bids, out = root / "bids", root / "out"
    words: list[object] = ["--skull-strip", "skip"]
    if phantom:
        command = [sys.executable, "-m", "h2lo_bids.cli.phantom", bids, "--resolution", "4"]
        command += ["--subjects", str(subjects), "--contrast", "T1w", "--lf"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        words = ["--sloppy"]
    else:
        write_dataset(bids, subjects, suffixes=("T1w",))
        for session in ("A", "B"):  # two tasks that share a report
            folder = bids / "sub-99" / f"ses-{session}" / "anat"
            write_scan(folder / f"sub-99_ses-{session}_T1w.nii.gz", seed=9)
        words += ["--model", f"T1w={write_bundle(root / 'model', 'T1w')}"]
    broken = next((bids / BROKEN).rglob("*_T1w.nii.gz"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    cluster = ["--cpus", 1, "--mem", "1300M", "--time", "20", "--requeue"]
    cluster += ["--throttle", os.environ.get("THROTTLE", 2)]
    cluster += ["--scratch", root / "scratch"]
    command = [*cluster, bids, out, "participant", *words]

    program(*command)
    folder = next((out / "logs" / "slurm").iterdir())
    facts: dict = {}
    text = program("--submit", *command)
    facts["first"] = text.splitlines()[0]
    facts["while_running"] = program(*command).splitlines()[0]
    names = [line.split("\t")[0] for line in (folder / "participant.tsv").read_text().splitlines()]
    first = {n.split("_")[0]: n for n in names}
    disturb = Disturb(first[REQUEUED], first[KILLED] if subjects > 3 else None)
    facts |= wait_for_all(folder, disturb)
    facts["disturbed"] = disturb.told
    facts["states"] = states(folder, "participant")
    facts["failures"] = (folder / "failures.tsv").read_text().splitlines()
    facts["failed_tasks"] = (folder / "failed_tasks.tsv").read_text().splitlines()
    facts["left_in_scratch"] = sorted(p.name for p in (root / "scratch").iterdir())

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*_desc-lowfield_*.nii.gz")}
    broken.write_bytes(whole)
    facts["rerun"] = program("--submit", *command).splitlines()[0]
    wait_for_all(folder, lambda folder: None)
    facts["states_after"] = states(folder, "participant")
    facts["touched"] = [p.name for p, t in before.items() if p.stat().st_mtime_ns != t]
    facts["images"] = len(list(out.rglob("*_desc-lowfield_*.nii.gz")))
    facts["third"] = program("--submit", *command).splitlines()[-1]
    facts["test_only"] = check_scripts(folder)
    page = next(iter(out.glob("sub-99.html")), None)
    facts["sessions_on_page"] = [
        s for s in "AB" if page and f"sub-99_ses-{s}_T1w" in page.read_text()
    ]
    facts["temporaries"] = [str(p) for p in out.rglob(".tmp-*")]
    facts["descriptions"] = sorted(json.loads((out / "dataset_description.json").read_text()))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--phantom", action="store_true")
    options = parser.parse_args()
    os.environ.update(importable())
    # Spaces, quotation marks and Slurm's own patterns are allowed in paths.
    root = options.folder / "it's a %j"
    root.mkdir(parents=True)
    print(json.dumps(participants(root, options.subjects, options.phantom), indent=2))


if __name__ == "__main__":
    main()
