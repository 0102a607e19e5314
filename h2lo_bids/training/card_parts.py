"""What the cards of all models share."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.evaluation.scores import IDENTITY_TITLES
from h2lo_bids.training.augment import Augmentation

FIELDS = {"synthesize": ("low-field", "high-field"), "enhance": ("high-field", "low-field")}
"""Target and input by task."""


def figures_note(task: str = "synthesize") -> str:
    """Say what the rows and columns of a card's table are."""
    title, field = IDENTITY_TITLES[task], FIELDS[task][1]
    return (
        f'"{title}" is the {field} image itself, taken as the prediction. PSNR, SSIM and NCC '
        "are those of the whole volume; the histogram distances count the voxels with a "
        "high-field value above 0.01."
    )


def software() -> dict[str, str]:
    """Return the versions that a fit depends on."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy")}
    return {"h2lo-bids": __version__, "python": platform.python_version(), **packages}


def markdown(paragraphs: Sequence[str]) -> str:
    """Join a card's paragraphs, those of text wrapped."""
    return "\n\n".join(_wrapped(p) for p in paragraphs if p) + "\n"


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("#", "|", "```")):
        return paragraph
    return textwrap.fill(paragraph, 92, break_long_words=False, break_on_hyphens=False)


def best_sentence(
    step: int,
    psnr: float,
    identity: float,
    where: str = " in the brain",
    task: str = "synthesize",
) -> str:
    """Say which step's weights were kept."""
    return (
        f"The weights are those of step {step}, the best in "
        f"validation: {psnr:.2f} dB{where}, where the {FIELDS[task][1]} image "
        f"has {identity:.2f} dB."
    )


def variation(ranges: Mapping[str, Any], task: str = "synthesize") -> str:
    """Say how the pairs were varied in training; empty if they were not."""
    a = Augmentation(**ranges)
    if a == Augmentation():
        return ""
    return (
        f"Varied in training: left-right mirror images (probability {a.flip:g}), shifts in the "
        f"frame up to {a.shift} voxels, and of the {FIELDS[task][1]} image alone its scale "
        f"({1 - a.scale:g} to 1), exponent (exp of +-{a.gamma:g}), a smooth field (each term "
        f"+-{a.bias:g}) and Gaussian noise (standard deviation up to {a.noise:g})."
        + (
            f" Up to {a.outliers:.1%} of its voxels were made 2 to 5 times brighter."
            if a.outliers
            else ""
        )
    )
