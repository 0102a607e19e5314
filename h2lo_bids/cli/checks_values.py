"""Values of options that do not go together; looks at no file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from h2lo_bids.errors import UsageError
from h2lo_bids.models.registry import METHODS as FAMILY_OF
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.convert import NONE
from h2lo_bids.settings.options import ALL
from h2lo_bids.vocabulary import ENHANCER, FLIP_ROTATE, METHODS, REAL, SYNTHESIZE

OWN_SPACES = ("native", "model")
KNOWN_FOLDS = "ds006557"
_OWN_OPTIONS = {
    "lambda_grad": ("h2lo",),
    "crop": ("h2lo", "inr"),
    "batch": ("h2lo", "inr"),
    "learning_rate": ("h2lo", "inr"),
    "sampling": ("h2lo", "inr", "diffi2i"),
}
"""Options of a fit that mean nothing to the other families of methods."""
_CONTRADICTIONS: tuple[tuple[Callable[[Settings], Any], str], ...] = (
    (
        lambda s: s.level == "participant" and (len(s.method) > 1 or ALL in s.method),
        "--method: give one method, of which the images are made",
    ),
    (
        lambda s: s.template_file is not None and len(standard_spaces(s)) != 1,
        "--template-file is the image of one space; name it with --output-spaces NAME",
    ),
    (
        lambda s: s.synthstrip_weights and s.skull_strip not in ("auto", "synthstrip"),
        "--synthstrip-weights has no effect with --skull-strip {0.skull_strip}",
    ),
    (
        lambda s: s.precision == "fp16" and s.level not in ("group", "benchmark"),
        "--precision fp16 is for fitting, at the group level or in a benchmark; take bf16, or "
        "leave it out",
    ),
    (
        lambda s: s.realism_reference and s.task != SYNTHESIZE,
        "--realism-reference is for synthesized images; leave it or --task enhance out",
    ),
    (
        lambda s: s.realisations > 1 and s.noise == "none" and not _tries(s),
        "--realisations {0.realisations} would all be the same image; add --noise calibrated",
    ),
    (
        lambda s: s.noise_scale is not None and s.noise == "none" and not _tries(s),
        "--noise-scale {0.noise_scale:g}: there is no noise to scale; add --noise calibrated",
    ),
    (
        lambda s: s.slice_profile is not None and not s.lf_grid and not _tries(s),
        "--slice-profile is of no use without the slices of --lf-grid; add --lf-grid XxYxZ",
    ),
    (
        lambda s: s.slice_thickness is not None and not s.lf_grid and not _tries(s),
        "--slice-thickness is of no use without the slices of --lf-grid; add --lf-grid XxYxZ",
    ),
    (
        lambda s: s.lambda_grad == 0,
        "--lambda-grad 0 is what --method h2lo-nograd does; use that",
    ),
    (
        lambda s: s.folds == "0" and s.fold,
        "--fold names folds and --folds 0 asks for none; leave one of them out",
    ),
    (
        lambda s: s.fold and s.collect,
        "--fold fits some folds and --collect fits none; leave one of them out",
    ),
    (
        lambda s: s.folds == "0" and s.no_final,
        "--folds 0 --no-final leaves nothing to fit; leave one of them out",
    ),
    (
        lambda s: s.folds == "0" and s.test_count is not None,
        "--test-count has no effect with --folds 0, which tests nobody",
    ),
    (
        lambda s: not s.folds.isdigit() and s.test_count is not None,
        "--test-count has no effect with --folds {0.folds}; leave it out",
    ),
    (
        lambda s: not s.folds.isdigit() and s.val_count is not None,
        "--val-count has no effect with --folds {0.folds}; leave it out",
    ),
    (
        lambda s: s.protocol == "paper" and (s.batch or 1) > 1,
        "--protocol paper takes one volume per step; leave --batch out",
    ),
    (
        lambda s: s.level == "benchmark" and s.folds == "0",
        "--folds 0 leaves nothing to compare; give a benchmark 2 folds or more",
    ),
)
"""What makes no sense together, and what is said of it."""


def _tries(settings: Settings) -> bool:
    """Tell whether conditions have noise and slices that the run's own images need not have."""
    return bool(settings.level == "trial" or settings.condition)


