"""What can be known to be wrong before anything is begun: options, paths, models, templates."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.bids.query import in_derivatives
from h2lo_bids.errors import BadDataError, CannotCreateError, MissingInputError, UsageError
from h2lo_bids.imaging import templates
from h2lo_bids.models.registry import METHODS as FAMILY_OF
from h2lo_bids.processes import note
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.convert import NONE, STARTS
from h2lo_bids.settings.options import ALL
from h2lo_bids.vocabulary import CURVE, ENHANCER, FLIP_ROTATE, METHODS, REAL, SYNTHESIZE, Send
from h2lo_bids.wording import did_you_mean

_DATASETS = ("--derivatives", "--lf-dir", "--pretrain-derivatives")
Templates = dict[str, dict[str, tuple[Path, Path | None]]]
"""Image and brain mask of each contrast and standard space."""
_OWN_OPTIONS = {
    "lambda_grad": ("h2lo",),
    "crop": ("h2lo", "inr", "arnold", "identity"),  # the last two are only validated on crops
    "batch": ("h2lo", "inr"),
    "learning_rate": ("h2lo", "inr"),
    "sampling": ("h2lo", "inr", "diffi2i"),
}
"""Options of a fit that mean nothing to the other families of methods."""
_CONTRADICTIONS: tuple[tuple[Callable[[Settings], Any], str], ...] = (
    (
        lambda s: s.level == "participant" and (len(s.method) > 1 or ALL in s.method),
        "--method: give one method, which makes the images",
    ),
    (
        lambda s: s.template_file is not None and len(s.standard_spaces) != 1,
        "--template-file is the image of one space; name it with --output-spaces NAME",
    ),
    (
        lambda s: s.synthstrip_weights and s.skull_strip not in ("auto", "synthstrip"),
        "--synthstrip-weights has no effect with --skull-strip {0.skull_strip}",
    ),
    (
        lambda s: s.precision == "fp16" and not s.fits,
        "--precision fp16 is only for fits, at the group level or in a benchmark; use bf16",
    ),
    (
        lambda s: s.realism_reference and s.task != SYNTHESIZE,
        "--realism-reference is for synthesized images; leave it or --task enhance out",
    ),
    (
        lambda s: s.draws > 1 and s.noise == "none" and not _tries(s),
        "--realisations {0.realisations} would all be the same image; add --noise calibrated",
    ),
    (
        lambda s: s.noise_scale is not None and s.noise == "none" and not _tries(s),
        "--noise-scale {0.noise_scale:g}: there is no noise to scale; add --noise calibrated",
    ),
    (
        lambda s: (s.slice_profile or s.slice_thickness) and not s.lf_grid and not _tries(s),
        "--slice-profile and --slice-thickness need the slices of --lf-grid; add --lf-grid XxYxZ",
    ),
    (
        lambda s: s.level == "trial" and not s.labels,
        "trial needs lesion masks; give --labels NAME=PATH",
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
        lambda s: s.folds == "0" and (s.no_final or s.level == "benchmark"),
        "--folds 0 leaves nothing to fit here; give 2 folds or more",
    ),
    (
        lambda s: s.test_count and not s.folds.strip("0").isdigit(),
        "--test-count has no effect with --folds {0.folds}; leave it out",
    ),
    (
        lambda s: s.val_count and not s.folds.isdigit(),
        "--val-count has no effect with --folds {0.folds}; leave it out",
    ),
    (
        lambda s: s.lf_dir is not None and s.lf_dir.resolve() == s.bids_dir.resolve(),
        "--lf-dir {0.lf_dir}: is bids_dir itself; leave the option out, and choose scans with --hf "
        "and --lf",
    ),
    (
        lambda s: s.protocol == "paper" and max(s.batch or 1, s.devices) > 1,
        "--protocol paper takes one volume per step; leave --batch and --devices out",
    ),
)
"""What makes no sense together, and what is said of it."""


def check_usage(settings: Settings) -> None:
    """Check paths and combinations of options; reads folders, writes nothing."""
    try:
        os.chdir(Path.cwd())
    except OSError:  # deleted or closed: Nipype and others go there, though nothing is
        os.chdir("/")
    if not settings.bids_dir.is_dir():
        raise MissingInputError(
            f"{settings.bids_dir}: no such folder; give the root of a BIDS dataset"
        )
    _check_places(settings)
    out = settings.out_dir.resolve()
    if settings.work.resolve() in (out, out / "logs"):
        raise UsageError(
            f"--work-dir {settings.work}: is out_dir itself or its logs; choose another folder, "
            "or leave the option out"
        )
    _check_inputs(settings)
    check_values(settings)
    require_own(settings.out_dir)


def _check_inputs(settings: Settings) -> None:
    """Refuse what is not there, and what is only a part or a parent of a model."""
    for option, path in settings.inputs():
        if option in _DATASETS and not path.is_dir():
            raise MissingInputError(f"{option} {path}: is not a folder; give a dataset's root")
        if not path.exists():
            words = {"--folds": ("ds006557",), "--init": STARTS}.get(option, ())
            meant = did_you_mean(path.name, words)
            raise MissingInputError(f"{option} {path}: no such file{meant or '; check the path'}")
        if option in ("--model", "--init", "--condition"):
            from h2lo_bids.models.choice import check_place

            check_place(path)


def prepare_folders(settings: Settings) -> None:
    """Create out_dir and the work folder."""
    for name, folder in (("out_dir", settings.out_dir), ("the work folder", settings.work)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise CannotCreateError(
                f"{folder}: cannot create {name} ({err.strerror}); choose another folder"
            ) from err
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CannotCreateError(
                f"{folder}: cannot write to {name}; choose another or change its permissions"
            )


def check_models_and_templates(
    settings: Settings, suffixes: tuple[str, ...], send: Send
) -> Templates:
    """Load each model once and find each template; runs in a child process."""
    from h2lo_bids.imaging.brain import synthstrip_weights
    from h2lo_bids.imaging.synthstrip import load_network
    from h2lo_bids.models.bundle import load_model
    from h2lo_bids.models.choice import bundles_for
    from h2lo_bids.synthesis.options import resolve_device

    resolve_device(settings.device)
    bundles = bundles_for(settings, suffixes)
    lines = [_check_model(*pair) for pair in bundles.items()]
    for bundle in bundles.values():
        check_extras(settings, bundle)
    if _tries(settings):
        from h2lo_bids.trial.condition import conditions_of

        for condition in conditions_of(settings):
            for suffix in suffixes:
                load_model(condition.bundle(settings, suffix))
    if (weights := synthstrip_weights(settings)) is not None:
        load_network(weights)
    spaces = settings.standard_spaces
    templates: Templates = {
        suffix: {space: _find_template(settings, space, suffix) for space in spaces}
        for suffix in suffixes
    }
    for line in lines:
        send(note(line))
    return templates


def _find_template(settings: Settings, space: str, suffix: str) -> tuple[Path, Path | None]:
    """Return a template's image and brain mask."""
    from h2lo_bids.imaging.reading import load_checked

    if settings.template_file is not None:
        load_checked(settings.template_file)
        return settings.template_file, None
    try:
        files = templates.find_template(space, suffix=suffix, fetch=settings.fetch_templates)
    except MissingInputError as err:
        name = space.partition(":")[0]
        here = sorted(path.name[4:] for path in templates.templateflow_home().glob("tpl-*"))
        known = ("native", "model", "MNI152NLin2009cAsym", "MNI152NLin6Asym", *here)
        meant = "" if name in known else did_you_mean(name, known)
        raise MissingInputError(f"{err}{meant}") from err
    load_checked(files[0])
    return files


