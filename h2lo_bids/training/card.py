"""Model cards, Markdown, and the metadata of bundles: of embedded and of fitted models."""

from __future__ import annotations

import math
import platform
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

from h2lo_bids import __version__
from h2lo_bids.evaluation.catalogue import CLIPPED, CONVENTIONS
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES, PAPER
from h2lo_bids.evaluation.statistics import Summary
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.experiments.leaks import brain_of, encode
from h2lo_bids.training.fitting import finite
from h2lo_bids.training.methods import Method
from h2lo_bids.training.options import GAIN, FitOptions
from h2lo_bids.training.prepared import PreparedPair, pairs_fingerprint
from h2lo_bids.vocabulary import ENHANCE
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
_RECORDED = (
    "command", "options", "steps", "best_step", "simulation", "pair_seed", "members",
)  # fmt: skip
FIELDS = {"synthesize": ("low-field", "high-field"), "enhance": ("high-field", "low-field")}
"""Target and input by task."""


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
    summary = [
        Summary(
            method,
            metric,
            PAPER,
            0,
            held_out["mean"][method][metric],
            math.nan,
            "",
            math.nan,
            math.nan,
            (),
        )
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


@dataclass(frozen=True)
class SiteModel:
    """A model that was fitted to a site's pairs."""

    name: str
    contrast: str
    method: Method
    pairs: tuple[PreparedPair, ...]  # all that had a part in it, each on the same frame
    subjects: Mapping[str, tuple[str, ...]]  # labels by part: train, validation, test
    options: FitOptions
    steps: int
    best_step: int  # whose weights were kept
    best_psnr: float  # validation PSNR in dB, or NaN; of the high-field image below
    identity_psnr: float
    seconds: float
    initial: Bundle | None = None  # whose weights the fit started from
    stalled: bool = False  # it ended because its validation no longer rose
    schedule: str = ""  # how the number of steps was found; empty for a fold's model
    summary: tuple[Summary, ...] = ()  # of held-out subjects
    members: int = 0  # models of the folds that the bundle carries
    noise: Mapping[str, Any] | None = None  # a calibrated noise model
    job: str = ""  # digest of all that the model depends on
    input_range: Mapping[str, Any] | None = None  # of training.pairs.training_range

    @property
    def kind(self) -> str:
        """``"real"``, or ``"simulated"`` if any pair is."""
        return "simulated" if any(pair.simulated for pair in self.pairs) else "real"

    @property
    def strengths(self) -> tuple[float | None, float | None]:
        """Field strengths in tesla, of input and target: medians over the pairs' records."""
        keys = ("InputMagneticFieldStrength", "MagneticFieldStrength")
        return tuple(  # type: ignore[return-value]
            _median(self.pairs, key)
            for key in (keys if self.method.task != ENHANCE else reversed(keys))
        )


def site_metadata(model: SiteModel) -> dict[str, Any]:
    """Return the metadata of a site's model."""
    source, target = model.strengths
    return {
        "name": model.name,
        "title": model.method.title,
        "version": "1",
        "value_range": [0, 1],
        "scaling": model.options.scaling,
        "source_field_strength": source,
        "target_field_strength": target,
        "training_data": {
            "kind": model.kind,
            "description": _description(model),
            "subjects": {part: list(names) for part, names in model.subjects.items()},
            "pairs": len(model.pairs),
            "fusion": sorted({pair.fusion for pair in model.pairs}),
            "fingerprint": pairs_fingerprint(model.pairs),
            "fingerprints": _brains(model),
        },
        "training": {
            "options": model.options.to_dict(),
            "steps": model.steps,
            "best_step": model.best_step,
            "best_psnr": finite(model.best_psnr),
            "identity_psnr": finite(model.identity_psnr),
            "seconds": round(model.seconds, 1),
            "initial": start_of(model.initial),
            "stalled": model.stalled,
            "schedule": model.schedule or None,
        },
        "seed": model.options.seed,
        "software": software(),
        **_held_out(model),
        "intended_use": _SITE_USE[model.method.task],
        "limits": _limits(model),
        **({"input_range": dict(model.input_range)} if model.input_range else {}),
        **({"noise": dict(model.noise)} if model.noise else {}),
        **({"members": model.members} if model.members else {}),
        **({"job": model.job} if model.job else {}),
    }


def _brains(model: SiteModel) -> dict[str, list[str]]:
    """Describe the brains that had a part in the weights, so that `evaluate` knows them."""
    brains: dict[str, list[str]] = {}
    for pair in model.pairs:
        if pair.subject not in model.subjects.get("test", ()):
            brains.setdefault(pair.subject, []).append(encode(brain_of(pair)))
    return brains


def site_card(model: SiteModel, parameters: int) -> str:
    """Return the model card, Markdown; `parameters` is their number."""
    frame = model.pairs[0].frame
    sides, spacing = ("x".join(f"{v:g}" for v in values) for values in (frame.shape, frame.spacing))
    task, options = model.method.task, model.options.to_dict()
    titles = {IDENTITY: IDENTITY_TITLES[task], model.method.name: model.method.title}
    rows = rows_of(model.summary, titles)
    target, source = FIELDS[task]
    return render_card(
        "site",
        model=model,
        task=task,
        target=target,
        input=source,
        strengths=[_tesla(s) for s in model.strengths],
        parameters=parameters,
        reference=CATALOGUE[model.method.name].reference,
        sides=sides,
        spacing=spacing,
        start=start_of(model.initial),
        description=_description(model),
        options=options,
        augmentation=varied(options["augmentation"]),
        table=Table((Block(model.contrast, rows, (CONVENTIONS[CLIPPED],)),)).to_md(),
        baseline=IDENTITY_TITLES[task],
        intended_use=_SITE_USE[task],
        limits=_limits(model),
        gain=GAIN,
        validated=math.isfinite(model.best_psnr) and bool(model.best_step),
    )


def start_of(bundle: Bundle | None) -> dict[str, Any] | None:
    """Return what records and metadata say of the model that a fit started from."""
    if bundle is None:
        return None
    kind = (bundle.metadata.get("training_data") or {}).get("kind", "unknown")
    name = bundle.metadata.get("name", bundle.path.name)
    return {"name": name, "sha256": bundle.sha256, "pairs": kind}


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
        f"{counted(len(model.pairs), f'{word}{model.contrast} pair')}{mixed} of "
        f"{counted(len({p.subject for p in model.pairs}), 'subject')} at {strengths} "
        f"(low field: {fusion})"
    )


