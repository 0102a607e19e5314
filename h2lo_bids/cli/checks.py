"""What can be known to be wrong before anything is begun."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.bids.query import in_derivatives
from h2lo_bids.cli.checks_values import KNOWN_FOLDS, OWN_SPACES, check_values, standard_spaces
from h2lo_bids.cli.tasks import CheckTask
from h2lo_bids.errors import BadDataError, CannotCreateError, MissingInputError, UsageError
from h2lo_bids.io import read_text
from h2lo_bids.settings import Settings
from h2lo_bids.settings.convert import STARTS
from h2lo_bids.wording import did_you_mean

_DATASETS = ("--derivatives", "--lf-dir", "--pretrain-derivatives", "--cohort")
_SUBMITS_WITH = {
    "SLURM": "sbatch", "SLURMGraph": "sbatch", "PBS": "qsub", "PBSGraph": "qsub", "SGE": "qsub",
    "SGEGraph": "qsub", "LSF": "bsub", "OAR": "oarsub", "Condor": "condor_qsub",
    "CondorDAGMan": "condor_submit_dag",
}  # fmt: skip


def check_usage(settings: Settings) -> None:
    """Check paths and combinations of options; reads folders, writes nothing."""
    if not settings.bids_dir.is_dir():
        raise MissingInputError(
            f"{settings.bids_dir}: no such folder; give the root of a BIDS dataset"
        )
    _check_places(settings)
    if settings.work.resolve() == settings.out_dir.resolve():
        raise UsageError(
            f"--work-dir {settings.work}: is out_dir itself; choose another folder, "
            "or leave the option out"
        )
    _check_inputs(settings)
    check_values(settings)
    if settings.use_plugin is not None:
        read_plugin(settings.use_plugin)


def _check_inputs(settings: Settings) -> None:
    """Refuse what is not there, and what is only a part or a parent of a model."""
    for option, path in settings.inputs():
        if option in _DATASETS and not path.is_dir():
            raise MissingInputError(f"{option} {path}: is not a folder; give a dataset's root")
        if not path.exists():
            words = {"--folds": (KNOWN_FOLDS,), "--init": STARTS}.get(option, ())
            meant = did_you_mean(path.name, words)
            raise MissingInputError(f"{option} {path}: no such file{meant or '; check the path'}")
    models = [path for _, path in (*settings.model, *settings.init) if isinstance(path, Path)]
    if models:
        from h2lo_bids.models.collection import check_place

        for path in models:
            check_place(path)


def prepare_folders(settings: Settings) -> None:
    """Create out_dir and the work folder."""
    require_own(settings.out_dir)
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


def read_plugin(path: Path) -> dict[str, Any]:
    """Read a Nipype plugin's name and arguments from YAML."""
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except OSError as err:
        raise MissingInputError(f"--use-plugin {path}: cannot read it: {err.strerror}") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise UsageError(f"--use-plugin {path}: not YAML: {' '.join(str(err).split())}") from err
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise UsageError(f"--use-plugin {path}: needs 'plugin: NAME' and may have 'plugin_args'")
    if content["plugin"] in ("MultiProc", "LegacyMultiProc"):
        raise UsageError(
            f"--use-plugin {path}: participants have processes of their own, for which "
            f"{content['plugin']} is not needed; leave the option out, and set --nprocs and "
            "--omp-nthreads"
        )
    unknown = set(content) - {"plugin", "plugin_args"}
    if unknown or not isinstance(content.get("plugin_args") or {}, dict):
        raise UsageError(
            f"--use-plugin {path}: holds 'plugin: NAME' and a mapping 'plugin_args', nothing else"
        )
    return content


def _check_plugin(settings: Settings, content: dict[str, Any]) -> None:
    """Check a plugin before any scan depends on it."""
    from nipype.pipeline import plugins

    path = settings.use_plugin
    name, args = content["plugin"], content.get("plugin_args") or {}
    if not hasattr(plugins, f"{name}Plugin"):
        known = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
        raise UsageError(
            f"--use-plugin {path}: Nipype has no plugin {name!r}; it has {', '.join(known)}"
        )
    if name in _SUBMITS_WITH:
        _check_cluster(path, name, settings.work)
    try:
        getattr(plugins, f"{name}Plugin")(plugin_args=dict(args))
    except Exception as err:
        # Plugins check neither their arguments nor that their scheduler is there.
        raise UsageError(
            f"--use-plugin {path}: {name} cannot be used here with these plugin_args "
            f"({type(err).__name__}: {err}); correct them or leave the option out"
        ) from err


