"""Measure how fitting behaves: the protocols, the memory, the number of pairs.

``python benchmarks/training.py protocol PAIRS --factor 4 --out FILE.tsv`` and the like;
PAIRS is a folder of ``*.npz`` (hf, lf, mask), or of a group run with its prepared
pairs. Seconds are those of the CPU on one thread, so that other work on the machine
does not count; compare figures of one machine only.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training import fit as fitting
from h2lo_bids.training.devices import keep_freed_memory
from h2lo_bids.training.options import FitOptions, default_options, paper_options
from h2lo_bids.training.pairs import Pair, PairFiles
from h2lo_bids.training.validation import Validation

COLUMNS = ("arm", "pairs", "step", "cpu_seconds", "volume_psnr", "brain_psnr", "part", "peak_mb")


def coarsen(pair: Pair, factor: int) -> Pair:
    """Average blocks of voxels, and normalise again."""
    if factor == 1:
        return pair
    sides = tuple(n // factor for n in pair.shape)
    cut = tuple(slice(0, n * factor) for n in sides)

    def blocks(volume: np.ndarray) -> np.ndarray:
        x, y, z = sides
        whole = volume[cut].astype(np.float32)
        return whole.reshape(x, factor, y, factor, z, factor).mean((1, 3, 5))

    mask = blocks(pair.mask) >= 0.5
    hf, lf = (np.where(mask, blocks(v), 0) for v in (pair.hf, pair.lf))
    return Pair(pair.name, hf / hf.max(), lf / lf.max(), mask)


def read_pairs(folder: Path, contrast: str, factor: int) -> list[Pair]:
    files = [PairFiles(p.stem, p) for p in sorted(folder.glob("*.npz"))]
    if not files:
        from h2lo_bids.training.prepared import find_prepared

        found = find_prepared(folder, contrast=contrast)
        files = [PairFiles(p.name or p.subject, p.hf, p.lf, p.mask) for p in found]
    return [coarsen(f.read(), factor) for f in files]


def figures(model: H2lo | None, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the mean whole-volume and brain PSNR of the products, in float32."""
    options, found = EngineOptions(device="cpu"), []
    for pair in pairs:
        made = pair.hf if model is None else synthesize(model, pair.hf, pair.mask, options=options)
        made, target = made.astype(np.float32).clip(0, 1), pair.lf.astype(np.float32)
        found.append((psnr(made, target), psnr(made, target, pair.mask)))
    volume, brain = np.mean(found, 0)
    return float(volume), float(brain)


def fit_measured(
    train: Sequence[Pair],
    held: Sequence[Pair],
    options: FitOptions,
    every: int,
    say: Callable[[int, float, H2lo], None],
) -> None:
    """Fit, and call `say(step, CPU seconds, model)` every so often, which does not count."""
    begun, paused = 0.0, 0.0

    class Meter(Validation):
        """Stands in for the fit's own validation, the same for every protocol."""

        def parts(self, model, share=None):  # type: ignore[no-untyped-def]
            nonlocal begun, paused
            now = time.process_time()
            if model is None:
                begun = now
                return 0.0, 1.0
            steps.append(1 if not steps else min(options.steps, len(steps) * every))
            say(steps[-1], now - begun - paused, model)
            paused += time.process_time() - now
            return 0.0, 1.0

    steps: list[int] = []
    options = dataclasses.replace(
        options, validate_first=1, validate_every=every, checkpoint_every=options.steps, patience=0
    )
    before, fitting.Validation = fitting.Validation, Meter  # type: ignore[misc]
    folder = Path(tempfile.mkdtemp(prefix="fit"))
    try:
        fitting.fit(train, held, options, folder, lambda line: None)
    finally:
        fitting.Validation = before  # type: ignore[misc]
        shutil.rmtree(folder, ignore_errors=True)


