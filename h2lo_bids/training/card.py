"""The model card and the metadata of the embedded models."""

from __future__ import annotations

from typing import Any

from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.models.registry import ENHANCE, SYNTHESIZE, make_architecture, make_model
from h2lo_bids.training.card_methods import nature, steps_sentence
from h2lo_bids.training.card_parts import (
    best_sentence,
    figures_note,
    markdown,
    software,
    variation,
)

METHOD = {SYNTHESIZE: "h2lo", ENHANCE: "pfsr"}
"""What is embedded for each task."""
INTENDED_USE = {
    SYNTHESIZE: (
        "Research and teaching: simulating what a 64 mT scan of a brain would look like from its "
        "3 T scan, to plan studies, test pipelines and augment training data."
    ),
    ENHANCE: (
        "Research and teaching: showing what enhancement of a 64 mT scan of a brain does, testing "
        "pipelines, and a start for those who have no pairs of their scanner yet."
    ),
}
LIMITS = {
    SYNTHESIZE: (
        "Trained on simulated pairs, never on a real low-field scan: its contrast, noise and "
        "blur are those of the simulation. White-matter lesions as in the label maps were "
        "simulated; no tumour, infarct, haemorrhage or placed plaque was. The output is "
        "a conditional median, smoother than a real scan. Not for diagnosis."
    ),
    ENHANCE: (
        "Trained on simulated pairs, never on a real low-field scan: the contrast, noise and blur "
        "that it removes are those of the simulation. White-matter lesions as in the label maps "
        "were simulated; no tumour, infarct, haemorrhage or placed plaque was, so that one may "
        f"be weakened or lost. {nature('pfsr')} Not for diagnosis."
    ),
}
ADVICE = {
    SYNTHESIZE: (
        "For the look of your own scanner fit a model on paired scans of it with `train`, or pass "
        "the weights that the paper's authors released with `--model`."
    ),
    ENHANCE: (
        "For scans of your own scanner fit an enhancer on paired scans of it with "
        "`group --task enhance`."
    ),
}
_LOW = {SYNTHESIZE: "fused 64 mT", ENHANCE: "fused or axial 64 mT"}
_KIND = {SYNTHESIZE: "model", ENHANCE: "enhancer"}
_TABLES = {
    "": "",
    "fused": "Low field: an axial, a coronal and a sagittal scan, averaged.",
    "axial": "Low field: the axial scan alone, thick slices interpolated by cubic splines.",
}
_RECORDED = ("command", "options", "steps", "best_step", "variants", "pair_seed")
_HEADINGS = {
    "psnr": "PSNR (dB)", "ssim": "SSIM (%)", "ncc": "NCC", "wass": "WASS",
    "hncc": "HNCC", "bhat": "BHAT", "js": "JS",
}  # fmt: skip


def build_metadata(
    contrast: str, training: dict[str, Any], held_out: dict[str, Any], task: str = SYNTHESIZE
) -> dict:
    """Return the metadata of an embedded model.

    Parameters
    ----------
    contrast
        ``"T1w"`` or ``"T2w"``.
    training
        How it was fitted: ``source``, ``subjects``, ``seed``, ``options``, ``steps``, …
    held_out
        From `h2lo_bids.training.heldout.held_out_figures`; for enhancement one such
        dict per kind of low-field image.
    task
        What the model is for.
    """
    strengths = (3.0, 0.064) if task == SYNTHESIZE else (0.064, 3.0)
    return {
        "name": f"{METHOD[task]}_{contrast}",
        "version": "1",
        "value_range": [0, 1],
        "source_field_strength": strengths[0],
        "target_field_strength": strengths[1],
        "training_data": {
            "kind": "simulated",
            "description": f"3 T and {_LOW[task]} images simulated from whole-head label maps",
            "source": training["source"],
            "licence": training["licence"],
            "subjects": training["subjects"],
        },
        "training": {k: v for k, v in training.items() if k in _RECORDED},
        "seed": training["seed"],
        "software": software(),
        "held_out": held_out,
        "intended_use": INTENDED_USE[task],
        "limits": LIMITS[task],
    }


