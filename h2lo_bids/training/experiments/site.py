"""Bundles of models that were fitted to a site's pairs, and the cards of all bundles."""

from __future__ import annotations

import math
import platform
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from h2lo_bids import __version__
from h2lo_bids.evaluation.catalogue import CLIPPED, CONVENTIONS
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.evaluation.statistics import Summary
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import Bundle, save_bundle
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.training.experiments.leaks import brain_of, encode
from h2lo_bids.training.options import GAIN
from h2lo_bids.training.pairs import (
    PreparedPair,
    common_frame,
    pairs_fingerprint,
    prepared_range,
)
from h2lo_bids.vocabulary import ENHANCE
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment

    from h2lo_bids.models.registry import Model
    from h2lo_bids.training.experiments.crossvalidation import FoldJob
    from h2lo_bids.training.fit import FitResult

_SITE_USE = {
    "synthesize": (
        "Research: simulating what the low-field scanner of the training pairs would show of a "
        "brain from its high-field scan, to plan studies, test pipelines and augment training data."
    ),
    "enhance": (
        "Research: estimating from a scan of the training pairs' low-field scanner what their "
        "high-field scanner would show of the same brain."
    ),
}
_SITE_LIMITS = (
    "Learned from {pairs} of {people} in one pair of scanners and protocols: other scanners, "
    "protocols, ages and diseases are untried. {nature} Not for diagnosis."
)
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
FIELDS = {"synthesize": ("low-field", "high-field"), "enhance": ("high-field", "low-field")}
"""Target and input by task."""


@dataclass(frozen=True)
class SiteModel:
    """A model that was fitted to a site's pairs."""

    name: str
    job: FoldJob
    result: FitResult
    schedule: str = ""  # how the number of steps was found; empty for a fold's model
    summary: tuple[Summary, ...] = ()  # of held-out subjects
    members: int = 0  # models of the folds that the bundle carries
    noise: Mapping[str, Any] | None = None  # a calibrated noise model
    digest: str = ""  # of all that the model depends on

    @property
    def pairs(self) -> tuple[PreparedPair, ...]:
        """All that had a part in it, each on the same frame."""
        return self.job.pairs_in(*PARTS)

    @property
    def subjects(self) -> dict[str, tuple[str, ...]]:
        """Labels by part; a model of all pairs has no part to test on."""
        labels = {part: getattr(self.job.fold, part) for part in PARTS}
        return {part: names for part, names in labels.items() if names or part != "test"}

    @property
    def kind(self) -> str:
        """``"real"``, or ``"simulated"`` if any pair is."""
        return "simulated" if any(pair.simulated for pair in self.pairs) else "real"

    @property
    def strengths(self) -> list[float | None]:
        """Field strengths in tesla, of input and target: medians over the pairs' records."""
        keys = ["InputMagneticFieldStrength", "MagneticFieldStrength"]
        found = [_median(self.pairs, key) for key in keys]
        return found[::-1] if self.job.task == ENHANCE else found

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What the bundle says of the model."""
        job, result, options = self.job, self.result, self.job.adapted
        source, target = self.strengths
        return {
            "name": self.name,
            "title": job.recipe.title,
            "version": "1",
            "value_range": [0, 1],
            "scaling": options.scaling,
            "source_field_strength": source,
            "target_field_strength": target,
            "training_data": {
                "kind": self.kind,
                "description": _description(self),
                "subjects": {part: list(names) for part, names in self.subjects.items()},
                "pairs": len(self.pairs),
                "fusion": sorted({pair.fusion for pair in self.pairs}),
                "fingerprint": pairs_fingerprint(self.pairs),
                "fingerprints": _brains(job),
            },
            "training": {
                "options": options.to_dict(),
                "steps": result.steps,
                "best_step": result.best_step,
                "best_psnr": finite(result.best_psnr),
                "identity_psnr": finite(result.identity_psnr),
                "seconds": round(result.seconds, 1),
                "initial": start_of(job.initial),
                "stalled": result.stalled,
                "schedule": self.schedule or None,
            },
            "seed": options.seed,
            "software": software(),
            **_held_out(self),
            "intended_use": _SITE_USE[job.task],
            "limits": _limits(self),
            "input_range": prepared_range(job.pairs_in("train"), options.scaling),
            **({"noise": dict(self.noise)} if self.noise else {}),
            **({"members": self.members} if self.members else {}),
            **({"job": self.digest} if self.digest else {}),
        }


def save_site(folder: Path, model: SiteModel, extras: Mapping[str, bytes] | None = None) -> Bundle:
    """Write the bundle of a site's model."""
    return save_bundle(
        folder,
        model.result.model,
        contrast=model.job.contrast,
        frame=common_frame(model.pairs),
        metadata=model.metadata,
        card=site_card(model),
        method=model.job.recipe.name,
        extras=extras,
    )


