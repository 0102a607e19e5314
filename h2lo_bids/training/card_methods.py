"""What cards say of each kind of model: how it was fitted, and what its images are like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from h2lo_bids.wording import counted

_MEDIAN = "The output is a conditional median, smoother than a real scan."
_NATURE = {
    "arnold": (
        "The output's noise is drawn at random, and its contrast is that of the high-field image."
    ),
    "pix2pix": "An adversarial loss may show detail that is in no scan of this person.",
    "pfsr": (
        "The output is what is likely, not what was measured: it may lack detail of the scan and "
        "show some that is not in the head."
    ),
    "identity": "The output is the high-field image itself, not a low-field image.",
}


def nature(family: str) -> str:
    """Say what a family's images are like, in one sentence."""
    return _NATURE.get(family, _MEDIAN)


def steps_sentence(options: Mapping[str, Any]) -> str:
    """Say how many steps of what a fit consists of, by the options that belong to its family."""
    o, family = options, options.get("family", "h2lo")
    if family == "identity":
        return "Nothing was fitted"
    if family == "arnold":
        return (
            f"{o['steps']} evaluations of the objective at most, on a grid and then in a local "
            f"search, seed {o['seed']}"
        )
    parts = [
        f"{o['steps']} steps of {_samples(family, o)}",
        f"Adam from {o['learning_rate']:g}" + ("" if family == "pix2pix" else " along a cosine"),
    ]
    if family == "h2lo":
        parts.append(f"weight {o['lambda_grad']:g} of the gradient term")
    average = f"running average of the weights {o['average']:g}"
    return ", ".join([*parts, str(o["precision"]), average, f"seed {o['seed']}"])


def _samples(family: str, o: Mapping[str, Any]) -> str:
    """Say what a step sees."""
    whole = o.get("sampling") == "volume"
    if family == "pix2pix":
        return f"{o['batch']} patch of {o['crop']} voxels a side for generator and discriminator"
    if family == "diffi2i":
        slices = counted(o["batch"], "whole axial slice" if whole else "axial crop")
        size = "" if whole else f" of {o['crop']} pixels a side"
        return f"{slices}{size}, in two stages"
    if not whole:
        return f"{counted(o['batch'], 'crop')} of {o['crop']} voxels a side"
    block = f" and a sub-volume of {o['crop']} voxels a side" if family == "h2lo" else ""
    return f"{counted(o['batch'], 'whole volume')}, of each {o['points']} voxels{block}"