def _check_model(suffix: str, bundle: Any) -> str:
    from h2lo_bids.models.bundle import load_model

    load_model(bundle)
    kind = (bundle.metadata.get("training_data") or {}).get("kind", "unknown")
    name = bundle.metadata.get("name", bundle.path.name)
    training = {"none": "not trained", "unknown": "of unknown training"}
    trained = training.get(kind, f"trained on {kind} pairs")
    return f"{suffix}: model {name}, {trained}, SHA-256 {bundle.sha256[:12]}"


def _check_places(settings: Settings) -> None:
    """Refuse to write into a dataset that is read, but in the derivatives of a raw one."""
    places = {
        "out_dir": settings.out_dir,
        "--work-dir": settings.work,
        "--bids-database-dir": settings.bids_database_dir,
    }
    read = [("the input dataset", settings.bids_dir)]
    read += [(f"{flag} {path}", path) for flag, path in settings.inputs() if flag in _DATASETS]
    for title, root in read:
        raw = root in (settings.bids_dir, settings.lf_dir)
        for name, path in places.items():
            if path is None or (raw and in_derivatives(path, root)):
                continue
            if root.resolve() in (path.resolve(), *path.resolve().parents):
                raise UsageError(
                    f"{name} {path}: lies inside {title}, which is never written; choose a folder "
                    f"outside it{', or in its derivatives/NAME' if raw else ''}"
                )