def _brains(job: FoldJob) -> dict[str, list[str]]:
    """Describe the brains that had a part in the weights, so that `evaluate` knows them."""
    brains: dict[str, list[str]] = {}
    for pair in job.pairs_in("train", "validation"):
        brains.setdefault(pair.subject, []).append(encode(brain_of(pair)))
    return brains


def site_card(model: SiteModel) -> str:
    """Return the model card, Markdown."""
    job, result, options = model.job, model.result, model.job.adapted.to_dict()
    titles = {IDENTITY: IDENTITY_TITLES[job.task], job.recipe.name: job.recipe.title}
    rows = rows_of(model.summary, titles)
    target, source = FIELDS[job.task]
    return render_card(
        "site",
        model=model,
        job=job,
        result=result,
        metadata=model.metadata,
        frame=model.pairs[0].frame,
        target=target,
        input=source,
        strengths=[_tesla(s) for s in model.strengths],
        parameters=count_parameters(result.model),
        reference=CATALOGUE[job.recipe.name].reference,
        options=options,
        augmentation=varied(options["augmentation"]),
        table=Table((Block(job.contrast, rows, (CONVENTIONS[CLIPPED],)),)).to_md(),
        baseline=IDENTITY_TITLES[job.task],
        gain=GAIN,
        validated=math.isfinite(result.best_psnr) and bool(result.best_step),
    )


def _description(model: SiteModel) -> str:
    strengths = " and ".join(_tesla(s) for s in model.strengths)
    simulated = sum(pair.simulated for pair in model.pairs)
    word = "simulated" if simulated == len(model.pairs) else "real"
    mixed = f" ({simulated} of them simulated)" if 0 < simulated < len(model.pairs) else ""
    word = "" if mixed else f"{word} "
    fused = Counter(pair.fusion for pair in model.pairs)["mrr"]
    fusion = "three thick-slice scans fused" if fused == len(model.pairs) else (
        f"three scans fused in {fused} of them" if fused else "one scan each"
    )  # fmt: skip
    return (
        f"{counted(len(model.pairs), f'{word}{model.job.contrast} pair')}{mixed} of "
        f"{counted(len({p.subject for p in model.pairs}), 'subject')} at {strengths} "
        f"(low field: {fusion})"
    )


def _held_out(model: SiteModel) -> dict[str, Any]:
    """Return the figures for the metadata, under a name that says whose they are."""
    key = "held_out" if model.subjects.get("test") else "cross_validation"
    if not model.summary:
        return {key: None}
    first = model.summary[0]
    values: dict[str, Any] = {"region": first.region, "subjects": first.n, "over": first.over}
    columns = {"mean": "mean", "std": "std", "ci_low": "low", "ci_high": "high"}
    for name, attribute in columns.items():
        values[name] = _by_method({r: getattr(r, attribute) for r in model.summary})
    values["per_fold"] = [
        {"fold": k, **_by_method({r: dict(r.fold_means)[k] for r in model.summary})}
        for k, _ in first.fold_means
    ]
    return {key: values}


def _by_method(values: Mapping[Summary, float]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for row, value in values.items():
        found.setdefault(row.method, {})[row.metric] = finite(value)
    return found


def _limits(model: SiteModel) -> str:
    text = _SITE_LIMITS.format(
        pairs=counted(len(model.pairs), f"{model.kind} pair"),
        people=counted(len({p.subject for p in model.pairs}), "subject"),
        nature=_NATURE.get(model.job.adapted.family, _MEDIAN),
    )
    if model.kind == "simulated":
        text = f"Trained on simulated pairs: it has not learned what the simulation lacks. {text}"
    return text


def _tesla(strength: float | None) -> str:
    if strength is None:
        return "unknown field strength"
    return f"{strength:g} T" if strength >= 1 else f"{1000 * strength:.0f} mT"


def _median(pairs: tuple[PreparedPair, ...], key: str) -> float | None:
    strengths = []
    for pair in pairs:
        try:
            value = read_json(pair.record).get(key)
        except (OSError, ValueError, AttributeError):
            continue  # a card is no place to fail over a field strength
        if isinstance(value, int | float) and math.isfinite(value) and value > 0:
            strengths.append(float(value))
    return median(strengths) if strengths else None


def finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None


def count_parameters(model: Model) -> int:
    """Return the number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


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
