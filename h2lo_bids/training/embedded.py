"""Fit the models that come with the package: one command from label maps to bundles.

``python -m h2lo_bids.training.embedded --labels DIR --out DIR [--contrast T1w]``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.realism import scan_noise
from h2lo_bids.models.bundle import MEMBERS, Bundle, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.phantom.pairs import simulate_axial_scan
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.card import build_card, build_metadata
from h2lo_bids.training.devices import keep_freed_memory
from h2lo_bids.training.experiments.heldout import held_out_figures, predict_pair
from h2lo_bids.training.experiments.noise import calibrate_noise
from h2lo_bids.training.fit import FitResult, fit
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, training_range
from h2lo_bids.training.simulated import (
    FRAME_SHAPE,
    SPACING,
    Numbered,
    Simulation,
    Split,
    read_pairs,
    simulated_pairs,
    split_labels,
)
from h2lo_bids.vocabulary import CONTRASTS, Say

SOURCE = "SynthSeg training label maps, github.com/BBillot/SynthSeg"
LICENCE = "Apache-2.0"
PAIR_SEED = 1000
"""Added to a label map's number: the pairs stay the same when the fit's seed changes."""
STEPS = 4000
TRAIN, VALIDATE = Simulation(variants=4, inputs=6), Simulation(inputs=3)
TEST = Simulation(inputs=3, scaling="max", distorted=True)
"""Scored as the paper does: images divided by their maximum, the model's input scaled anew."""

Parts = tuple[list[Pair], list[Pair], list[Pair]]


