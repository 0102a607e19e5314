"""Compare a GPU with the CPU, and run the long fits on it, in parts of at most eight minutes.

``python benchmarks/gpu.py PART OUT`` with a PART of

engine     the embedded model on a head of 1.5 million brain voxels: error, time and memory
training   the first steps of the default fit on both: the weights' difference, time and memory
paper      the paper's own protocol (whole volumes, float16) on the pairs of ``--pairs``
embedded   the fits of the embedded models from the label maps of ``--labels``

writes ``OUT/PART.json``. ``paper`` and ``embedded`` end with a checkpoint when their minutes are
over and go on with the same command. Pairs are ``*.npz`` with hf, lf and mask on one grid, of
which the last fifth validates; without ``--pairs`` simple ones are drawn. The pairs of
``embedded`` are simulated on the CPU first: ``python benchmarks/embedded.py --labels DIR --out
OUT/embedded --pairs-only``. ``--device cpu --scale 0.1`` rehearses all of it without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded import STEPS, embedded_options, train_embedded
from few_pairs import read_pair
from synthesis import head

from h2lo_bids.errors import TemporaryError
from h2lo_bids.models.bundle import default_bundle, load_bundle, load_model
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.options import EngineOptions, resolve_device
from h2lo_bids.training.experiments.site import finite
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import default_options, paper_options
from h2lo_bids.training.pairs import Pair
from h2lo_bids.vocabulary import CONTRASTS

Figures = dict[str, Any]


def measured(device: str, call: Callable[[], Any]) -> tuple[Any, Figures]:
    """Return what a call returns, its seconds, and the peak of memory on the device in MB."""
    kind = resolve_device(device)
    if kind.type == "cuda":
        torch.cuda.reset_peak_memory_stats(kind)
    begun = time.perf_counter()
    value = call()
    if kind.type == "cuda":
        torch.cuda.synchronize(kind)
        peak = torch.cuda.max_memory_allocated(kind) / 2**20
    else:  # of the process so far
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return value, {"seconds": round(time.perf_counter() - begun, 3), "peak_mb": round(peak)}


def engine(args: argparse.Namespace) -> Figures:
    """Evaluate the embedded model on the CPU in fp32, and on the device in both precisions."""
    volume, mask = head(args.scale)
    model, found = load_model(default_bundle("T1w")), {"brain_voxels": int(mask.sum())}
    exact, found["cpu fp32"] = measured("cpu", lambda: synthesize(model, volume, mask))
    for precision in ("fp32", "bf16"):
        options = EngineOptions(device=args.device, precision=precision)
        synthesize(model, volume, mask & False, options=options)
        made, figures = measured(
            args.device, lambda o=options: synthesize(model, volume, mask, options=o)
        )
        error = np.abs(made - exact)[mask].astype(np.float64)
        figures["largest_error"] = float(error.max())
        figures["psnr"] = float(-10 * np.log10(np.mean(error**2) + 1e-30))
        found[f"{args.device} {precision}"] = figures
    return found


def training(args: argparse.Namespace) -> Figures:
    """Take the same steps in fp32 on both; weights start and crops are drawn alike."""
    train, held = pairs_of(args)
    found: Figures = {}
    weights = {}
    for device in dict.fromkeys(("cpu", args.device)):
        options = default_options(len(train), device=device, steps=args.steps or 20)
        options = dataclasses.replace(options, precision="fp32")
        with tempfile.TemporaryDirectory() as folder:
            result, found[device] = measured(
                device, lambda o=options, f=Path(folder): fit(train, held, o, f, print)
            )
        found[device] |= {"steps": result.steps, "validation_psnr": finite(result.best_psnr)}
        weights[device] = torch.cat([v.flatten().cpu() for v in result.model.state_dict().values()])
    change = (weights["cpu"] - weights[args.device]).abs().max()
    return found | {"largest_difference_of_weights": float(change)}


def paper(args: argparse.Namespace) -> Figures:
    """Fit by the paper's protocol until its end, its steps or the minutes are over."""
    train, held = pairs_of(args)
    options = paper_options(len(train), device=args.device)
    folder, result = args.out / "paper", None
    with at_most(args.minutes):
        result, figures = measured(
            args.device, lambda: fit(train, held, options, folder, print, stop_at=args.steps)
        )
    if result is None:
        return {"of": options.steps, "done": False}
    figures |= {"steps": result.steps, "fit_seconds": result.seconds, "of": options.steps}
    figures |= {"validation_psnr": finite(result.best_psnr)}
    figures |= {"identity_psnr": finite(result.identity_psnr)}
    return figures | {"done": result.steps >= (args.steps or options.steps)}


def embedded(args: argparse.Namespace) -> Figures:
    """Fit the embedded models, one contrast after the other, until the minutes are over."""
    found, out = {}, args.out / "embedded"
    with at_most(args.minutes):
        for contrast in CONTRASTS:
            options = embedded_options(steps=args.steps or STEPS)
            options = dataclasses.replace(options, device=args.device)
            if not (out / f"h2lo_{contrast}").is_dir():
                train_embedded(args.labels, out, contrast, options)
            held = load_bundle(out / f"h2lo_{contrast}").metadata["held_out"]
            found[contrast] = held["mean"]
    return found | {"done": len(found) == len(CONTRASTS)}


@contextlib.contextmanager
def at_most(minutes: float) -> Iterator[None]:
    """Ask the fit inside to end with a checkpoint when the time is over."""
    timers = []

    def ask_in(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)))
        timers[-1].start()

    # A fit puts its own handler in place of this one, which asks again: an exception before the
    # fit begins would leave a module imported by half.
    before = signal.signal(signal.SIGTERM, lambda *_: ask_in(0.1))
    ask_in(60 * minutes)
    try:
        yield
    except TemporaryError as err:
        print(f"{err}; the same command goes on", flush=True)
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)


def pairs_of(args: argparse.Namespace) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and to validate on."""
    if args.pairs:
        found = [read_pair(path) for path in sorted(args.pairs.glob("*.npz"))]
    else:
        image, mask = head(args.scale)
        curves = (0.7 + 0.1 * n for n in range(5))
        found = [
            Pair(str(n), np.roll(image, n, 0), np.roll(image, n, 0) ** g, np.roll(mask, n, 0))
            for n, g in enumerate(curves)
        ]
    held = max(1, len(found) // 5)
    return found[:-held], found[-held:]


PARTS = {"engine": engine, "training": training, "paper": paper, "embedded": embedded}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one part and write its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("part", choices=PARTS)
    add("out", type=Path, help="receives PART.json, and the folders of the fits")
    add("--device", default="cuda", help="compared with the CPU (%(default)s)")
    add("--pairs", type=Path, help="folder of *.npz pairs, for training and paper")
    add("--labels", type=Path, help="folder of whole-head label maps, for embedded")
    add("--steps", type=int, help="stop at this step of a fit, or shorten it (default: its own)")
    add("--minutes", type=float, default=7.5, help="then end with a checkpoint (%(default)s)")
    add("--scale", type=float, default=1.0, help="of every side of the drawn head (%(default)s)")
    args = parser.parse_args(argv)
    if args.part == "embedded" and args.labels is None:
        parser.error("embedded needs --labels")
    args.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    record = {"part": args.part, "device": name, "torch": torch.__version__}
    record |= {"scale": args.scale} | PARTS[args.part](args)
    text = json.dumps(record, indent=2)
    (args.out / f"{args.part}.json").write_text(text + "\n")
    print(text, flush=True)


if __name__ == "__main__":
    main()
