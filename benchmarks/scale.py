"""Time and memory of the parent process as a dataset grows.

Run ``python benchmarks/scale.py`` (minutes). For each number of subjects it writes a
dataset of tiny images and runs, each in a fresh process:

index      ``participant --dry-run``: discovery and the list of what would be written
pybids     PyBIDS alone, with metadata: what ``index`` is compared with
schedule   ``participant --sloppy``: everything that the parent does in a run
reports    ``participant --reports-only``: every subject's page, assembled by the parent
divide     ``h2lo-slurm``: tasks and scripts of an array
group      ``group.html`` of a cross-validation with as many subjects, by its child
pairs      ``group --dry-run``: as many pairs of a high-field and a low-field scan
fits       ``h2lo-slurm … group``: tasks and scripts of the arrays of pairs and folds

What is real: the first subject is synthesized by a real child, and all of discovery,
scheduling, logs, events, tables and pages. What is not: the children of the others are
stand-ins, which copy the first subject's results under the name of theirs. Memory is the
peak resident set of the process named, and "busy" its processor time, without its children.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SIDE, FIRST = 12, "00001"
LIMIT_MB = 500

DRIVE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
began = time.perf_counter()
{code}
# Not getrusage, whose peak counts the process that this one was forked from.
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
wall = time.perf_counter() - began
print(f"MEASURED {{wall:.2f}} {{time.process_time():.2f}} {{peak:.1f}}", file=sys.stderr)
"""
RUN = """
import scale
scale.stand_in({template!r})
from h2lo_bids.cli.run import main
code = main({words!r})
assert code == 0, code
"""
DIVIDE = """
from h2lo_bids.cli.slurm import main
assert main({words!r}) == 0
"""
PYBIDS = """
from bids import BIDSLayout
found = BIDSLayout({bids!r}, validate=False).get(suffix=["T1w", "T2w"], extension=[".nii"])
assert all("MagneticFieldStrength" in file.get_metadata() for file in found)
"""
GROUP = """
from pathlib import Path
from h2lo_bids.reports.group import write_group_report
write_group_report(Path({out!r}), level="group", failures=[])
"""