def embedded_options(seed: int = 42, steps: int = STEPS, precision: str = "bf16") -> FitOptions:
    """Return the options of an embedded model.

    Chosen for one CPU core that multiplies in bfloat16 (half a second per step): four crops
    of 24 voxels at one place of the frame share a pass of the trunk, which costs more than
    the branch there. The rate is three times the paper's, for fewer steps.
    """
    return FitOptions(
        steps=steps,
        learning_rate=3e-4,
        floor=1e-6,
        warmup=min(50, steps // 10),
        crop=24,
        batch=4,
        seed=seed,
        precision=precision,
        average=0.99,
        validate_every=min(400, steps),
        checkpoint_every=50,
        validation_crops=96,
        augmentation=Augmentation(
            flip=0.5, shift=4, scale=0.05, gamma=0.35, bias=0.1, noise=0.02, outliers=0.001
        ),
        scaling="robust",
    )


def train_embedded(
    labels: Path,
    out: Path,
    contrast: str,
    options: FitOptions,
    *,
    members: int = 0,
    stop_at: int | None = None,
    say: Say = print,
) -> Bundle | None:
    """Simulate pairs, fit, score on held-out people and write the bundle."""
    work = out / "work" / contrast
    split = split_labels(labels)
    parts = pairs_of_split(split, out, (contrast,), say)[contrast]
    plans = [options] + [
        dataclasses.replace(options, seed=options.seed + n, steps=max(1, options.steps // 2))
        for n in range(1, members + 1)
    ]
    folders = [work, *(work / f"member-{n}" for n in range(1, members + 1))]
    results = [
        fit(parts[0], parts[1], plan, folder, say, stop_at=stop_at)
        for plan, folder in zip(plans, folders, strict=True)
    ]
    if any(r.steps < plan.steps for r, plan in zip(results, plans, strict=True)):
        say(f"stopped after step {results[0].steps} of {options.steps}; run again to go on")
        return None
    best = results[0]
    say(f"best validation at step {best.best_step}: {best.best_psnr:.2f} dB; scoring")
    held_out = held_out_figures(
        best.model, parts[2], given=lambda pair: pair.scaled(options.scaling, contrast, SPACING)
    )
    # Scaled already; a fifth of the pairs, each person's and each scanner's among them.
    ranges = training_range(parts[0][::5], contrast, SPACING, scaling="max")
    (work / "held_out.json").write_text(json.dumps(held_out, indent=2) + "\n")
    noise = _noise(best, parts[1], split.validation, contrast)
    training = _describe(contrast, split, options, best, members)
    bundle = save_bundle(
        out / f"h2lo_{contrast}",
        best.model,
        contrast=contrast,
        frame=Frame(shape=FRAME_SHAPE, anchor="brain"),
        metadata=build_metadata(contrast, training, held_out)
        | {"noise": noise, "input_range": ranges},
        card=build_card(contrast, training, held_out),
        extras={
            f"{MEMBERS}/{n}.safetensors": _weights(result) for n, result in enumerate(results)
        } if members else None,
    )  # fmt: skip
    say(f"wrote {bundle.path}; its figures are in {work / 'held_out.json'}")
    return bundle


def pairs_of_split(split: Split, out: Path, contrasts: Sequence[str], say: Say) -> dict[str, Parts]:
    """Return the pairs to train, validate and test on, per contrast; simulate what is missing."""

    def pairs(maps: Sequence[Numbered], how: Simulation) -> dict[str, list[Pair]]:
        files = simulated_pairs(
            maps, how, contrasts=contrasts, seed=PAIR_SEED, cache=out / "work" / "pairs",
            progress=say,
        )  # fmt: skip
        return {contrast: read_pairs(paths) for contrast, paths in files.items()}

    parts = (
        pairs(split.train, TRAIN), pairs(split.validation, VALIDATE), pairs(split.test, TEST)
    )  # fmt: skip
    return {c: (parts[0][c], parts[1][c], parts[2][c]) for c in contrasts}


def _noise(
    result: FitResult, pairs: Sequence[Pair], maps: Sequence[Numbered], contrast: str
) -> dict[str, Any]:
    """Measure the noise of the target, and of one scan, on the validation people."""
    one = pairs[:: VALIDATE.inputs]
    predicted = [predict_pair(result.model, pair) for pair in one]
    axial = (simulate_axial_scan(path, contrast=contrast, seed=PAIR_SEED + n) for n, path in maps)
    scans = [[scan_noise(image, mask)] for image, mask in axial]
    return calibrate_noise(one, predicted, spacing=SPACING, scans=scans).to_dict()


def _weights(result: FitResult) -> bytes:
    import safetensors.torch

    state = {k: v.detach().float().contiguous() for k, v in result.model.state_dict().items()}
    return safetensors.torch.save(state)


def _describe(
    contrast: str, split: Split, options: FitOptions, result: FitResult, members: int
) -> dict[str, Any]:
    return {
        "source": SOURCE,
        "licence": LICENCE,
        "subjects": {
            part: [path.name for _, path in getattr(split, part)]
            for part in ("train", "validation", "test")
        },
        "pair_seed": PAIR_SEED,
        "simulation": dataclasses.asdict(TRAIN),
        "members": members,
        "seed": options.seed,
        "options": options.to_dict(),
        "steps": result.steps,
        "best_step": result.best_step,
        "best_psnr": result.best_psnr,
        "identity_psnr": result.identity_psnr,
        "seconds": result.seconds,
        "command": (
            f"python -m h2lo_bids.training.embedded --labels DIR --out DIR "
            f"--contrast {contrast} --steps {options.steps} --members {members} "
            f"--threads {torch.get_num_threads()} --seed {options.seed} "
            f"--precision {options.precision}"
        ),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m h2lo_bids.training.embedded")
    parser.description = "Fit the embedded models on pairs simulated from whole-head label maps."
    add = parser.add_argument
    add("--labels", type=Path, required=True, help="folder of *.nii.gz label maps, FreeSurfer ids")
    add("--out", type=Path, required=True, help="receives the bundles and the work folder")
    add("--contrast", choices=CONTRASTS, help="default: both, one after the other")
    add("--steps", type=int, default=STEPS, help="optimiser steps (%(default)s)")
    add("--members", type=int, default=0, help="further models for --uncertainty (%(default)s)")
    add("--pairs-only", action="store_true", help="simulate the pairs and stop")
    add("--max-steps", type=int, help="stop at this step; run again to go on")
    add("--threads", type=int, default=1, help="CPU threads; they decide the last bits (1)")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="in training (%(default)s)")
    add("--seed", type=int, default=42, help="of weights and draws (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        contrasts = (args.contrast,) if args.contrast else CONTRASTS
        pairs_of_split(split_labels(args.labels), args.out, contrasts, say)
        for contrast in () if args.pairs_only else contrasts:
            options = embedded_options(args.seed, args.steps, args.precision)
            train_embedded(
                args.labels, args.out, contrast, options, members=args.members,
                stop_at=args.max_steps, say=say,
            )  # fmt: skip
    except H2loError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
