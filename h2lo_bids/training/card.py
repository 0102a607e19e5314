"""The model card and the metadata of the embedded models."""

from __future__ import annotations

from typing import Any

from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.training.card_methods import steps_sentence
from h2lo_bids.training.card_parts import (
    best_sentence,
    figures_note,
    markdown,
    software,
    variation,
)

INTENDED_USE = (
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
ADVICE = (
    "For the look of your own scanner fit a model on paired scans of it with `group`, or pass "
    "the weights that the paper's authors released with `--model`."
)
_RECORDED = (
    "command", "options", "steps", "best_step", "simulation", "pair_seed", "members",
)  # fmt: skip
_HEADINGS = {
    "psnr": "PSNR (dB)", "ssim": "SSIM (%)", "ncc": "NCC", "wass": "WASS",
    "hncc": "HNCC", "bhat": "BHAT", "js": "JS",
}  # fmt: skip


def build_metadata(
    contrast: str, training: dict[str, Any], held_out: dict[str, Any]
) -> dict[str, Any]:
    """Return the metadata of an embedded model.

    Parameters
    ----------
    contrast
        ``"T1w"`` or ``"T2w"``.
    training
        How it was fitted: ``source``, ``subjects``, ``seed``, ``options``, ``steps``, …
    held_out
        From `h2lo_bids.training.heldout.held_out_figures`.
    """
    return {
        "name": f"h2lo_{contrast}",
        "version": "2",
        "value_range": [0, 1],
        "scaling": training["options"]["scaling"],
        "source_field_strength": 3.0,
        "target_field_strength": 0.064,
        "training_data": {
            "kind": "simulated",
            "description": "3 T and fused 64 mT images simulated from whole-head label maps",
            "source": training["source"],
            "licence": training["licence"],
            "subjects": training["subjects"],
        },
        "training": {k: v for k, v in training.items() if k in _RECORDED},
        "seed": training["seed"],
        "software": software(),
        "held_out": held_out,
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
    }


def build_card(contrast: str, training: dict[str, Any], held_out: dict[str, Any]) -> str:
    """Return the model card, Markdown; parameters as for `build_metadata`."""
    paragraphs = [
        f"# h2lo_{contrast}: the embedded {contrast} model",
        f"**Trained on simulated pairs, not on real low-field scans.** {ADVICE}",
        f"H2LO ({contrast}, 3 T to 64 mT, 581,409 parameters) after arXiv 2603.24968, on a "
        "208x256x256 grid of 1 mm centred on the brain.",
        "## Training data",
        _data(training),
        variation(training["options"]["augmentation"]),
        "## Held-out figures",
        f"Means over {len(training['subjects']['test'])} simulated test subjects, each on three "
        "3 T scanners, never trained on, nor used to choose the weights. They say how well the "
        "simulation was learned, not how close the output is to a real 64 mT scan. Targets and "
        "the HF image are divided by their maximum, as in the paper's Table 1.",
        _table(held_out["mean"]),
        figures_note(),
        "## Intended use",
        INTENDED_USE,
        "## Limits",
        LIMITS,
        "## How to fit it again",
        f"```\n{training['command']}\n```",
        _fitting(training),
    ]
    return markdown(paragraphs)


def _data(training: dict[str, Any]) -> str:
    counts = {part: len(names) for part, names in training["subjects"].items()}
    how = training["simulation"]
    return (
        f"Pairs simulated with MR physics from whole-head label maps: {training['source']} "
        f"({training['licence']}). Each is a high-field scan, and three thick-slice 64 mT scans "
        f"fused on its grid. {counts['train']} people to train on, each simulated "
        f"{how['variants']} times with its own warp, tissue values and 64 mT scans, and seen by "
        f"{how['inputs']} high-field scanners (sequence, resolution, receive field, noise) each "
        f"time; {counts['validation']} people to choose the weights, {counts['test']} held out."
    )


def _fitting(training: dict[str, Any]) -> str:
    best = (training["best_step"], training["best_psnr"], training["identity_psnr"])
    members = training["members"]
    more = (
        f" The bundle carries {members + 1} members for `--uncertainty`: this model, and "
        f"{members} of other seeds and half as many steps." if members else ""
    )  # fmt: skip
    return (
        f"{steps_sentence(training['options'])}; {training['seconds'] / 60:.0f} minutes on one "
        f"core shared with other work. {best_sentence(*best)}{more}"
    )


def _table(mean: dict[str, dict[str, float]]) -> str:
    rows = [
        "| | " + " | ".join(_HEADINGS[m] for m in METRICS) + " |",
        "|---" * (len(METRICS) + 1) + "|",
    ]
    for method, label in ((IDENTITY, IDENTITY_TITLES["synthesize"]), ("h2lo", "this model")):
        digits = {"psnr": 2, "ssim": 2}
        values = [f"{mean[method][m]:.{digits.get(m, 4)}f}" for m in METRICS]
        rows.append(f"| {label} | " + " | ".join(values) + " |")
    return "\n".join(rows)