def build_card(
    contrast: str, training: dict[str, Any], held_out: dict[str, Any], task: str = SYNTHESIZE
) -> str:
    """Return the model card, Markdown; parameters as for `build_metadata`."""
    target = "real 64 mT scan" if task == SYNTHESIZE else "3 T scan of the same person"
    figures: list[str] = []
    for name, figure in ({"": held_out} if task == SYNTHESIZE else held_out).items():
        figures += [_TABLES[name], _table(figure["mean"], task)]
    paragraphs = [
        f"# {METHOD[task]}_{contrast}: the embedded {contrast} {_KIND[task]}",
        f"**Trained on simulated pairs, not on real low-field scans.** {ADVICE[task]}",
        f"{_network(contrast, training, task)}, on a 208x256x256 grid of 1 mm centred on the "
        "brain.",
        "## Training data",
        _data(training, task),
        variation(training["options"]["augmentation"], task),
        "## Held-out figures",
        f"Means over {len(training['subjects']['test'])} simulated test subjects, never trained "
        "on, nor used to choose the weights. They say how well the simulation was learned, not "
        f"how close the output is to a {target}.",
        *figures,
        figures_note(task),
        "## Intended use",
        INTENDED_USE[task],
        "## Limits",
        LIMITS[task],
        "## How to fit it again",
        f"```\n{training['command']}\n```",
        _fitting(training, task),
    ]
    return markdown(paragraphs)


def _network(contrast: str, training: dict[str, Any], task: str) -> str:
    if task == SYNTHESIZE:
        return f"H2LO ({contrast}, 3 T to 64 mT, 581,409 parameters) after arXiv 2603.24968"
    sizes = training["options"]["architecture"]
    network = make_model("pfsr", make_architecture("pfsr", sizes))
    count = sum(value.numel() for value in network.parameters())
    shape = f"{sizes['groups']} groups of {sizes['blocks']} blocks, {sizes['features']} channels"
    told = CATALOGUE["pfsr"]
    return (
        f"{told.title} ({contrast}, 64 mT to 3 T, {count:,} parameters: {shape}, where the usual "
        f"network has {told.parameters:,}) after {told.reference}"
    )


def _data(training: dict[str, Any], task: str) -> str:
    counts = {part: len(names) for part, names in training["subjects"].items()}
    number = training["variants"] * (1 if task == SYNTHESIZE else 2)
    each = "one simulated pair" if number == 1 else f"{number} pairs"
    low = (
        "three thick-slice 64 mT scans fused on its grid"
        if task == SYNTHESIZE
        else "on its grid either three thick-slice 64 mT scans fused, or the axial one alone"
    )
    scanner = (
        "3 T scanner"
        if task == SYNTHESIZE
        else "64 mT scan, and the 3 T protocol of ds006557 throughout"
    )
    return (
        f"Pairs simulated with MR physics from whole-head label maps: {training['source']} "
        f"({training['licence']}). Each is a 3 T scan, and {low}. "
        f"{counts['train']} people to train on with {each} each, every pair with "
        f"its own warp, tissue values and {scanner}; {counts['validation']} people to choose the "
        f"weights, {counts['test']} held out."
    )


def _fitting(training: dict[str, Any], task: str) -> str:
    best = (training["best_step"], training["best_psnr"], training["identity_psnr"])
    return (
        f"{steps_sentence(training['options'])}; {training['seconds'] / 60:.0f} minutes on one "
        f"core shared with other work. {best_sentence(*best, task=task)}"
    )


def _table(mean: dict[str, dict[str, float]], task: str) -> str:
    rows = [
        "| | " + " | ".join(_HEADINGS[m] for m in METRICS) + " |",
        "|---" * (len(METRICS) + 1) + "|",
    ]
    for method, label in ((IDENTITY, IDENTITY_TITLES[task]), (METHOD[task], "this model")):
        digits = {"psnr": 2, "ssim": 2}
        values = [f"{mean[method][m]:.{digits.get(m, 4)}f}" for m in METRICS]
        rows.append(f"| {label} | " + " | ".join(values) + " |")
    return "\n".join(rows)