def _check_cluster(path: Path | None, name: str, work: Path) -> None:
    """Refuse what would fail with every scan: Nipype looks at neither."""
    command = _SUBMITS_WITH[name]
    if shutil.which(command) is None:
        raise UsageError(
            f"--use-plugin {path}: {name} submits with {command}, which is not on PATH here; run "
            "on a machine that submits jobs, or leave the option out"
        )
    if not re.fullmatch(r"[\w@%+=:,./-]+", str(work)):
        raise UsageError(
            f"--use-plugin {path}: {name} takes no work folder with spaces or quotation marks "
            f"({work}); choose another with -w"
        )


def check_models_and_templates(task: CheckTask, send: Any = None) -> dict[str, Any]:
    """Load each model once and find each template; runs in a child process."""
    from h2lo_bids.imaging.brain.synthstrip import load_network
    from h2lo_bids.models.choice import bundles_for
    from h2lo_bids.synthesis.options import resolve_device

    settings = task.settings
    resolve_device(settings.device)
    bundles = bundles_for(settings, task.suffixes)
    notes = [_check_model(*pair) for pair in bundles.items()]
    for bundle in bundles.values():
        check_extras(settings, bundle)
    if settings.use_plugin is not None:
        _check_plugin(settings, read_plugin(settings.use_plugin))
    if (weights := synthstrip_weights(settings)) is not None:
        load_network(weights)
    templates = [
        [suffix, space, *_find_template(settings, space, suffix)]
        for suffix in task.suffixes
        for space in standard_spaces(settings)
    ]
    return {"event": "checked", "templates": templates, "notes": notes}


def _find_template(settings: Settings, space: str, suffix: str) -> tuple[str, str | None]:
    """Return a template's image and brain mask."""
    from h2lo_bids.imaging.reading import load_checked
    from h2lo_bids.imaging.templates import find_template, parse_space, template_from_file

    if settings.template_file is None:
        name = space.partition(":")[0]
        try:
            template = find_template(space, suffix=suffix, fetch=settings.fetch_templates)
        except MissingInputError as err:
            known = _known_spaces()
            meant = "" if name in known else did_you_mean(name, known)
            raise MissingInputError(f"{err}{meant}") from err
    else:
        template = template_from_file(settings.template_file, parse_space(space).name)
    load_checked(template.image)
    return str(template.image), None if template.mask is None else str(template.mask)


def _known_spaces() -> list[str]:
    """Return the names of our own output spaces, of usual templates, and of those found here."""
    from h2lo_bids.imaging.templates import templateflow_home

    found = templateflow_home().glob("tpl-*")
    names = sorted(path.name.removeprefix("tpl-") for path in found)
    return [*OWN_SPACES, "MNI152NLin2009cAsym", "MNI152NLin6Asym", *names]


def _check_model(suffix: str, bundle: Any) -> str:
    from h2lo_bids.models.bundle import load_model

    load_model(bundle)
    kind = (bundle.metadata.get("training_data") or {}).get("kind", "unknown")
    name = bundle.metadata.get("name", bundle.path.name)
    training = {"none": "not trained", "unknown": "of unknown training"}
    trained = training.get(kind, f"trained on {kind} pairs")
    return f"{suffix}: model {name}, {trained}, SHA-256 {bundle.sha256[:12]}"


def synthstrip_weights(settings: Settings) -> Path | None:
    """Find SynthStrip's weights where they are wanted.

    The workflow takes them as a file, so that FREESURFER_HOME set later computes masks again.
    """
    if settings.skull_strip not in ("auto", "synthstrip"):
        return None
    from h2lo_bids.imaging.brain.synthstrip import find_weights

    required = settings.skull_strip == "synthstrip"
    return find_weights(settings.synthstrip_weights, required=required)


def _check_places(settings: Settings) -> None:
    """Refuse to write into a dataset that is read."""
    places = {
        "out_dir": settings.out_dir,
        "--work-dir": settings.work,
        "--bids-database-dir": settings.bids_database_dir,
    }
    raw = {"the input dataset": settings.bids_dir, "the dataset of --lf-dir": settings.lf_dir}
    read: dict[str, Path] = {title: root for title, root in raw.items() if root is not None}
    read |= {
        f"the dataset of {option} {path}": path
        for option, path in settings.inputs()
        if option in ("--pretrain-derivatives", "--cohort")
    }
    read |= {f"the dataset of --derivatives {name}": path for name, path in settings.derivatives}
    for title, root in read.items():
        for name, path in places.items():
            if path is not None and not (title in raw and in_derivatives(path, root)):
                _outside_input(title, root, name, path)


def _outside_input(title: str, root: Path, name: str, path: Path) -> None:
    inside, whole = path.resolve(), root.resolve()
    if inside == whole or whole in inside.parents:
        raise UsageError(
            f"{name} {path}: lies inside {title}, which is never written; choose a folder "
            f"outside it{'' if 'dataset of --' in title else ', or in its derivatives/NAME'}"
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
        from h2lo_bids.models.collection import members

        if len(members(bundle)) < 2:
            raise UsageError(
                f"--uncertainty: {bundle.path} has no models of folds to compare; {remedy}"
            )
