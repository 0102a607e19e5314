"""Fit the models that come with the package: one command from label maps to bundles.

``python benchmarks/embedded.py --labels DIR --out DIR [--contrast T1w]``
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from training_pairs import FRAME_SHAPE, simulate_axial_scan, simulate_training_pairs

from h2lo_bids.errors import BadDataError, H2loError, MissingInputError
from h2lo_bids.evaluation.metrics import METRICS, evaluate
from h2lo_bids.evaluation.realism import scan_noise
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.evaluation.statistics import Summary
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.imaging.normalise import max_normalise, scale_brain
from h2lo_bids.imaging.profile import ranges_of
from h2lo_bids.io import atomic_path, write_json
from h2lo_bids.models.bundle import MEMBERS, Bundle, save_bundle, weights_file
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.registry import Model
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.training.devices import keep_freed_memory
from h2lo_bids.training.experiments.heldout import Figures, predict_pair
from h2lo_bids.training.experiments.noise import calibrate_noise
from h2lo_bids.training.experiments.site import render_card, software, varied
from h2lo_bids.training.fit import FitResult, fit
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, measure_pair
from h2lo_bids.vocabulary import CONTRASTS, Say

SOURCE = "SynthSeg training label maps, github.com/BBillot/SynthSeg"
LICENCE = "Apache-2.0"
PAIR_SEED = 1000
"""Added to a label map's number: the pairs stay the same when the fit's seed changes."""
STEPS = 3500
SPACING = (1.0, 1.0, 1.0)

USE = (
    "Research and teaching: simulating what a 64 mT scan of a brain would look like from its "
    "3 T scan, to plan studies, test pipelines and augment training data."
)
LIMITS = (
    "Trained on simulated pairs, never on a real low-field scan: its contrast, noise and blur "
    "are those of the simulation, which was calibrated with the figures that the paper gives of "
    "ds006557. White-matter lesions as in the label maps (0.7 to 45 ml) were simulated; no "
    "tumour, infarct, haemorrhage or placed plaque was. The output is a conditional median, "
    "smoother than a real scan: add `--noise calibrated` for its noise. Not for diagnosis."
)

Numbered = tuple[int, Path]
"""A label map and its place in the sorted folder, from 1."""
Split = dict[str, list[Numbered]]
"""Label maps by their part in a fit; no person is in two parts."""


@dataclass(frozen=True)
class Simulation:
    """How often each person of a part of the split is simulated."""

    variants: int = 1  # persons per label map, each of another warp, tissue draw and LF scans
    inputs: int = 1  # HF scanners per variant, of one LF target; the first is the calibrated site
    scaling: str = "robust"  # of the HF images
    # Whether the LF images are distorted and misregistered as real ones are. A model that
    # learns from such pairs blurs its output by what it cannot know.
    distorted: bool = False


SIMULATIONS = {
    "train": Simulation(variants=4, inputs=6),
    "validation": Simulation(inputs=3),
    # Scored as the paper does: images divided by their maximum, the model's input scaled anew.
    "test": Simulation(inputs=3, scaling="max", distorted=True),
}


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
            flip=0.5, shift=4, scale=0.05, gamma=0.45, bias=0.1, noise=0.02, outliers=0.001
        ),
        scaling="robust",
    )


def split_labels(folder: Path) -> Split:
    """Divide a folder's label maps: the last eighth tests, the one before validates."""
    found = list(enumerate(sorted(folder.glob("[!.]*.nii.gz")), 1))
    if len(found) < 3:
        raise MissingInputError(
            f"{folder}: {len(found)} label maps (*.nii.gz) found, at least 3 are needed to "
            "train, validate and test on different people"
        )
    part = max(1, len(found) // 8)
    return {
        "train": found[: -2 * part],
        "validation": found[-2 * part : -part],
        "test": found[-part:],
    }


def pairs_of_split(
    split: Split, out: Path, contrasts: Sequence[str], say: Say
) -> dict[str, dict[str, list[Pair]]]:
    """Return the pairs of each contrast and part; those that are not kept yet are simulated."""
    cache = out / "work" / "pairs"
    found: dict[str, dict[str, list[Pair]]] = {c: {part: [] for part in split} for c in contrasts}
    for part, maps in split.items():
        how = SIMULATIONS[part]
        kind = f"{how.scaling}-{how.inputs}{'-distorted' if how.distorted else ''}"
        for variant, (number, path) in itertools.product(range(how.variants), maps):
            person = PAIR_SEED + 100 * variant + number
            name = f"{path.name.split('.')[0]}_seed-{person}_{kind}.npy"
            missing = {c: cache / c / name for c in contrasts if not (cache / c / name).exists()}
            if missing:  # all contrasts of a person are simulated at once
                _simulate(path, person, missing, how)
                say(f"simulated {', '.join(missing)} of {path.name}, seed {person}")
            for contrast in contrasts:
                found[contrast][part] += _read_pairs(cache / contrast / name)
    return found


def _simulate(labels: Path, seed: int, kept: dict[str, Path], how: Simulation) -> None:
    """Write for each contrast the target, the mask and the inputs in half precision."""
    pairs = simulate_training_pairs(
        labels, contrasts=tuple(kept), seed=seed, inputs=how.inputs, distorted=how.distorted
    )
    for contrast, path in kept.items():
        pair = pairs[contrast]
        scaled = [
            scale_brain(hf, pair.mask, SPACING, contrast=contrast, scaling=how.scaling).volume
            for hf in pair.inputs
        ]
        volumes = np.stack([max_normalise(pair.lf, pair.mask), pair.mask, *scaled])
        with atomic_path(path) as partial, partial.open("wb") as stream:
            # Half precision keeps three decimals of [0, 1], finer than the noise.
            np.save(stream, volumes.astype(np.float16))


def _read_pairs(path: Path) -> list[Pair]:
    """Map the pairs of a file into memory, one per input."""
    try:
        lf, mask, *inputs = np.lib.format.open_memmap(path, mode="r")
        brain = np.asarray(mask) > 0
        return [Pair(f"{path.stem}_{n}", hf, lf, brain) for n, hf in enumerate(inputs, 1)]
    except (OSError, ValueError, TokenError) as err:  # numpy parses a header
        raise BadDataError(f"{path}: cannot read this pair ({err}); remove it") from err


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
    pairs = pairs_of_split(split, out, (contrast,), say)[contrast]
    half = dataclasses.replace(options, steps=max(1, options.steps // 2))
    plans = {work: options} | {
        work / f"member-{n}": dataclasses.replace(half, seed=options.seed + n)
        for n in range(1, members + 1)
    }
    results = [
        fit(pairs["train"], pairs["validation"], plan, folder, say, stop_at=stop_at)
        for folder, plan in plans.items()
    ]
    best = results[0]
    if any(r.steps < plan.steps for r, plan in zip(results, plans.values(), strict=True)):
        say(f"stopped after step {best.steps} of {options.steps}; run again to go on")
        return None
    say(f"best validation at step {best.best_step}: {best.best_psnr:.2f} dB; scoring")
    held_out = _held_out(best.model, pairs["test"], contrast, options.scaling)
    write_json(work / "held_out.json", held_out)
    # Scaled already; a fifth of the pairs, each person's and each scanner's among them.
    measured = [measure_pair(pair, contrast, SPACING, "max") for pair in pairs["train"][::5]]
    metadata = _metadata(contrast, split, options, best, members) | {
        "held_out": held_out,
        "noise": _noise(best, pairs["validation"], split["validation"], contrast),
        "input_range": ranges_of(*zip(*measured, strict=True)),
    }
    bundle = save_bundle(
        out / f"h2lo_{contrast}",
        best.model,
        contrast=contrast,
        frame=Frame(shape=FRAME_SHAPE, anchor="brain"),
        metadata=metadata,
        card=_card(contrast, metadata, best),
        extras={
            f"{MEMBERS}/{n}.safetensors": weights_file(r.model) for n, r in enumerate(results)
        } if members else None,
    )  # fmt: skip
    say(f"wrote {bundle.path}; its figures are in {work / 'held_out.json'}")
    return bundle


def _held_out(
    model: Model, pairs: Sequence[Pair], contrast: str, scaling: str
) -> dict[str, dict[str, Figures]]:
    """Score a model on pairs it has not seen; those given are divided by their maximum."""
    found: dict[str, dict[str, Figures]] = {}
    for pair in pairs:
        given = pair.scaled(scaling, contrast, SPACING)
        found[f"subject {pair.name}"] = {
            "h2lo": evaluate(predict_pair(model, given), pair.lf, pair.high_field),
            IDENTITY: evaluate(pair.hf, pair.lf, pair.high_field),
        }
    mean = {
        row: {m: float(np.mean([s[row][m] for s in found.values()])) for m in METRICS}
        for row in ("h2lo", IDENTITY)
    }
    return {"mean": mean, **found}


def _noise(
    result: FitResult, pairs: Sequence[Pair], maps: Sequence[Numbered], contrast: str
) -> dict[str, Any]:
    """Measure the noise of the target, and of one scan, on the validation people."""
    one = pairs[:: SIMULATIONS["validation"].inputs]
    predicted = [predict_pair(result.model, pair) for pair in one]
    axial = (simulate_axial_scan(path, contrast=contrast, seed=PAIR_SEED + n) for n, path in maps)
    scans = [[scan_noise(image, mask)] for image, mask in axial]
    return dataclasses.asdict(calibrate_noise(one, predicted, spacing=SPACING, scans=scans))


def _metadata(
    contrast: str, split: Split, options: FitOptions, result: FitResult, members: int
) -> dict[str, Any]:
    return {
        "name": f"h2lo_{contrast}",
        "version": "2",
        "value_range": [0, 1],
        "scaling": options.scaling,
        "source_field_strength": 3.0,
        "target_field_strength": 0.064,
        "training_data": {
            "kind": "simulated",
            "description": "3 T and fused 64 mT images simulated from whole-head label maps",
            "source": SOURCE,
            "licence": LICENCE,
            "subjects": {part: [path.name for _, path in maps] for part, maps in split.items()},
        },
        "training": {
            "command": (
                "python benchmarks/embedded.py --labels DIR --out DIR "
                f"--contrast {contrast} --steps {options.steps} --members {members} "
                f"--threads {torch.get_num_threads()} --seed {options.seed} "
                f"--precision {options.precision}"
            ),
            "options": dataclasses.asdict(options),
            "steps": result.steps,
            "best_step": result.best_step,
            "simulation": dataclasses.asdict(SIMULATIONS["train"]),
            "pair_seed": PAIR_SEED,
            "members": members,
        },
        "seed": options.seed,
        "software": software(),
        "intended_use": USE,
        "limits": LIMITS,
    }


def _card(contrast: str, metadata: Mapping[str, Any], result: FitResult) -> str:
    means = metadata["held_out"]["mean"]
    summary = [
        Summary(method, metric, {}, means[method][metric])
        for method in (IDENTITY, "h2lo")
        for metric in METRICS
    ]
    return render_card(
        "embedded",
        contrast=contrast,
        metadata=metadata,
        result=result,
        augmentation=varied(metadata["training"]["options"]),
        table=Table((Block(contrast, rows_of(summary, {"h2lo": "this model"})),)).to_md(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Fit the embedded models on pairs simulated from whole-head label maps."
    )
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
