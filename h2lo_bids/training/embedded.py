"""Fit the models that come with the package: one command from label maps to bundles.

``python -m h2lo_bids.training.embedded --labels DIR --out DIR [--task enhance] [--contrast T1w]``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from h2lo_bids.errors import H2loError
from h2lo_bids.models.bundle import CONTRASTS, Bundle, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.registry import ENHANCE, SYNTHESIZE, TASKS
from h2lo_bids.training.card import METHOD, build_card, build_metadata
from h2lo_bids.training.embedded_recipes import (
    KINDS,
    RECIPES,
    enhancer_options,
    recipe_options,
)
from h2lo_bids.training.fit import FitResult, fit
from h2lo_bids.training.heldout import held_out_figures
from h2lo_bids.training.memory import keep_freed_memory
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, training_range
from h2lo_bids.training.pfsr_fit import fit_pfsr
from h2lo_bids.training.simulated import (
    FRAME_SHAPE,
    Numbered,
    Split,
    read_pair,
    simulated_pairs,
    split_labels,
)

SOURCE = "SynthSeg training label maps, github.com/BBillot/SynthSeg"
LICENCE = "Apache-2.0"
PAIR_SEED = 1000
"""Added to a label map's number: the pairs stay the same when the fit's seed changes."""

Say = Callable[[str], None]


def train_embedded(
    labels: Path,
    out: Path,
    contrast: str,
    *,
    task: str = SYNTHESIZE,
    steps: int | None = None,
    seed: int = 42,
    variants: int = 1,
    precision: str | None = None,
    stop_at: int | None = None,
    say: Say = print,
) -> Bundle | None:
    """Simulate pairs, fit, score on held-out people and write the bundle.

    Parameters
    ----------
    labels
        Folder of whole-head label maps.
    out
        Receives ``h2lo_<contrast>``, or ``pfsr_<contrast>``, and the work folder, from
        which a run that was stopped goes on.
    contrast
        ``"T1w"`` or ``"T2w"``.
    task
        One of `h2lo_bids.models.registry.TASKS`.
    steps, seed
        Length of the schedule (None: the contrast's own), and what every draw
        follows from.
    variants
        Simulated pairs per training person and kind.
    precision
        Of the products in training; None takes the recipe's.
    stop_at
        Stop after this many steps without writing a bundle.
    say
        Receives lines of progress.

    Returns
    -------
    Bundle or None
        None if `stop_at` came before the end.
    """
    name = f"{METHOD[task]}_{contrast}"
    work = out / "work" / (contrast if task == SYNTHESIZE else name)
    split = split_labels(labels)
    files = simulate_split(split, out, (contrast,), variants, say, task)[contrast]
    train, validation, test = ([_read(path, task) for path in part] for part in files)
    options = recipe_options(task, contrast, seed, steps, precision)
    fit_model = fit_pfsr if task == ENHANCE else fit
    result = fit_model(train, validation, options, work, say, stop_at=stop_at)
    if result.steps < options.steps:
        say(f"stopped after step {result.steps} of {options.steps}; run again to go on")
        return None
    say(f"best validation at step {result.best_step}: {result.best_psnr:.2f} dB; scoring")
    held_out = _held_out(result, test, task)
    training = _describe(contrast, split, options, result, variants, task)
    ranges = training_range(train, contrast, (1.0, 1.0, 1.0), scaling=options.scaling)
    (work / "held_out.json").write_text(json.dumps(held_out, indent=2) + "\n")
    bundle = save_bundle(
        out / name,
        result.model,
        method=METHOD[task],
        contrast=contrast,
        frame=Frame(shape=FRAME_SHAPE, anchor="brain"),
        metadata=build_metadata(contrast, training, held_out, task) | {"input_range": ranges},
        card=build_card(contrast, training, held_out, task),
    )
    say(f"wrote {bundle.path}; its figures are in {work / 'held_out.json'}")
    return bundle


def _read(path: Path, task: str) -> Pair:
    pair = read_pair(path)
    return pair.swapped() if task == ENHANCE else pair


def _held_out(result: FitResult, test: Sequence[Pair], task: str) -> dict[str, Any]:
    """Score the model; where there are several kinds of pairs, each by itself."""
    kinds = KINDS[task]
    people = len(test) // len(kinds)  # the pairs of a kind follow each other
    tables = {
        kind.name: held_out_figures(result.model, test[k * people : (k + 1) * people], METHOD[task])
        for k, kind in enumerate(kinds)
    }
    return tables.get("", tables)


def simulate_split(
    split: Split,
    out: Path,
    contrasts: Sequence[str],
    variants: int,
    say: Say,
    task: str = SYNTHESIZE,
) -> dict[str, tuple[list[Path], list[Path], list[Path]]]:
    """Return the files of the pairs to train, validate and test on, per contrast."""

    def files(maps: Sequence[Numbered], number: int) -> dict[str, list[Path]]:
        return simulated_pairs(
            maps, contrasts=contrasts, seed=PAIR_SEED, variants=number,
            cache=out / "work" / "pairs", progress=say, kinds=KINDS[task],
        )  # fmt: skip

    train, validation, test = (
        files(split.train, variants), files(split.validation, 1), files(split.test, 1)
    )  # fmt: skip
    return {c: (train[c], validation[c], test[c]) for c in contrasts}


def _describe(
    contrast: str, split: Split, options: FitOptions, result: FitResult, variants: int, task: str
) -> dict[str, Any]:
    aim = f"--task {task} " if task != SYNTHESIZE else ""
    return {
        "source": SOURCE,
        "licence": LICENCE,
        "subjects": {
            part: [path.name for _, path in getattr(split, part)]
            for part in ("train", "validation", "test")
        },
        "pair_seed": PAIR_SEED,
        "variants": variants,
        "seed": options.seed,
        "options": options.to_dict(),
        "steps": result.steps,
        "best_step": result.best_step,
        "best_psnr": result.best_psnr,
        "identity_psnr": result.identity_psnr,
        "seconds": result.seconds,
        "command": (
            f"python -m h2lo_bids.training.embedded --labels DIR --out DIR {aim}"
            f"--contrast {contrast} "
            f"--steps {options.steps} --variants {variants} --threads {torch.get_num_threads()} "
            f"--seed {options.seed} --precision {options.precision}"
        ),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m h2lo_bids.training.embedded")
    parser.description = "Fit the embedded models on pairs simulated from whole-head label maps."
    add = parser.add_argument
    add("--labels", type=Path, required=True, help="folder of *.nii.gz label maps, FreeSurfer ids")
    add("--out", type=Path, required=True, help="receives the bundles and the work folder")
    add("--contrast", choices=CONTRASTS, help="default: both, one after the other")
    add("--task", choices=TASKS, default=SYNTHESIZE, help="what for (%(default)s)")
    usual = ", ".join(f"{c}: {recipe.steps}" for c, recipe in RECIPES.items())
    usual += f"; to enhance: {enhancer_options().steps}"
    add("--steps", type=int, help=f"optimiser steps ({usual})")
    add("--pairs-only", action="store_true", help="simulate the pairs and stop")
    add("--max-steps", type=int, help="stop at this step; run again to go on")
    add("--variants", type=int, default=1, help="simulated pairs per training person (%(default)s)")
    add("--threads", type=int, default=1, help="CPU threads; they decide the last bits (1)")
    add("--precision", choices=("fp32", "bf16"), help="of products in training (the recipe's)")
    add("--seed", type=int, default=42, help="of weights, pairs and draws (%(default)s)")
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
        split = split_labels(args.labels)
        simulate_split(split, args.out, contrasts, args.variants, say, args.task)
        for contrast in () if args.pairs_only else contrasts:
            train_embedded(
                args.labels, args.out, contrast, task=args.task, steps=args.steps,
                seed=args.seed, variants=args.variants, precision=args.precision,
                stop_at=args.max_steps, say=say,
            )  # fmt: skip
    except H2loError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
