"""Compare, byte by byte, what two checkouts of this package write for the same small phantoms.

``python benchmarks/same_bytes.py BASE_CHECKOUT NEW_CHECKOUT OUT`` runs every level on simulated
people at 4 mm with a few optimiser steps, once with the code of each checkout (by ``PYTHONPATH``;
the interpreter is the one that runs this script), and prints each output file as ``same``,
``different`` or ``only in base`` (``new``). Both runs see the same paths, one after the other, and
models are given by ``--model``, so that a refitted embedded model makes no difference. The exit
code is 1 if a file differs. ``--only`` takes some of the steps: group stands alone, benchmark and
evaluate follow it, enhance follows participant, group and benchmark. ``OUT/base`` is made once, so
that a later comparison with the same base and steps costs half the time. Not compared: logs of
the runs, and what `VOLATILE` and `PATTERNS` name.
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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

PHANTOMS = {
    "site": ("--subjects", "4", "--contrast", "T1w", "--lf", "iso"),
    "people": ("--subjects", "6", "--seed", "9", "--lf", "axi", "cor", "sag"),
}
OTHERS = ("--participant-label", "05", "06")
"""People whose labels the site does not have, as no cohort may hold one of its subjects."""
FEW = ("--resolution", "4", "--folds", "2", "--val-count", "1")
FIT = (*FEW, "--steps", "4", "--validate-every", "2", "--crop", "12", "--init", "none")
ENHANCE = (*FEW, "--task", "enhance", "--schedule-factor", "0.005", "--features", "8")
STEPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "participant": (
        ("people", "people", "participant", *OTHERS, "--model", "T1w={h2lo_T1w}",
         "T2w={identity_T2w}", "--lf-grid", "4x4x8", "--precision", "fp32"),
    ),
    "pairs": (
        ("people", "pairs", "participant", "--pairs", "--resolution", "4", "--contrast", "T1w",
         "--participant-label", "05"),
    ),
    "group": (
        ("site", "site", "group", *FIT),
        ("site", "applied", "participant", "--participant-label", "01", "--model",
         "{run}/site/models/h2lo_T1w", "--output-spaces", "model", "--uncertainty",
         "--noise", "calibrated", "--precision", "fp32"),
    ),
    "benchmark": (
        ("site", "site", "benchmark", *FIT, "--method", "all", "--external",
         "copy=cp {{input}} {{output}}"),
    ),
    "evaluate": (
        ("site", "site", "evaluate", "--resolution", "4", "--model", "{h2lo_T1w}",
         "--realism-reference", "{lowfield}"),
    ),
    "enhance": (
        ("site", "site", "group", *ENHANCE, "--pretrain-derivatives", "{run}/people",
         "--model", "{h2lo_T1w}"),
        ("site", "site", "benchmark", *ENHANCE, "--arm", "real", "flip-rotate", "curve"),
        ("site", "enhanced", "participant", "--task", "enhance", "--participant-label", "01",
         "--model", "{run}/site/models/pfsr_T1w", "--precision", "fp32"),
    ),
}  # fmt: skip
"""Command lines: phantom, name of the output folder, level and options."""

VOLATILE = frozenset(
    {"software", "SoftwareVersions", "Version", "version", "seconds", "synthesis_seconds",
     "peak_memory_gb", "pairs_fingerprint", "fingerprint", "job"}
)  # fmt: skip
"""JSON keys, at any depth, that hold versions, times, or digests which name what was done."""
PATTERNS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?",
        r"H2LO-BIDS\*? [0-9.a-z+]+",
        r"-?\d[\d.]*",
    )
)
"""Parts of texts that hold versions or times: all their numbers, which the tables hold as well."""


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
    names = dict.fromkeys(line[1] for step in args.only for line in STEPS[step])
    shutil.rmtree(out / "new", ignore_errors=True)
    for side, checkout in (("base", args.base), ("new", args.new)):
        if not (out / side).is_dir():
            run_steps(checkout.resolve(), out, args.only, inputs)
            (out / "run").rename(out / side)
    return compare(out, names)


def make_phantoms(base: Path, folder: Path) -> dict[str, str]:
    """Simulate the datasets that are missing, and return their paths by name."""
    for name, options in PHANTOMS.items():
        if not (folder / name).is_dir():
            run_program(base, "h2lo-phantom", [str(folder / name), "--resolution", "4", *options])
    lowfield = next((folder / "people").glob("sub-*/ses-LF/anat/*_T1w.nii.gz"))
    return {name: str(folder / name) for name in PHANTOMS} | {"lowfield": f"T1w={lowfield}"}


def run_steps(checkout: Path, out: Path, only: Sequence[str], inputs: dict[str, str]) -> None:
    """Run the command lines of some steps with the code of a checkout, in ``OUT/run``."""
    run = out / "run"
    shutil.rmtree(run, ignore_errors=True)
    for dataset, name, *rest in (line for step in only for line in STEPS[step]):
        words = [word.format(**inputs, run=run) for word in rest]
        how = ["--nprocs", "1", "--omp-nthreads", "1", "-w", str(out / "work")]
        if "participant" in words and not {"--pairs", "enhance"} & {*words}:
            how.append("--sloppy")
        began = time.monotonic()
        run_program(checkout, "h2lo", [inputs[dataset], str(run / name), *words, *how])
        print(f"{checkout.name} {name} {words[0]}: {time.monotonic() - began:.0f} s", flush=True)
    shutil.rmtree(out / "work")


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


def compare(out: Path, names: Iterable[str]) -> int:
    """Print each file of both sides with a verdict; return 1 if any differs."""
    verdicts: Counter[str] = Counter()
    for name in names:
        base, new = (out / side / name for side in ("base", "new"))
        for path in sorted({*files_of(base), *files_of(new)}):
            there = [(side / path).is_file() for side in (base, new)]
            if all(there):
                same = content(base / path) == content(new / path)
                verdict = "same" if same else "different"
            else:
                verdict = "only in base" if there[0] else "only in new"
            verdicts[verdict] += 1
            print(f"{verdict:12}  {name}/{path}")
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return int(set(verdicts) != {"same"})


def files_of(root: Path) -> Iterator[Path]:
    """Yield the files that are compared, relative to a folder."""
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        of_a_run = relative.parts[0] == "logs" and len(relative.parts) > 2
        if path.is_file() and not of_a_run:
            yield relative


def content(path: Path) -> Any:
    """Return what is compared of a file: its bytes, or for texts what should not change."""
    if path.suffix == ".json":
        return without_volatile(json.loads(path.read_text()))
    if path.suffix in (".tsv", ".csv"):
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str)
        return table.loc[:, ~table.columns.str.contains("seconds|peak_memory")].to_csv()
    if path.suffix in (".md", ".html", ".bib", ".tex", ".txt"):
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
