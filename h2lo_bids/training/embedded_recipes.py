"""What decides the weights of the models that come with the package."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.models.registry import ENHANCE, SYNTHESIZE
from h2lo_bids.phantom.pairs import FUSED, PairKind
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pfsr_fit import adapt_pfsr


@dataclass(frozen=True)
class _Recipe:
    """What differs between the contrasts, by the brain PSNR of the validation people."""

    steps: int
    average: float
    augmentation: Augmentation


RECIPES = {
    # With wide variation and no average the validation fell from 20.4 to 18 dB by step 2000.
    "T1w": _Recipe(5000, 0.99, Augmentation(flip=0.5, shift=4, scale=0.05, bias=0.05, noise=0.01)),
    # 26.6 dB; T1w's recipe gave 25.6 dB.
    "T2w": _Recipe(
        6000, 0.0, Augmentation(flip=0.5, shift=4, scale=0.2, gamma=0.15, bias=0.1, noise=0.02)
    ),
}


KINDS = {
    SYNTHESIZE: (FUSED,),
    # Interpolated as the product does it. Many sites acquire one orientation alone.
    ENHANCE: (
        PairKind("fused", FUSED.acquisitions, 3, nominal=True),
        PairKind("axial", FUSED.acquisitions[:1], 3, nominal=True),
    ),
}
"""What the pairs are, by task."""


def recipe_options(
    task: str, contrast: str, seed: int, steps: int | None, precision: str | None = None
) -> FitOptions:
    """Return the options of an embedded model; None takes the recipe's own value.

    Parameters
    ----------
    task, contrast
        What it is for.
    seed
        Of weights and draws.
    steps
        Length of the schedule.
    precision
        ``"bf16"`` is for processors that multiply in it; elsewhere it is far slower.
    """
    options = (
        enhancer_options(seed, steps)
        if task == ENHANCE
        else embedded_options(contrast, seed, steps)
    )
    return dataclasses.replace(options, precision=precision or options.precision)


def enhancer_options(seed: int = 42, steps: int | None = None) -> FitOptions:
    """Return the options of an embedded enhancer.

    Chosen for one CPU core without bfloat16 units: ten convolutions of 16 channels have
    a sixtieth of the default network's parameters, and of its products per voxel.
    """
    given = FitOptions(
        steps=steps or 450,
        seed=seed,
        precision="fp32",
        architecture=PfsrArchitecture(features=16, groups=2, blocks=2),
        validate_every=100,
        checkpoint_every=25,
        augmentation=Augmentation(flip=0.5, shift=4, scale=0.1, gamma=0.1, bias=0.1, noise=0.02),
    )
    return dataclasses.replace(adapt_pfsr(given), learning_rate=5e-4, batch=2)


def embedded_options(contrast: str, seed: int = 42, steps: int | None = None) -> FitOptions:
    """Return the options of an embedded H2LO model.

    Chosen for one CPU core with AMX (0.27 s per step on a quiet one): two crops
    of 24 voxels at one place of the frame share a pass of the trunk, which costs
    more than the branch there. The rate is three times the paper's, for fewer
    steps; in trials of 200 steps 3e-4 was ahead of 5e-4 and 1e-3.
    """
    recipe = RECIPES[contrast]
    steps = steps or recipe.steps
    return FitOptions(
        steps=steps,
        learning_rate=3e-4,
        floor=1e-6,
        warmup=min(50, steps // 10),
        crop=24,
        batch=2,
        seed=seed,
        precision="bf16",
        average=recipe.average,
        validate_every=200,
        checkpoint_every=50,
        validation_crops=48,
        augmentation=recipe.augmentation,
    )
