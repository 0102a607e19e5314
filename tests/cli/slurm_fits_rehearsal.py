"""What a cluster does to fits, rehearsed under a real Slurm; prints its facts as JSON.

Run by ``test_slurm_real.py``, or by hand:

    .ci/slurm python tests/cli/slurm_fits_rehearsal.py FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from heads import importable
from pairsets import BAD, write_pairs
from slurm_rehearsal import check_scripts, program, slurm, states, wait_for_all

CANCELLED, REQUEUED = "T1w_h2lo_fold-0", "T1w_h2lo_fold-1"
# So many steps that a fit is met while it goes on.
FIT = ["--skull-strip", "skip", "--resolution", 8, "--crop", 8, "--batch", 1, "--folds", 2]
FIT += ["--steps", 60, "--validate-every", 30, "--device", "cpu", "--precision", "fp32"]
FIT += ["--nprocs", 1, "--mem", 8]
CLUSTER = ["--cpus", 1, "--mem", "1900M", "--time", 20, "--requeue"]
FOLD = ("scores.tsv", "scores.json", "pictures.npz", "bundle/weights.safetensors")


class Disturb:
    """Cancels one fold for good, and lets another know that its time is up, once each."""

    def __init__(self) -> None:
        self._acts = {
            CANCELLED: ("--full", "--signal=KILL"),
            REQUEUED: ("--batch", "--signal=USR1"),
        }
        self.told: list[str] = []

    def __call__(self, folder: Path) -> None:
        for name in list(self._acts):
            with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
                word, job = (folder / "state" / "folds" / name).read_text().split()
                log = folder / "log" / f"folds-{job}.log"
                # A fit is well under way once it has told of its first step.
                if word == "begun" and ": step 1 of " in log.read_text():
                    slurm("scancel", *self._acts[name], job)
                    self.told.append(name)
                    del self._acts[name]


def results(out: Path) -> dict[str, bytes | None]:
    """Return the bytes of what is promised to be the same, however it was computed."""
    names = ["splits.tsv", "splits.json", "models/h2lo_T1w/weights.safetensors"]
    names += [f"group_T1w_{end}" for end in ("scores.tsv", "summary.tsv", "table.md")]
    names += [f"folds/T1w/h2lo/fold-{k}/{name}" for k in (0, 1) for name in FOLD]
    paths = {name: out / name for name in names}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}


def said(out: Path, pattern: str) -> list[str]:
    """Return what every run told in its log that fits a pattern."""
    logs: Iterable[Path] = out.glob("logs/*/h2lo.log")
    return [text for log in logs for text in re.findall(pattern, log.read_text())]


def begin_plain(root: Path) -> subprocess.Popen:
    """Begin a run of the same folds without a cluster, on the same prepared pairs."""
    for folder in (root / "out").glob("sub-*"):
        shutil.copytree(folder, root / "plain" / folder.name)
    words = [sys.executable, "-m", "h2lo_bids.cli.run", root / "bids", root / "plain", "group"]
    return subprocess.Popen([*map(str, words), *map(str, FIT)], stdout=sys.stderr)


def first_try(folder: Path, out: Path) -> dict:
    """Submit all, disturb two folds, and tell what the last job made of the rest."""
    disturb = Disturb()
    facts = wait_for_all(folder, disturb) | {"disturbed": disturb.told}
    facts |= {stage: states(folder, stage) for stage in ("pairs", "folds", "collect")}
    facts["failures"] = (folder / "failures.tsv").read_text().splitlines()
    facts["failed_tasks"] = (folder / "failed_tasks.tsv").read_text().splitlines()
    facts["requeued"] = sum(
        log.read_text().count("back into the queue") for log in (folder / "log").iterdir()
    )
    facts["resumed"] = [int(step) for step in said(out, r"going on from step (\d+)")]
    facts["page"] = (out / "group.html").is_file()
    facts["model"] = (out / "models").exists()
    return facts


def rehearse(root: Path) -> dict:
    """Fit two folds on the cluster, and once more without it."""
    bids, out = root / "bids", root / "out"
    shutil.rmtree(write_pairs(bids) / f"sub-{BAD}")
    command: list[object] = [bids, out, "group", *FIT]
    facts: dict = {"first": program("--submit", *CLUSTER, *command).splitlines()[:3]}
    folder = next((out / "logs" / "slurm").iterdir())
    facts["test_only"] = check_scripts(folder)
    facts |= first_try(folder, out)

    plain = begin_plain(root)
    facts["again"] = program("--submit", *CLUSTER, *command).splitlines()[:3]
    wait_for_all(folder, lambda folder: None)
    facts["after"] = {stage: states(folder, stage) for stage in ("pairs", "folds", "collect")}
    facts["third"] = program("--submit", *CLUSTER, *command).splitlines()[-1]
    facts["temporaries"] = [str(p) for p in out.rglob(".tmp-*")]

    facts["plain"] = plain.wait()
    on_cluster, alone = results(out), results(root / "plain")
    facts["lacking"] = [name for name, content in alone.items() if content is None]
    facts["different"] = [name for name in alone if on_cluster[name] != alone[name]]
    facts["compared"] = len(alone)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    os.environ.update(importable())
    # Spaces, quotation marks and Slurm's own patterns are allowed in paths.
    root = parser.parse_args().folder / "it's a %j"
    root.mkdir(parents=True)
    print(json.dumps(rehearse(root), indent=2))


if __name__ == "__main__":
    main()
