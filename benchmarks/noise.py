"""Measure what drawn noise and the folds' deviation are worth on held-out pairs.

Run ``python benchmarks/noise.py BUNDLE FOLDER --calibrate 13 14 --test 15 16``; FOLDER
holds ``subject_NN.npz`` with ``hf``, ``lf`` and ``mask`` on a 1 mm grid towards right,
anterior and superior. The model of BUNDLE must have seen none of these subjects.
One thread; about a minute per subject, and 2 GB, at 208x256x256.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from h2lo_bids.evaluation.metrics import METRICS, evaluate
from h2lo_bids.models.bundle import Bundle, load_bundle, load_model, members
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.noise import NoiseModel, add_noise
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import deviation_on_grid
from h2lo_bids.training.experiments.noise import calibrate_noise
from h2lo_bids.training.pairs import Pair

EDGES = np.array([0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
"""Borders of the rings of frequency in the tables, cycles per mm."""
DRAWS = 3
OPTIONS = EngineOptions(precision="bf16", threads=1)


def read(folder: Path, number: int, bundle: Bundle) -> tuple[Pair, np.ndarray]:
    with np.load(folder / f"subject_{number:02d}.npz") as held:
        pair = Pair(f"{number:02d}", held["hf"], held["lf"], held["mask"])
    image = synthesize(load_model(bundle), pair.hf, pair.mask, options=OPTIONS)
    return pair, np.clip(image, 0, 1)


def rings(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the power of an image inside a faded mask, in dB, ring by ring."""
    from scipy import fft, ndimage

    depth = ndimage.distance_transform_edt(mask)
    window = (0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / 6, 1))).astype(np.float32)
    mean = float((image * window).sum() / window.sum())
    power = np.abs(fft.rfftn((image - mean) * window)) ** 2 / float((window**2).sum())
    axes = [np.fft.fftfreq(n) ** 2 for n in image.shape[:2]]
    radius = np.sqrt(
        axes[0][:, None, None] + axes[1][:, None] + np.fft.rfftfreq(image.shape[2]) ** 2
    )
    ring = np.digitize(radius.ravel(), EDGES)
    sums, counts = (np.bincount(ring, w, len(EDGES) + 1) for w in (power.ravel(), None))
    return 10 * np.log10(sums[1:-1] / counts[1:-1])


def table(rows: dict[str, Sequence[float]], head: Sequence[str], digits: int) -> None:
    print(f"| {'':24} | " + " | ".join(f"{name:>9}" for name in head) + " |")
    print("|" + "---|" * (len(head) + 1))
    for name, values in rows.items():
        print(f"| {name:24} | " + " | ".join(f"{v:9.{digits}f}" for v in values) + " |")
    print(flush=True)


def draw(image: np.ndarray, mask: np.ndarray, model: NoiseModel, number: int) -> np.ndarray:
    return add_noise(image, mask, np.eye(4), model, seed=42, realisation=number)


def score(pair: Pair, image: np.ndarray, model: NoiseModel) -> None:
    """Print both tables of one subject."""
    lf, hf = pair.lf.astype(np.float32), pair.hf.astype(np.float32)
    scores: dict[str, dict[str, float]] = {"without noise": evaluate(image, lf, hf)}
    real = rings(lf, pair.mask)
    against, alone = {"without noise": rings(image, pair.mask) - real}, {}
    alone["real residual"] = rings(lf - image, pair.mask)
    draws = [draw(image, pair.mask, model, n) for n in range(1, DRAWS + 1)]
    each = [evaluate(one, lf, hf) for one in draws]
    scores["one draw"] = each[0]
    scores["mean score"] = {k: float(np.mean([e[k] for e in each])) for k in METRICS}
    scores["mean image"] = evaluate(np.mean(draws, axis=0), lf, hf)
    against["with noise"] = rings(draws[0], pair.mask) - real
    alone["drawn"] = rings(draws[0] - image, pair.mask)
    print(f"subject {pair.name}: metrics")
    table({name: [s[m] for m in METRICS] for name, s in scores.items()}, METRICS, 4)
    head = [f"<{edge:g}" for edge in EDGES[1:]]
    print("power of the image relative to the real scan, dB per ring (cycles/mm); last: mean |dB|")
    table({n: [*v, np.abs(v).mean()] for n, v in against.items()}, [*head, "mean"], 1)
    print("power of what was added, and of the real residual, dB")
    table({name: [*values] for name, values in alone.items()}, head, 1)


def spread(pair: Pair, image: np.ndarray, bundles: Sequence[Bundle]) -> None:
    """Compare the deviation over several models with the error of the image."""
    models = [load_model(b) for b in bundles] if len(bundles) > 1 else members(bundles[0])
    if len(models) < 2 or len({b.sha256 for b in bundles}) < len(bundles):
        return
    grid = (pair.hf.astype(np.float32), np.eye(4), pair.shape, np.eye(4), pair.mask)
    std = deviation_on_grid(models, *grid, options=OPTIONS)[pair.mask]
    error = np.abs(pair.lf.astype(np.float32) - image)[pair.mask]
    order = np.argsort(std)
    from scipy.stats import spearmanr

    few = np.random.default_rng(0).choice(len(std), min(len(std), 200_000), replace=False)
    rank = float(spearmanr(std[few], error[few]).statistic)
    print(
        f"subject {pair.name}: deviation over {len(models)} models: "
        f"r = {np.corrcoef(std, error)[0, 1]:.3f}, Spearman {rank:.3f}"
    )
    tenths = np.array_split(order, 10)
    head = [f"tenth {n}" for n in range(1, 11)]
    rms = [float(np.sqrt((error[t] ** 2).mean())) for t in tenths]
    table({"deviation": [float(std[t].mean()) for t in tenths], "rms error": rms}, head, 4)


def picture(path: Path, pair: Pair, image: np.ndarray, model: NoiseModel) -> None:
    """Save slices: high field, prediction, with noise, real."""
    from PIL import Image

    noisy = draw(image, pair.mask, model, 1)
    shown = [pair.hf.astype(np.float32), image, noisy, pair.lf.astype(np.float32)]
    cut = [np.argwhere(pair.mask).mean(axis=0).astype(int)[axis] for axis in range(3)]
    rows = []
    for axis in (2, 1):
        planes = [np.rot90(np.take(v, cut[axis], axis=axis)) for v in shown]
        rows.append(np.concatenate(planes, axis=1))
    data = np.clip(np.concatenate(rows) * 255 / 0.9, 0, 255).astype(np.uint8)
    Image.fromarray(data).resize((data.shape[1] * 2, data.shape[0] * 2)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calibrate", type=int, nargs="+", default=[13, 14])
    parser.add_argument("--test", type=int, nargs="+", default=[15, 16])
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="more bundles")
    parser.add_argument("--out", type=Path, help="folder for pictures and noise models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(args.bundle)
    pairs, images = zip(*[read(args.folder, n, bundle) for n in args.calibrate], strict=True)
    spacing = bundle.frame.spacing
    model = calibrate_noise(pairs, images, spacing=spacing)
    print(f"{len(json.dumps(model.to_dict()))} bytes")
    table({"deviation": model.deviations}, [f"{i:.2f}" for i in model.intensities], 4)
    for number in args.test:
        pair, image = read(args.folder, number, bundle)
        score(pair, image, model)
        spread(pair, image, [bundle, *(load_bundle(other) for other in args.others)])
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            picture(args.out / f"{bundle.contrast}_{number}.png", pair, image, model)


if __name__ == "__main__":
    main()
