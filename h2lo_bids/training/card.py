"""Model cards, Markdown, and the metadata of bundles: of embedded and of fitted models."""

from __future__ import annotations

import math
import platform
import re
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from h2lo_bids import __version__
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import IDENTITY, PAPER
from h2lo_bids.evaluation.statistics import Summary
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment

_EMBEDDED_USE = (
    "Research and teaching: simulating what a 64 mT scan of a brain would look like from its "
    "3 T scan, to plan studies, test pipelines and augment training data."
)
_EMBEDDED_LIMITS = (
    "Trained on simulated pairs, never on a real low-field scan: its contrast, noise and blur "
    "are those of the simulation, which was calibrated with the figures that the paper gives of "
    "ds006557. White-matter lesions as in the label maps (0.7 to 45 ml) were simulated; no "
    "tumour, infarct, haemorrhage or placed plaque was. The output is a conditional median, "
    "smoother than a real scan: add `--noise calibrated` for its noise. Not for diagnosis."
)
_RECORDED = (
    "command", "options", "steps", "best_step", "simulation", "pair_seed", "members",
)  # fmt: skip


def build_metadata(
    contrast: str, training: dict[str, Any], held_out: dict[str, Any]
) -> dict[str, Any]:
    """Return the metadata of an embedded model.

    `training` says how it was fitted (``source``, ``subjects``, ``options``, ...), `held_out` is
    of `h2lo_bids.training.experiments.heldout.held_out_figures`.
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
        "intended_use": _EMBEDDED_USE,
        "limits": _EMBEDDED_LIMITS,
    }


def build_card(contrast: str, training: dict[str, Any], held_out: dict[str, Any]) -> str:
    """Return the model card, Markdown; parameters as for `build_metadata`."""
    nan = math.nan
    summary = [
        Summary(method, metric, PAPER, 0, held_out["mean"][method][metric], nan, "", nan, nan, ())
        for method in (IDENTITY, "h2lo")
        for metric in METRICS
    ]
    return render_card(
        "embedded",
        contrast=contrast,
        training=training,
        augmentation=varied(training["options"]["augmentation"]),
        table=Table((Block(contrast, rows_of(summary, {"h2lo": "this model"})),)).to_md(),
        intended_use=_EMBEDDED_USE,
        limits=_EMBEDDED_LIMITS,
    )


def start_of(bundle: Bundle | None) -> dict[str, Any] | None:
    """Return what records and metadata say of the model that a fit started from."""
    if bundle is None:
        return None
    kind = (bundle.metadata.get("training_data") or {}).get("kind", "unknown")
    name = bundle.metadata.get("name", bundle.path.name)
    return {"name": name, "sha256": bundle.sha256, "pairs": kind}


def render_card(template: str, **values: Any) -> str:
    """Fill in a template of ``data/cards``, Markdown, and wrap its paragraphs of text."""
    text = _templates().get_template(f"{template}.jinja").render(values)
    return "\n\n".join(map(_wrapped, re.split(r"\n\s*\n", text.strip()))) + "\n"


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Markdown
        loader=PackageLoader("h2lo_bids", "data/cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    return environment


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("#", "|", "```")):
        return paragraph
    text = " ".join(paragraph.split())
    return textwrap.fill(text, 92, break_long_words=False, break_on_hyphens=False)


def varied(ranges: Mapping[str, Any]) -> Augmentation | None:
    """Return how pairs were varied in training, or None if they were not."""
    augmentation = Augmentation(**ranges)
    return None if augmentation == Augmentation() else augmentation


def software() -> dict[str, str]:
    """Return the versions that a fit depends on."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy")}
    return {"h2lo-bids": __version__, "python": platform.python_version(), **packages}
