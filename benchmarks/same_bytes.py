"""Compare, byte by byte, what two checkouts of this package write for the same small phantoms.

``python benchmarks/same_bytes.py BASE_CHECKOUT NEW_CHECKOUT OUT`` runs every level on simulated
people at 4 mm with a few optimiser steps, once with the code of each checkout (by ``PYTHONPATH``;
the interpreter is the one that runs this script), and prints each output file as ``same``,
``different`` or ``only in base`` (``new``). Both runs see the same paths, one after the other, and
models are given by ``--model``, so that a refitted embedded model makes no difference. The exit
code is 1 if a file differs. ``--only`` takes some of the steps (see `STEPS`), with those that
they need; what is in ``OUT/base`` is not made again, so that a later comparison with the same base
costs half the time. Not compared: logs of the runs, and what `VOLATILE` and `PATTERNS` name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PHANTOMS = {
    "site": ("--subjects", "4", "--contrast", "T1w", "--lf", "iso"),
    "person": ("--subjects", "1", "--seed", "9", "--lf", "axi", "cor", "sag"),
}
FEW = ("--folds", "2", "--val-count", "1", "--steps", "4", "--validate-every", "2", "--crop", "12",
       "--init", "none")  # fmt: skip
FEW_EPOCHS = ("--folds", "2", "--val-count", "1", "--schedule-factor", "0.005", "--features", "8")
STEPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "participant": (
        ("{person}", "participant", "participant", "--model", "T1w={h2lo_T1w}",
         "T2w={identity_T2w}", "--output-spaces", "model", "--lf-grid", "4x4x8",
         "--noise", "calibrated"),
    ),
    "pairs": (
        ("{person}", "pairs", "participant", "--pairs", "--resolution", "4", "--contrast", "T1w"),
    ),
    "group": (
        ("{site}", "group", "group", "--resolution", "4", *FEW),
        ("{site}", "alone", "group", "--resolution", "4", *FEW, "--folds", "0"),
        ("{site}", "applied", "participant", "--participant-label", "01", "--model",
         "{out}/group/models/h2lo_T1w", "--uncertainty", "--noise", "calibrated"),
    ),
    "benchmark": (
        ("{site}", "benchmark", "benchmark", "--resolution", "4", "--methods", "all", *FEW,
         "--external", "copy=cp {{input}} {{output}}"),
    ),
    "evaluate": (
        ("{site}", "evaluate", "evaluate", "--resolution", "4", "--model", "{h2lo_T1w}",
         "{identity_T1w}", "--realism-reference", "{lowfield}"),
    ),
    "enhance": (
        ("{site}", "cohort", "participant", "--participant-label", "01", "02", "03", "04",
         "--model", "{identity_T1w}"),
        ("{site2}", "enhance", "group", "--task", "enhance", "--resolution", "4", *FEW_EPOCHS,
         "--pretrain-derivatives", "{out}/cohort", "--model", "{identity_T1w}"),
        ("{site2}", "arms", "benchmark", "--resolution", "4", "--methods", "arnold", *FEW),
        ("{site2}", "arms", "benchmark", "--task", "enhance", "--resolution", "4", *FEW_EPOCHS,
         "--arms", "real", "flip-rotate", "arnold", "--cohort", "{out}/cohort"),
        ("{site2}", "enhanced", "participant", "--task", "enhance", "--participant-label", "11",
         "--model", "{out}/enhance/models/pfsr_T1w"),
    ),
}  # fmt: skip
"""Command lines: dataset, name of the output folder, level and options."""

VOLATILE = frozenset(
    {"software", "SoftwareVersions", "Version", "version", "seconds", "synthesis_seconds",
     "peak_memory_gb"}
)  # fmt: skip
"""JSON keys, at any depth, that hold versions or times."""
PATTERNS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?",
        r"H2LO-BIDS\*? [0-9.a-z+]+",
    )
)
"""Parts of texts that hold versions or times."""
SKIPPED = ("logs/*/*",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both checkouts and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    args = parser.parse_args(argv)
    out = args.out.resolve()
    inputs = make_phantoms(args.base.resolve(), out / "phantoms")
    models = args.base.resolve() / "h2lo_bids" / "data" / "models"
    inputs |= {folder.name: str(folder) for folder in models.iterdir()}
    for side, checkout in (("base", args.base), ("new", args.new)):
        run_steps(checkout.resolve(), out, side, args.only, inputs)
    return compare(out, args.only)


def make_phantoms(base: Path, folder: Path) -> dict[str, str]:
    """Simulate the datasets that are missing, and return their paths by name."""
    for name, options in PHANTOMS.items():
        if not (folder / name).is_dir():
            run_program(base, "h2lo-phantom", [str(folder / name), "--resolution", "4", *options])
    other = folder / "site2"
    if not other.is_dir():
        options = ("--subjects", "4", "--seed", "50", *PHANTOMS["site"][2:])
        run_program(base, "h2lo-phantom", [str(other), "--resolution", "4", *options])
    paths = {name: str(folder / name) for name in (*PHANTOMS, "site2")}
    lowfield = next((folder / "person").glob("sub-*/ses-LF/anat/*_T1w.nii.gz"))
    return {**paths, "lowfield": f"T1w={lowfield}"}


def run_steps(
    checkout: Path, out: Path, side: str, only: Sequence[str], inputs: dict[str, str]
) -> None:
    """Run the command lines of some steps with the code of a checkout."""
    if side == "new":
        shutil.rmtree(out / side, ignore_errors=True)
    running = out / "run"
    for step in only:
        kept = out / side / step
        if kept.is_dir():
            continue
        shutil.rmtree(running, ignore_errors=True)
        for dataset, name, *rest in STEPS[step]:
            values = {**inputs, "out": str(running)}
            words = [word.format(**values) for word in (dataset, f"{{out}}/{name}", *rest)]
            common = ["--nprocs", "1", "--omp-nthreads", "1", "-w", f"{running}/work"]
            if "participant" in words and "--pairs" not in words:
                common.append("--sloppy")
            began = time.monotonic()
            run_program(checkout, "h2lo", [*words, *common])
            print(f"{side} {step} {name}: {time.monotonic() - began:.0f} s", flush=True)
        shutil.rmtree(running / "work", ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        running.rename(kept)


def run_program(checkout: Path, name: str, words: Sequence[str]) -> None:
    """Run a console script of a checkout, and stop with what it printed if it fails."""
    scripts = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts[name].partition(":")
    code = f"import sys; from {module} import {function} as f; sys.exit(f())"
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} {' '.join(words)}\n{done.stdout}{done.stderr}: code {done.returncode}")


def compare(out: Path, only: Sequence[str]) -> int:
    """Print each file of both sides with a verdict; return 1 if any differs."""
    verdicts: dict[str, int] = {}
    for step in only:
        base, new = (out / side / step for side in ("base", "new"))
        for path in sorted({*files_of(base), *files_of(new)}):
            there = [(side / path).is_file() for side in (base, new)]
            if all(there):
                same = content(base / path) == content(new / path)
                verdict = "same" if same else "different"
            else:
                verdict = "only in base" if there[0] else "only in new"
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
            print(f"{verdict:12}  {step}/{path}")
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return int(set(verdicts) != {"same"})


def files_of(root: Path) -> Iterator[Path]:
    """Yield the files that are compared, relative to a folder."""
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        if path.is_file() and not any(relative.match(f"*/{skipped}") for skipped in SKIPPED):
            yield relative


def content(path: Path) -> Any:
    """Return what is compared of a file: its bytes, or for texts what should not change."""
    if path.suffix == ".json":
        return without_volatile(json.loads(path.read_text()))
    if path.suffix in (".md", ".html", ".bib", ".tex", ".txt", ".svg"):
        text = path.read_text()
        for pattern in PATTERNS:
            text = pattern.sub("", text)
        return text
    return path.read_bytes()


def without_volatile(value: Any) -> Any:
    """Drop versions and times from JSON values."""
    if isinstance(value, dict):
        return {k: without_volatile(v) for k, v in value.items() if k not in VOLATILE}
    return [without_volatile(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
