"""Time the synthesis engine against the plain evaluation of the operator.

Run ``python benchmarks/synthesis.py`` on a quiet machine with 24 GB of memory;
``--scale 0.5`` halves every side and needs 3 GB. Only ratios within one run mean
anything. The engine runs in processes of its own, so that their memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from h2lo_bids.models.bundle import default_bundle, load_bundle, load_model
from h2lo_bids.models.h2lo import HALO, H2lo
from h2lo_bids.synthesis.engine import encoder_of, products_in_bfloat16, rows_of, synthesize
from h2lo_bids.synthesis.options import EngineOptions

CHUNK = 1 << 18
"""Rows of the naive trunk: all at once would need over 28 GB."""


def head(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Make a smooth, bumpy brain of 1.5 million voxels in 208x256x256 (at scale 1)."""
    shape = tuple(round(n * scale) for n in (208, 256, 256))
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    x, y, z = ((g / (n - 1) - 0.5) * 2 for g, n in zip(grid, shape, strict=True))
    radius = (x / 0.61) ** 2 + (y / 0.687) ** 2 + (z / 0.543) ** 2
    bumps = 0.10 * np.sin(7 * x + 3 * y) + 0.08 * np.sin(9 * y - 5 * z) + 0.06 * np.cos(8 * z * x)
    mask = radius + bumps < 1
    waves = np.sin(40 * x) * np.sin(35 * y + 1) * np.cos(45 * z) + np.sin(90 * x * y + 60 * z)
    return ((waves + 2) / 4 * mask).astype(np.float32), mask


def timed(call: Callable[[], object], repeats: int = 1) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def engine_only(args: argparse.Namespace) -> None:
    """Run the engine alone and say how long it took and what memory it had."""
    model = load_model(load_bundle(args.model) if args.model else default_bundle("T1w"))
    volume, mask = head(args.scale)
    options = EngineOptions(precision=args.engine, tile=args.tile)
    start, used = time.perf_counter(), time.process_time()
    out = synthesize(model, volume, mask, options=options)
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    np.save(args.out, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak}))


def run_engine(args: argparse.Namespace, precision: str) -> tuple[dict[str, float], np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npy"
        command = [sys.executable, __file__, "--engine", precision, "--out", str(out)]
        command += ["--scale", str(args.scale), "--tile", str(args.tile)]
        command += ["--model", args.model] if args.model else []
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1]), np.load(out)


def coordinates(shape: tuple[int, ...]) -> torch.Tensor:
    axes = [torch.linspace(-1, 1, n) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def naive(model: H2lo, volume: np.ndarray) -> np.ndarray:
    """Equation 1 on every voxel in plain PyTorch, the trunk in chunks."""
    features = model.encoder(torch.from_numpy(volume)[None, None])[0].flatten(1)
    points = coordinates(volume.shape)
    parts = []
    for start in range(0, len(points), CHUNK):
        block = slice(start, start + CHUNK)
        parts.append(model.decode(features[:, block].t(), points[block]))
    return torch.cat(parts).reshape(volume.shape).numpy()


def rates(model: H2lo) -> None:
    """Compare one core's branch and trunk with one core's matrix products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    volume = torch.rand(64, 64, 64).numpy()
    side, n = 40, 32768
    box = (slice(12, 12 + side),) * 3
    widths = [layer.weight[0].numel() * len(layer.weight) for layer in model.encoder.convolutions]
    grown = [(side + 2 * (HALO - i)) ** 3 for i in range(1, 6)]
    branch_work = 2.0 * sum(w * v for w, v in zip(widths, grown, strict=True))
    trunk_work = 2.0 * n * sum(p.numel() for p in model.trunk.parameters() if p.ndim == 2)
    points, ones = torch.rand(n, 3), torch.ones(n, 128)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.rand(2048, 2048).to(dtype)
        product = torch.empty_like(a)
        gemm = 2.0 * 2048**3 / timed(lambda a=a, o=product: torch.mm(a, a, out=o), 7)
        tiles = encoder_of(model.encoder, volume, cpu, dtype)
        rows = rows_of(model, volume.shape, cpu)
        with products_in_bfloat16(dtype is torch.bfloat16):
            branch = branch_work / timed(lambda t=tiles: t(box), 5)
            trunk = trunk_work / timed(lambda r=rows: r(points, ones), 5)
        print(
            f"{name}, one core: matrix product {gemm / 1e9:.0f} GFLOP/s, "
            f"branch {branch / gemm:.0%} of it, trunk with its sines {trunk / gemm:.0%}"
        )
    torch.set_num_threads(threads)


def report(args: argparse.Namespace) -> None:
    model = load_model(load_bundle(args.model) if args.model else default_bundle("T1w"))
    volume, mask = head(args.scale)
    sides = "x".join(map(str, volume.shape))
    print(f"{sides}, {mask.sum():,} brain voxels, {torch.get_num_threads()} threads")
    rates(model)
    engines = {precision: run_engine(args, precision) for precision in ("fp32", "bf16")}
    start, used = time.perf_counter(), time.process_time()
    whole = naive(model, volume)
    slow, slow_cpu = time.perf_counter() - start, time.process_time() - used
    print(f"naive whole volume: {slow:.1f} s ({slow_cpu:.1f} s of CPU)")
    for precision, (figures, out) in engines.items():
        error = np.abs(out - whole)[mask]
        psnr = -10 * np.log10(np.mean(error.astype(np.float64) ** 2))
        print(
            f"engine {precision}: {figures['seconds']:.2f} s ({figures['cpu']:.1f} s of CPU), "
            f"{slow / figures['seconds']:.1f} times faster "
            f"({slow_cpu / figures['cpu']:.1f} by CPU time), peak {figures['peak_mb']:.0f} MB, "
            f"largest error {error.max():.1e}, PSNR {psnr:.1f} dB"
        )
        print(f"  outside the brain: {np.count_nonzero(out[~mask])} voxels are not 0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of every side (default 1)")
    parser.add_argument("--model", help="a bundle of H2LO (default: the embedded one for T1w)")
    parser.add_argument("--tile", type=int, default=EngineOptions().tile)
    parser.add_argument("--engine", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with torch.inference_mode():
        if args.engine:
            engine_only(args)
        else:
            report(args)


if __name__ == "__main__":
    main()