def _held_out(model: SiteModel) -> dict[str, Any]:
    """Return the figures for the metadata, under a name that says whose they are."""
    key = "held_out" if model.subjects.get("test") else "cross_validation"
    if not model.summary:
        return {key: None}
    values: dict[str, Any] = {
        "region": model.summary[0].region,
        "subjects": model.summary[0].n,
        "over": model.summary[0].over,
    }
    columns = {"mean": "mean", "std": "std", "ci_low": "low", "ci_high": "high"}
    for name, attribute in columns.items():
        values[name] = _by_method(model, {r: getattr(r, attribute) for r in model.summary})
    folds = [k for k, _ in model.summary[0].fold_means]
    values["per_fold"] = [
        {"fold": k, **_by_method(model, {r: dict(r.fold_means)[k] for r in model.summary})}
        for k in folds
    ]
    return {key: values}


def _by_method(
    model: SiteModel, values: Mapping[Summary, float]
) -> dict[str, dict[str, float | None]]:
    methods = dict.fromkeys(row.method for row in model.summary)
    return {
        method: {r.metric: finite(v) for r, v in values.items() if r.method == method}
        for method in methods
    }


def _limits(model: SiteModel) -> str:
    text = _SITE_LIMITS.format(
        pairs=counted(len(model.pairs), f"{model.kind} pair"),
        people=counted(len({p.subject for p in model.pairs}), "subject"),
        nature=_NATURE.get(model.options.family, _MEDIAN),
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


def render_card(template: str, **values: Any) -> str:
    """Fill in a template of ``data/cards``, Markdown, and wrap its paragraphs of text."""
    text = _templates().get_template(f"{template}.jinja").render(values)
    return "\n\n".join(map(_wrapped, re.split(r"\n\s*\n", text.strip()))) + "\n"


def steps_sentence(options: Mapping[str, Any]) -> str:
    """Return what a step of a fit was, and how many there were."""
    module = _templates().get_template("parts.jinja").module
    return " ".join(module.steps(options).split())  # type: ignore[attr-defined]


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