def write_skeleton(root: Path, subjects: int, *, low: bool = False) -> None:
    """Write subjects with one tiny stripped T1w each, or one of each field strength."""
    import nibabel as nib

    root.mkdir(parents=True)
    description = {"Name": "skeleton", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    (root / "README").write_text("Tiny heads, written by benchmarks/scale.py.\n" * 5)
    axes = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    ball = sum(a**2 for a in axes) < 0.7
    data = np.where(ball, 500 + 100 * axes[0] + 50 * np.cos(9 * axes[1]), 0).astype(np.float32)
    image = nib.Nifti1Image(data, np.diag([14.0, 14.0, 14.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    content = image.to_bytes()
    for number in range(1, subjects + 1):
        folder = root / f"sub-{number:05d}" / "anat"
        folder.mkdir(parents=True)
        for entity, tesla in (("", 3), ("_acq-low", 0.064))[: 1 + low]:
            stem = f"sub-{number:05d}{entity}_T1w"
            (folder / f"{stem}.nii").write_bytes(content)
            (folder / f"{stem}.json").write_text(json.dumps({"MagneticFieldStrength": tesla}))


def stand_in(template: str) -> None:
    """Let `copy_first` do the work of each participant's process."""
    from h2lo_bids.cli import participant

    participant.PROCESS = "scale:copy_first"
    os.environ |= {"PYTHONPATH": f"{HERE}:{HERE.parent}", "H2LO_SCALE_TEMPLATE": template}


def copy_first(task, send):
    """Write the first subject's results under another name, and report them."""
    template, old, new = os.environ["H2LO_SCALE_TEMPLATE"], f"sub-{FIRST}", f"sub-{task.subject}"
    for folder, _, names in os.walk(f"{template}/{old}"):
        target = Path(str(task.settings.out_dir) + folder[len(template) :].replace(old, new))
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            text = Path(folder, name).read_bytes()
            if name.endswith((".json", ".svg")):
                text = text.replace(old.encode(), new.encode())
                text = text.replace(f'"{FIRST}"'.encode(), f'"{task.subject}"'.encode())
            Path(target, name.replace(old, new)).write_bytes(text)
    for step in ("brain", "prepare", "synthesize", "report"):
        send({"event": "step", "step": step})
        send({"event": "step", "step": step, "seconds": 0.1})
    from h2lo_bids.cli.execution import Outcome

    return Outcome(tuple(scan.relative_path for scan in task.found.scans), ())


def measure(code: str) -> tuple[float, float, float]:
    """Run code in a fresh process; give its time, processor time and peak of memory in MB."""
    command = [sys.executable, "-c", DRIVE.format(here=str(HERE), code=code)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    wall, seconds, peak = map(float, done.stderr.rpartition("MEASURED ")[2].split())
    return wall, seconds, peak


def make_group(out: Path, subjects: int) -> None:
    """Write a made-up cross-validation, as the report's tests do."""
    from group_samples import Sample
    from group_samples import make_group as make

    names = tuple(f"P{k:05d}" for k in range(subjects))
    make(out, Sample(subjects=names, methods=("h2lo",), folds=5))


def rehearse(
    root: Path, subjects: int, model: Path, cases: list[str]
) -> dict[str, tuple[float, float, float]]:
    """Measure every case with so many subjects."""
    bids, out, template = root / "bids", root / "out", root / "template"
    write_skeleton(bids, subjects)
    options = ["--model", f"T1w={model}", "--skull-strip", "skip", "--sloppy", "--nprocs", "8"]
    options += ["--omp-nthreads", "1", "--mem", "64"]
    words = [str(bids), str(out), "participant", *options]
    first = [str(bids), str(template), *words[2:], "--participant-label", FIRST]
    if "schedule" in cases:
        command = [sys.executable, "-m", "h2lo_bids.cli.run", *first]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def run(*more: str) -> str:
        return RUN.format(template=str(template), words=[*words, *more])

    group = [str(root / "paired"), str(root / "fits"), "group", "--skull-strip", "skip"]
    codes = {
        "index": run("--dry-run"),
        "pybids": PYBIDS.format(bids=str(bids)),
        "schedule": run(),
        "reports": run("--reports-only"),
        "divide": DIVIDE.format(words=words),
        "group": GROUP.format(out=str(root / "group")),
        "pairs": RUN.format(template=str(template), words=[*group, "--dry-run"]),
        "fits": DIVIDE.format(words=group),
    }
    if {"pairs", "fits"} & {*cases}:
        write_skeleton(root / "paired", subjects, low=True)
    found = {}
    for name in cases:
        if name == "group":
            make_group(root / "group", subjects)
        found[name] = measure(codes[name])
        wall, busy, peak = found[name]
        print(
            f"{subjects:6d} {name:9s} {wall:8.1f} s, busy {busy:7.1f} s {peak:6.0f} MB", flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="+", default=[250, 500, 1000, 2000])
    cases = ["index", "pybids", "schedule", "reports", "divide", "group", "pairs", "fits"]
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    options = parser.parse_args()
    sys.path += [str(path) for path in HERE.with_name("tests").rglob("*") if path.is_dir()]
    from heads import write_bundle

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = write_bundle(Path(folder) / "model", "T1w")
        found = {}
        for n in options.subjects:
            found[n] = rehearse(Path(folder) / str(n), n, model, options.cases)
            shutil.rmtree(Path(folder) / str(n))
    few, many = min(options.subjects), max(options.subjects)
    print(f"{'case':9s} {'busy ms per subject':>30s} {'grows as n^':>12s} {'peak':>9s}")
    for name in options.cases:
        per = " ".join(f"{1000 * found[n][name][1] / n:.1f}" for n in options.subjects)
        power = np.log(found[many][name][1] / found[few][name][1]) / np.log(many / few)
        peak = max(found[n][name][2] for n in options.subjects)
        verdict = "" if peak < LIMIT_MB else f"  above {LIMIT_MB} MB"
        print(f"{name:9s} {per:>30s} {power:12.2f} {peak:6.0f} MB{verdict}")
    print(f"in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
