"""What can be known to be wrong before anything is begun: options, paths, models, templates."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.errors import BadDataError, CannotCreateError, MissingInputError, UsageError
from h2lo_bids.imaging import templates
from h2lo_bids.imaging.brain import synthstrip_weights
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.models.bundle import Bundle, load_model, members
from h2lo_bids.models.choice import bundles_for, check_place
from h2lo_bids.models.registry import METHODS as FAMILY_OF
from h2lo_bids.processes import note
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.convert import NONE, STARTS
from h2lo_bids.settings.options import ALL
from h2lo_bids.vocabulary import CURVE, ENHANCER, FLIP_ROTATE, METHODS, REAL, SYNTHESIZE, Send
from h2lo_bids.wording import did_you_mean

_DATASETS = ("--derivatives", "--lf-dir", "--pretrain-derivatives")
Templates = dict[str, dict[str, templates.TemplateFiles]]
"""Image and brain mask of each contrast and standard space."""
_OWN_OPTIONS = {
    "lambda_grad": ("h2lo",),
    "crop": ("h2lo", "inr", "arnold", "identity"),  # the last two are only validated on crops
    "batch": ("h2lo", "inr"),
    "learning_rate": ("h2lo", "inr"),
    "sampling": ("h2lo", "inr", "diffi2i"),
    "devices": ("h2lo", "inr"),
}
"""Options of a fit that mean nothing to the other families of methods."""


def check_usage(settings: Settings) -> None:
    """Check paths and combinations of options; reads folders, writes nothing."""
    try:
        os.chdir(Path.cwd())
    except OSError:  # deleted or closed: Nipype and others go there, though nothing is
        os.chdir("/")
    if not settings.bids_dir.is_dir():
        raise MissingInputError(f"{settings.bids_dir}: no such folder; give a BIDS dataset's root")
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
            check_place(path)


def prepare_folders(settings: Settings) -> None:
    """Create out_dir and the work folder."""
    for name, folder in (("out_dir", settings.out_dir), ("the work folder", settings.work)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as err:
            raise CannotCreateError(
                f"{folder}: cannot create {name} or write there ({err.strerror}); choose another "
                "folder, or change its permissions"
            ) from err


def check_models_and_templates(
    settings: Settings, suffixes: tuple[str, ...], send: Send
) -> Templates:
    """Load each model once and find each template; runs in a child process."""
    from h2lo_bids.imaging.synthstrip import load_network
    from h2lo_bids.synthesis.options import resolve_device

    resolve_device(settings.device)
    for suffix, bundle in bundles_for(settings, suffixes).items():
        load_model(bundle)
        check_extras(settings, bundle)
        kind = (bundle.metadata.get("training_data") or {}).get("kind", "unknown")
        trained = {"none": "not trained", "unknown": "of unknown training"}
        training = trained.get(kind, f"trained on {kind} pairs")
        name = bundle.metadata.get("name", bundle.path.name)
        send(note(f"{suffix}: model {name}, {training}, SHA-256 {bundle.sha256[:12]}"))
    if _tries(settings):
        from h2lo_bids.trial.condition import conditions_of

        for condition in conditions_of(settings):
            for suffix in suffixes:
                load_model(condition.bundle(settings, suffix))
    if (weights := synthstrip_weights(settings)) is not None:
        load_network(weights)
    spaces = settings.standard_spaces
    return {
        suffix: {space: _find_template(settings, space, suffix) for space in spaces}
        for suffix in suffixes
    }


def _find_template(settings: Settings, space: str, suffix: str) -> templates.TemplateFiles:
    """Find a template, whose image can be read."""
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
            if path is None or (raw and root.resolve() / "derivatives" in path.resolve().parents):
                continue
            if path.resolve().is_relative_to(root.resolve()):
                raise UsageError(
                    f"{name} {path}: lies inside {title}, which is never written; choose a folder "
                    f"outside it{', or in its derivatives/NAME' if raw else ''}"
                )


def check_extras(settings: Settings, bundle: Bundle) -> None:
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
    if settings.uncertainty and len(members(bundle)) < 2:
        raise UsageError(f"--uncertainty: {bundle.path} has no models of folds; {remedy}")


def _tries(settings: Settings) -> bool:
    """Tell whether conditions have noise and slices that the run's own images need not have."""
    return bool(settings.level == "trial" or settings.condition)


def check_values(settings: Settings) -> None:
    """Refuse options that contradict each other, or of which one would be of no use."""
    for of in (_of_images, _of_fits, _of_names, _of_owners):
        if text := next(of(settings), ""):
            raise UsageError(text)
    names = [*METHODS, *(name for name, _ in settings.external)]
    for name, template in settings.external:
        from h2lo_bids.training.experiments.external import Command

        if names.count(name) > 1:
            raise UsageError(f"--external {name}: another method has this name; choose a new one")
        Command(name, template).find_program()
    if _tries(settings) or settings.labels:
        from h2lo_bids.trial.condition import conditions_of

        conditions_of(settings)