def arm_options(name: str, n_train: int, steps: int, changes: dict) -> FitOptions:
    """Return the options of an arm: a protocol's, at `steps` steps."""
    if name == "default":
        options = default_options(n_train, device="cpu", steps=steps)
    else:
        options = paper_options(n_train, device="cpu", epochs=-(-steps // n_train))
        options = dataclasses.replace(options, steps=steps)
    if name == "control":
        # The paper's sampling with the default's rate, precision and average.
        ours = default_options(n_train, device="cpu", steps=steps)
        kept = ("learning_rate", "floor", "warmup", "rate_steps", "precision", "average")
        options = dataclasses.replace(options, **{k: getattr(ours, k) for k in kept})
    return dataclasses.replace(options, **changes)


def measure_protocol(args: argparse.Namespace) -> None:
    pairs = read_pairs(args.pairs, args.contrast, args.factor)
    train, held, test = divide(pairs, args)
    for part, some in (("validation", held), ("test", test)):
        write(args.out, "identity", len(train), 0, 0.0, figures(None, some), part)
    label = args.label or args.arm
    options = arm_options(args.arm, len(train), args.steps, json.loads(args.changes))
    print(json.dumps(options.to_dict()), flush=True)

    def say(step: int, seconds: float, model: H2lo) -> None:
        write(args.out, label, len(train), step, seconds, figures(model, held), "validation")
        if step == options.steps:
            write(args.out, label, len(train), step, seconds, figures(model, test), "test")

    fit_measured(train, held, options, args.every, say)


def measure_pairs(args: argparse.Namespace) -> None:
    train, held, test = divide(read_pairs(args.pairs, args.contrast, args.factor), args)
    for count in args.counts:
        options = arm_options("default", count, args.steps, json.loads(args.changes))

        def say(step: int, seconds: float, model: H2lo, count: int = count) -> None:
            for part, some in (("validation", held), ("test", test)):
                write(args.out, "default", count, step, seconds, figures(model, some), part)

        fit_measured(train[:count], held, options, args.every, say)


def measure_memory(args: argparse.Namespace) -> None:
    """Fit on the pairs as they are, in a process of its own, which says its peak."""
    from h2lo_bids.training.launch import FitSpec, write_spec

    files = [PairFiles(p.stem, p) for p in sorted(args.pairs.glob("*.npz"))]
    train, held = files[: args.train], files[args.train : args.train + args.validation]
    options = arm_options("default", len(train), args.steps, json.loads(args.changes))
    options = dataclasses.replace(options, validate_every=max(1, args.steps // 2))
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.json"
        work = Path(folder) / "work"
        write_spec(spec, FitSpec(tuple(train), tuple(held), options, work, work / "pairs", None, 1))
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "h2lo_bids.training.launch", str(spec)], check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime
    nothing = (float("nan"),) * 2
    write(args.out, "memory", len(train), args.steps, seconds, nothing, "", used.ru_maxrss / 1024)


def divide(
    pairs: list[Pair], args: argparse.Namespace
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    a, b = args.train, args.train + args.validation
    return pairs[:a], pairs[a:b], pairs[b : b + args.test]


def write(
    out: Path, arm: str, pairs: int, step: int, seconds: float, found: tuple[float, float],
    part: str, peak: float = float("nan"),
) -> None:  # fmt: skip
    new = not out.exists()
    row = (arm, pairs, step, f"{seconds:.1f}", *(f"{f:.3f}" for f in found), part, f"{peak:.0f}")
    with out.open("a", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)
    print(*row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, action, steps in (
        ("protocol", measure_protocol, 600), ("memory", measure_memory, 6),
        ("pairs", measure_pairs, 1000),
    ):  # fmt: skip
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        add = command.add_argument
        add("pairs", type=Path, help="folder of *.npz, or of a group run")
        add("--contrast", default="T1w", help="of a group run's pairs (%(default)s)")
        add("--out", type=Path, required=True, help="rows are appended to this TSV")
        add("--factor", type=int, default=1, help="average blocks of so many voxels a side")
        add("--train", type=int, default=12, help="the first so many pairs (%(default)s)")
        add("--validation", type=int, default=2, help="the next so many (%(default)s)")
        add("--test", type=int, default=2, help="the next so many (%(default)s)")
        add("--steps", type=int, default=steps, help="optimiser steps (%(default)s)")
        add("--every", type=int, default=50, help="steps between measurements (%(default)s)")
        add("--changes", default="{}", help="options to change, as JSON")
        if name == "protocol":
            add("--arm", choices=("default", "paper", "control"), default="default")
            add("--label", help="name of the arm in the table, where it was changed")
        if name == "pairs":
            add("--counts", type=int, nargs="+", default=[1, 3, 6, 12], help="training pairs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.action(args)


if __name__ == "__main__":
    main()
