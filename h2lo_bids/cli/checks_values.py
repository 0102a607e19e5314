"""Values of options that do not go together; looks at no file."""

from __future__ import annotations

from h2lo_bids.errors import UsageError
from h2lo_bids.models.registry import METHODS as FAMILY_OF
from h2lo_bids.settings import Settings
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


def standard_spaces(settings: Settings) -> tuple[str, ...]:
    """Return the output spaces that need registration to a template."""
    return tuple(space for space in settings.output_spaces if space not in OWN_SPACES)


def check_values(settings: Settings) -> None:
    """Check combinations of options.

    Raises
    ------
    UsageError
        If options contradict each other, or one would be of no use.
    """
    _check_models(settings)
    _check_derivatives(settings)
    _check_spaces(settings)
    _check_others(settings)
    _check_fitting(settings)
    _check_benchmark(settings)
    _check_arms(settings)


def _check_models(settings: Settings) -> None:
    _check_once("init", [contrast for contrast, _ in settings.init])
    if settings.level == "evaluate":  # any number of models is compared
        return
    if settings.level == "participant" and (len(settings.method) > 1 or ALL in settings.method):
        raise UsageError(f"--method {' '.join(settings.method)}: give one method")
    _check_once("model", [contrast for contrast, _ in settings.model])


def _check_once(option: str, contrasts: list[str]) -> None:
    for contrast in contrasts:
        if contrasts.count(contrast) > 1:
            which = contrast or "without a contrast"
            raise UsageError(
                f"--{option} is given twice {which}; write --{option} T1w=PATH T2w=PATH for two "
                "models"
            )


def _check_derivatives(settings: Settings) -> None:
    """Names become those of the output's DatasetLinks, where the input has some already."""
    names = [name for name, _ in settings.derivatives]
    taken = ("raw", "lf")
    if set(names) & set(taken) or len(set(names)) < len(names):
        raise UsageError(
            f"--derivatives {' '.join(names)}: give each dataset a unique name other than "
            f"{' and '.join(taken)}"
        )


def _check_spaces(settings: Settings) -> None:
    standard = standard_spaces(settings)
    names = [space.partition(":")[0] for space in standard]
    if len(set(names)) < len(names):
        raise UsageError(f"--output-spaces {' '.join(standard)}: name each template once")
    if settings.template_file is not None and len(standard) != 1:
        raise UsageError(
            "--template-file is the image of one space; name it with --output-spaces NAME"
        )
    if settings.synthstrip_weights is not None and settings.skull_strip not in (
        "auto",
        "synthstrip",
    ):
        raise UsageError(
            f"--synthstrip-weights has no effect with --skull-strip {settings.skull_strip}"
        )


def _check_others(settings: Settings) -> None:
    """Refuse values that only some levels or some other options allow."""
    if settings.precision == "fp16" and settings.level not in ("group", "benchmark"):
        raise UsageError(
            "--precision fp16 is for fitting, at the group level or in a benchmark; take "
            "bf16, or leave it out"
        )
    if settings.realism_reference and settings.task != SYNTHESIZE:
        raise UsageError(
            "--realism-reference is for synthesized images; leave it or --task enhance out"
        )
    if settings.realisations > 1 and settings.noise == "none":
        raise UsageError(
            f"--realisations {settings.realisations} would all be the same image; "
            "add --noise calibrated"
        )
    if settings.noise_scale is not None and settings.noise == "none":
        raise UsageError(
            f"--noise-scale {settings.noise_scale:g}: there is no noise to scale; "
            "add --noise calibrated"
        )
    for option in ("slice_profile", "slice_thickness"):
        if getattr(settings, option) is not None and not settings.lf_grid:
            raise UsageError(
                f"--{option.replace('_', '-')} is of no use without the slices of --lf-grid; "
                "add --lf-grid XxYxZ"
            )


def _check_fitting(settings: Settings) -> None:
    """Refuse what no fit or no fold can follow."""
    if settings.lambda_grad == 0:
        raise UsageError("--lambda-grad 0 is what --method h2lo-nograd does; use that")
    if settings.folds == "0" and settings.fold:
        raise UsageError("--fold names folds and --folds 0 asks for none; leave one of them out")
    if settings.fold and settings.collect:
        raise UsageError("--fold fits some folds and --collect fits none; leave one of them out")
    if settings.folds == "0" and settings.no_final:
        raise UsageError("--folds 0 --no-final leaves nothing to fit; leave one of them out")
    if settings.test_count is not None and not settings.folds.isdigit():
        raise UsageError(f"--test-count has no effect with --folds {settings.folds}; leave it out")
    if settings.test_count is not None and settings.folds == "0":
        raise UsageError("--test-count has no effect with --folds 0, which tests nobody")
    if settings.val_count is not None and not settings.folds.isdigit():
        raise UsageError(f"--val-count has no effect with --folds {settings.folds}; leave it out")
    if settings.protocol == "paper" and (settings.batch or 1) > 1:
        raise UsageError("--protocol paper takes one volume per step; leave --batch out")
    _check_owners(settings)


def _check_owners(settings: Settings) -> None:
    """Refuse options that none of the methods takes; with several, they are for those that do."""
    families = {FAMILY_OF[name] for name in settings.methods}
    for option, owners in _OWN_OPTIONS.items():
        if getattr(settings, option) is not None and not families & set(owners):
            raise UsageError(
                f"--{option.replace('_', '-')} means nothing to {' and '.join(settings.methods)}, "
                "whose own value is fixed; leave it out"
            )
    if "h2lo" not in settings.methods and any(start != NONE for _, start in settings.init):
        raise UsageError(
            f"--init means nothing to {' and '.join(settings.methods)}: of the methods, only h2lo "
            "can start from another model; leave it out"
        )
    if settings.devices > 1 and not families & {"h2lo", "inr"}:
        raise UsageError(
            f"--devices {settings.devices}: {' and '.join(settings.methods)} can be fitted by one "
            "process only; leave the option out"
        )


def _check_benchmark(settings: Settings) -> None:
    """Refuse a benchmark without test subjects, and commands that cannot be run."""
    if settings.level != "benchmark":
        return
    if settings.folds == "0":
        raise UsageError("--folds 0 leaves nothing to compare; give a benchmark 2 folds or more")
    from h2lo_bids.training.command import Command

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
            f"--arms {named}: give --cohort, what participant wrote for the high-field scans that "
            "these arms are pretrained on; or --arms real flip-rotate"
        )