def _of_images(s: Settings) -> Iterator[str]:
    """Yield what makes no sense together of the options on images."""
    plain = not _tries(s)
    if s.level in ("participant", "trial") and (len(s.method) > 1 or ALL in s.method):
        yield "--method: give one method, which makes the images"
    if s.template_file is not None and len(s.standard_spaces) != 1:
        yield "--template-file is the image of one space; name it with --output-spaces NAME"
    if s.synthstrip_weights and s.skull_strip not in ("auto", "synthstrip"):
        yield f"--synthstrip-weights has no effect with --skull-strip {s.skull_strip}"
    if s.task != SYNTHESIZE and (s.realism_reference or s.method):
        option = "--method" if s.method else "--realism-reference"
        yield f"{option} is for synthesized images; leave it or --task enhance out"
    if plain and s.draws > 1 and s.noise == "none":
        yield f"--realisations {s.realisations} would all be the same image; add --noise calibrated"
    if plain and s.noise_scale is not None and s.noise == "none":
        yield f"--noise-scale {s.noise_scale:g}: there is no noise to scale; add --noise calibrated"
    if plain and (s.slice_profile or s.slice_thickness) and not s.lf_grid:
        text = "--slice-profile and --slice-thickness need the slices of --lf-grid"
        yield f"{text}; add --lf-grid XxYxZ"
    if s.level == "trial" and not s.labels:
        yield "trial needs lesion masks; give --labels NAME=PATH"


def _of_fits(s: Settings) -> Iterator[str]:
    """Yield what makes no sense together of the options on pairs and fits."""
    if s.precision == "fp16" and not s.fits:
        yield "--precision fp16 is only for fits, at the group level or in a benchmark; use bf16"
    if s.lambda_grad == 0:
        yield "--lambda-grad 0 is what --method h2lo-nograd does; use that"
    if s.folds == "0" and s.fold:
        yield "--fold names folds and --folds 0 asks for none; leave one of them out"
    if s.fold and s.collect:
        yield "--fold fits some folds and --collect fits none; leave one of them out"
    if s.folds == "0" and (s.no_final or s.level == "benchmark"):
        yield "--folds 0 leaves nothing to fit here; give 2 folds or more"
    if s.test_count and not s.folds.strip("0").isdigit():
        yield f"--test-count has no effect with --folds {s.folds}; leave it out"
    if s.val_count and not s.folds.isdigit():
        yield f"--val-count has no effect with --folds {s.folds}; leave it out"
    if s.lf_dir is not None and s.lf_dir.resolve() == s.bids_dir.resolve():
        text = "is bids_dir itself; leave the option out, and choose scans with --hf and --lf"
        yield f"--lf-dir {s.lf_dir}: {text}"
    if s.protocol == "paper" and max(s.batch or 1, s.devices) > 1:
        yield "--protocol paper takes one volume per step; leave --batch and --devices out"


def _of_names(s: Settings) -> Iterator[str]:
    """Yield models, templates or datasets under one name."""
    given = [("--init", contrast) for contrast, _ in s.init]
    given += [("--model", contrast) for contrast, _ in s.model if s.level != "evaluate"]
    for option, contrast in given:
        if given.count((option, contrast)) > 1:
            yield (
                f"{option} is given twice {contrast or 'without a contrast'}; write {option} "
                "T1w=PATH T2w=PATH for two models"
            )
    standard = s.standard_spaces
    if len({templates.parse_space(space).label for space in standard}) < len(standard):
        yield f"--output-spaces {' '.join(standard)}: name each template once"
    # They become names of the output's DatasetLinks, where the input has some already.
    names = ["raw", "lf", *(name for name, _ in s.derivatives)]
    if len({*names}) < len(names):
        text = "give each dataset a unique name other than raw and lf"
        yield f"--derivatives {' '.join(names[2:])}: {text}"


def _of_owners(s: Settings) -> Iterator[str]:
    """Yield arms that are pretrained on nothing, and options that none of the methods takes."""
    if s.level == "benchmark" and not (s.pretrain_derivatives or s.reports_only):
        lone = [f"{ENHANCER}-{name}" for name in (REAL, FLIP_ROTATE, CURVE)]
        arms = s.arms if s.fits_enhancer else ()
        if lacking := [name.removeprefix(f"{ENHANCER}-") for name in arms if name not in lone]:
            yield (
                f"--arm {' '.join(lacking)}: pretrained arms need --pretrain-derivatives, the "
                "out_dir of participant for a high-field cohort; give it, or --arm real "
                "flip-rotate curve"
            )
    if s.fold:  # a task of a job array, whose other tasks may have other methods
        return
    families, methods = {FAMILY_OF[name] for name in s.methods}, " and ".join(s.methods)
    for name, owners in _OWN_OPTIONS.items():
        option = OPTIONS[name]
        if getattr(s, name) != option.default and families.isdisjoint(owners):
            text = f"means nothing to {methods}, whose own value is fixed; leave it out"
            yield f"{option.flag} {text}"
    if "h2lo" not in s.methods and any(start != NONE for _, start in s.init):
        yield (
            f"--init means nothing to {methods}: of the methods, only h2lo can start from another "
            "model; leave it out"
        )