def check_extras(settings: Settings, bundle: Any) -> None:
    """Check that a bundle carries what the options need."""
    remedy = "fit one with `h2lo bids_dir out_dir group`, or leave the option out"
    if settings.noise == "calibrated":
        from h2lo_bids.synthesis.noise import NoiseModel

        if "noise" not in bundle.metadata:
            raise UsageError(f"--noise calibrated: {bundle.path} has no noise model; {remedy}")
        try:
            NoiseModel.from_dict(bundle.metadata["noise"])
        except BadDataError as err:
            raise BadDataError(f"{bundle.path}: {err}") from err
    if settings.uncertainty:
        from h2lo_bids.models.bundle import members

        if len(members(bundle)) < 2:
            raise UsageError(
                f"--uncertainty: {bundle.path} has no models of folds to compare; {remedy}"
            )


def _tries(settings: Settings) -> bool:
    """Tell whether conditions have noise and slices that the run's own images need not have."""
    return bool(settings.level == "trial" or settings.condition)


def check_values(settings: Settings) -> None:
    """Refuse options that contradict each other, or of which one would be of no use."""
    for contradicts, text in _CONTRADICTIONS:
        if contradicts(settings):
            raise UsageError(text.format(settings))
    _check_names(settings)
    _check_owners(settings)
    _check_external(settings)
    _check_arms(settings)
    if _tries(settings) or settings.labels:
        from h2lo_bids.trial.condition import conditions_of

        conditions_of(settings)


def _check_names(settings: Settings) -> None:
    """Refuse two models, templates or datasets under one name."""
    given = [("--init", contrast) for contrast, _ in settings.init]
    if settings.level != "evaluate":
        given += [("--model", contrast) for contrast, _ in settings.model]
    for option, contrast in given:
        if given.count((option, contrast)) > 1:
            raise UsageError(
                f"{option} is given twice {contrast or 'without a contrast'}; write {option} "
                "T1w=PATH T2w=PATH for two models"
            )
    standard = settings.standard_spaces
    if len({templates.parse_space(space).label for space in standard}) < len(standard):
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
    if settings.fold:  # a task of a job array, whose other tasks may have other methods
        return
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
    lone = {f"{ENHANCER}-{name}" for name in (REAL, FLIP_ROTATE, CURVE)}
    lacking = [name for name in settings.arms if name not in lone]
    if lacking and not settings.pretrain_derivatives:
        named = " ".join(name.removeprefix(f"{ENHANCER}-") for name in lacking)
        raise UsageError(
            f"--arm {named}: pretrained arms need --pretrain-derivatives, the out_dir of "
            "participant for a high-field cohort; give it, or --arm real flip-rotate curve"
        )