def standard_spaces(settings: Settings) -> tuple[str, ...]:
    """Return the output spaces that need registration to a template."""
    return tuple(space for space in settings.output_spaces if space not in OWN_SPACES)


def check_values(settings: Settings) -> None:
    """Refuse options that contradict each other, or of which one would be of no use."""
    for contradicts, text in _CONTRADICTIONS:
        if contradicts(settings):
            raise UsageError(text.format(settings))
    _check_names(settings)
    _check_owners(settings)
    _check_external(settings)
    _check_arms(settings)
    if _tries(settings):
        from h2lo_bids.trial.condition import check_conditions

        check_conditions(settings)


def _check_names(settings: Settings) -> None:
    """Refuse two models, templates or datasets under one name."""
    given = {"init": settings.init} | (
        {} if settings.level == "evaluate" else {"model": settings.model}
    )
    for option, values in given.items():
        contrasts = [contrast for contrast, _ in values]
        for contrast in contrasts:
            if contrasts.count(contrast) > 1:
                which = contrast or "without a contrast"
                raise UsageError(
                    f"--{option} is given twice {which}; write --{option} T1w=PATH T2w=PATH for "
                    "two models"
                )
    standard = standard_spaces(settings)
    if len({space.partition(":")[0] for space in standard}) < len(standard):
        raise UsageError(f"--output-spaces {' '.join(standard)}: name each template once")
    # They become names of the output's DatasetLinks, where the input has some already.
    names, taken = [name for name, _ in settings.derivatives], ("raw", "lf")
    if set(names) & set(taken) or len(set(names)) < len(names):
        raise UsageError(
            f"--derivatives {' '.join(names)}: give each dataset a unique name other than "
            f"{' and '.join(taken)}"
        )


def _check_owners(settings: Settings) -> None:
    """Refuse options that none of the methods takes; with several, they are for those that do."""
    families = {FAMILY_OF[name] for name in settings.methods}
    methods = " and ".join(settings.methods)
    for option, owners in _OWN_OPTIONS.items():
        if getattr(settings, option) is not None and not families & set(owners):
            raise UsageError(
                f"{OPTIONS[option].flag} means nothing to {methods}, whose own value is fixed; "
                "leave it out"
            )
    if "h2lo" not in settings.methods and any(start != NONE for _, start in settings.init):
        raise UsageError(
            f"--init means nothing to {methods}: of the methods, only h2lo can start from another "
            "model; leave it out"
        )
    if settings.devices > 1 and not families & {"h2lo", "inr"}:
        raise UsageError(
            f"--devices {settings.devices}: {methods} can be fitted by one process only; leave the "
            "option out"
        )


def _check_external(settings: Settings) -> None:
    """Refuse external tools that have the name of a method, or no program."""
    if not settings.external:
        return
    from h2lo_bids.training.experiments.external import Command

    names = [name for name, _ in settings.external]
    for name, template in settings.external:
        if name in METHODS or names.count(name) > 1:
            raise UsageError(f"--external {name}: another method has this name; choose a new one")
        Command(name, template).find_program()


def _check_arms(settings: Settings) -> None:
    """Refuse arms that are pretrained on nothing."""
    if not settings.fits_enhancer or settings.level != "benchmark" or settings.reports_only:
        return
    lone = {f"{ENHANCER}-{name}" for name in (REAL, FLIP_ROTATE)}
    if (lacking := [name for name in settings.arms if name not in lone]) and not settings.cohort:
        named = " ".join(name.removeprefix(f"{ENHANCER}-") for name in lacking)
        raise UsageError(
            f"--arm {named}: give --cohort, what participant wrote for the high-field scans that "
            "these arms are pretrained on; or --arm real flip-rotate"
        )
