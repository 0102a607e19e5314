"""Bundles of models that were fitted to a site's pairs, and the cards of all bundles."""

from __future__ import annotations

import contextlib
import math
import platform
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from h2lo_bids import __version__
from h2lo_bids.evaluation.catalogue import CLIPPED, CONVENTIONS
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES, PAPER
from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.evaluation.statistics import Summary
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import Bundle, save_bundle
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.reports.page import template_of
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.training.experiments import leaks
from h2lo_bids.training.options import GAIN
from h2lo_bids.training.pairs import (
    Pair,
    PreparedPair,
    common_frame,
    pairs_fingerprint,
    prepared_range,
)
from h2lo_bids.vocabulary import ENHANCE
from h2lo_bids.wording import counted

if TYPE_CHECKING:
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


def save_site(
    folder: Path,
    name: str,
    job: FoldJob,
    result: FitResult,
    summary: Sequence[Summary],
    *,
    schedule: str = "",
    more: Mapping[str, Any] | None = None,
    extras: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write the bundle of a model that was fitted to a site's pairs, scored on held-out ones."""
    metadata = site_metadata(name, job, result, summary, schedule)
    metadata |= {key: value for key, value in (more or {}).items() if value}
    return save_bundle(
        folder,
        result.model,
        contrast=job.contrast,
        frame=common_frame(job.pairs_in(*PARTS)),
        metadata=metadata,
        card=site_card(job, result, metadata, summary),
        method=job.recipe,
        extras=extras,
    )


def site_metadata(
    name: str,
    job: FoldJob,
    result: FitResult,
    summary: Sequence[Summary] = (),
    schedule: str = "",
) -> dict[str, Any]:
    """Return what the bundle says of the model."""
    # Not those that are tested on: they had no part in the weights.
    pairs, options = job.pairs_in(*PARTS[:2]), job.adapted
    keys = ["InputMagneticFieldStrength", "MagneticFieldStrength"]
    source, target = (_median(pairs, key) for key in keys[:: -1 if job.task == ENHANCE else 1])
    kind = "simulated" if any(pair.simulated for pair in pairs) else "real"
    parts = {part: list(getattr(job.fold, part)) for part in PARTS}
    parts["initial"] = sorted(leaks.training_subjects(job.initial)) if job.initial else []
    parts["cohort"] = sorted({_label(pair) for part in job.cohort_pairs() for pair in part})
    outcome = outcome_of(job, result)
    description = _description(pairs, f"{_tesla(source)} and {_tesla(target)}")
    if parts["cohort"]:
        people = counted(len(parts["cohort"]), "subject")
        description += f", after synthesized low-field images of {people}"
    if start := outcome["initial"]:
        description += f", from the weights of {start['name']} ({start['pairs']} pairs)"
    return {
        "name": name,
        "title": CATALOGUE[job.recipe].title,
        "version": "1",
        "value_range": [0, 1],
        "scaling": options.scaling,
        "source_field_strength": source,
        "target_field_strength": target,
        "training_data": {
            "kind": kind,
            "description": description,
            # A model of all pairs has no part to test on.
            "subjects": {part: who for part, who in parts.items() if who or part in PARTS[:2]},
            "pairs": len(pairs),
            "fusion": sorted({pair.fusion for pair in pairs}),
            "fingerprint": pairs_fingerprint(pairs),
            "fingerprints": _brains(job),
        },
        "training": {
            "options": asdict(options),
            "schedule": schedule or None,
            **outcome,
        },
        "seed": options.seed,
        "software": software(),
        "held_out" if job.fold.test else "cross_validation": _figures(summary),
        "intended_use": _SITE_USE[job.task],
        "limits": _limits(pairs, kind, options.family),
        "input_range": prepared_range(job.pairs_in("train"), job.cache, options.scaling),
    }


def outcome_of(job: FoldJob, result: FitResult) -> dict[str, Any]:
    """Return how a fit began and went, as records and metadata say it."""
    initial, start = None, job.initial
    if start is not None:
        kind = (start.metadata.get("training_data") or {}).get("kind", "unknown")
        name = start.metadata.get("name", start.path.name)
        initial = {"name": name, "sha256": start.sha256, "pairs": kind}
    return {
        "steps": result.steps,
        "stalled": result.stalled,
        "initial": initial,
        "best_step": result.best_step,
        "best_psnr": finite(result.best_psnr),
        "identity_psnr": finite(result.identity_psnr),
        "seconds": round(result.seconds, 1),
        **({"pretrain_steps": result.pretrain_steps} if result.pretrain_steps else {}),
    }


def _brains(job: FoldJob) -> dict[str, list[str]]:
    """Describe the brains that had a part in the weights, so that `evaluate` knows them."""
    brains: dict[str, list[str]] = {}
    for prepared in job.pairs_in("train", "validation"):
        brains.setdefault(prepared.subject, []).append(leaks.encode(leaks.brain_of(prepared)))
    spacing = common_frame(job.pairs_in("train")).spacing
    for pair in (pair for part in job.cohort_pairs() for pair in part):
        text = leaks.encode(leaks.fingerprint(pair.high_field, pair.mask, spacing))
        if text not in (own := brains.setdefault(_label(pair), [])):  # of several low-field images
            own.append(text)
    start = job.initial.metadata.get("training_data") if job.initial else None
    for label, texts in ((start or {}).get("fingerprints") or {}).items():
        brains.setdefault(label, []).extend(texts)
    return brains


def _label(pair: Pair) -> str:
    """Return the participant of a cohort's pair."""
    return pair.name.partition("_")[0]


def site_card(
    job: FoldJob, result: FitResult, metadata: Mapping[str, Any], summary: Sequence[Summary] = ()
) -> str:
    """Return the model card, Markdown."""
    options, entry = asdict(job.adapted), CATALOGUE[job.recipe]
    rows = rows_of(summary, {IDENTITY: IDENTITY_TITLES[job.task], job.recipe: entry.title})
    target, source = FIELDS[job.task]
    return render_card(
        "site",
        job=job,
        result=result,
        metadata=metadata,
        figures=metadata.get("held_out") or metadata.get("cross_validation"),
        frame=job.pairs_in("train")[0].frame,
        target=target,
        input=source,
        strengths=[_tesla(metadata[f"{end}_field_strength"]) for end in ("source", "target")],
        parameters=count_parameters(result.model),
        reference=entry.reference,
        options=options,
        augmentation=varied(options),
        table=Table((Block(job.contrast, rows, (CONVENTIONS[CLIPPED],)),)).to_md(),
        baseline=IDENTITY_TITLES[job.task],
        gain=GAIN,
        validated=math.isfinite(result.best_psnr) and bool(result.best_step),
    )


def _description(pairs: Sequence[PreparedPair], strengths: str) -> str:
    simulated = sum(pair.simulated for pair in pairs)
    word, mixed = "simulated " if simulated else "real ", ""
    if 0 < simulated < len(pairs):
        word, mixed = "", f" ({simulated} of them simulated)"
    fused = sum(pair.fusion == "mrr" for pair in pairs)
    single = "images registered before" if pairs[0].registered else "one scan each"
    fusion = f"three scans fused in {fused} of them" if fused else single
    fusion = "three thick-slice scans fused" if fused == len(pairs) else fusion
    return (
        f"{counted(len(pairs), f'{word}{pairs[0].contrast} pair')}{mixed} of "
        f"{counted(len({p.subject for p in pairs}), 'subject')} at {strengths} "
        f"(low field: {fusion})"
    )


def _figures(summary: Sequence[Summary]) -> dict[str, Any] | None:
    """Return the figures of held-out subjects for the metadata."""
    if not summary:
        return None
    first = summary[0]
    values: dict[str, Any] = {"region": PAPER, "subjects": first.n, "over": first.over}
    columns = {"mean": "mean", "std": "std", "ci_low": "low", "ci_high": "high"}
    for name, attribute in columns.items():
        values[name] = _by_method({r: getattr(r, attribute) for r in summary})
    values["per_fold"] = [
        {"fold": k, **_by_method({r: dict(r.fold_means)[k] for r in summary})}
        for k, _ in first.fold_means
    ]
    return values


def _by_method(values: Mapping[Summary, float]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for row, value in values.items():
        found.setdefault(row.method, {})[row.metric] = finite(value)
    return found


def _limits(pairs: Sequence[PreparedPair], kind: str, family: str) -> str:
    text = _SITE_LIMITS.format(
        pairs=counted(len(pairs), f"{kind} pair"),
        people=counted(len({p.subject for p in pairs}), "subject"),
        nature=_NATURE.get(family, _MEDIAN),
    )
    if kind == "simulated":
        text = f"Trained on simulated pairs: it has not learned what the simulation lacks. {text}"
    return text


def _tesla(strength: float | None) -> str:
    if strength is None:
        return "unknown field strength"
    return f"{strength:g} T" if strength >= 1 else f"{1000 * strength:.0f} mT"


def _median(pairs: Sequence[PreparedPair], key: str) -> float | None:
    values = []
    for pair in pairs:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no reason to lose a fit
            values.append(read_json(pair.record).get(key))
    known = [v for v in values if isinstance(v, int | float) and math.isfinite(v) and v > 0]
    return float(median(known)) if known else None


def finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None


def count_parameters(model: Model) -> int:
    """Return the number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def render_card(template: str, **values: Any) -> str:
    """Fill in a template of ``data/cards``, Markdown, and wrap its paragraphs of text."""
    text = template_of(f"{template}.jinja").render(values)
    return "\n\n".join(map(_wrapped, re.split(r"\n\s*\n", text.strip()))) + "\n"


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("#", "|", "```")):
        return paragraph
    text = " ".join(paragraph.split())
    return textwrap.fill(text, 92, break_long_words=False, break_on_hyphens=False)


def varied(options: Mapping[str, Any]) -> Augmentation | None:
    """Return how a fit with these options varied its pairs, or None if it did not."""
    family, augmentation = options["family"], Augmentation(**options["augmentation"])
    if family == "diffi2i":  # its slices have no place in a frame
        augmentation = replace(augmentation, shift=0)
    unvaried = family == "arnold" or (family in ("h2lo", "inr") and options["sampling"] == "volume")
    return None if unvaried or augmentation == Augmentation() else augmentation


def software() -> dict[str, str]:
    """Return the versions that a fit depends on."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy")}
    return {"h2lo-bids": __version__, "python": platform.python_version(), **packages}
