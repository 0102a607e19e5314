"""What can be known to be wrong before anything is begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.bids.query import in_derivatives
from h2lo_bids.cli.beside import check_beside
from h2lo_bids.cli.checks_plugin import check_plugin
from h2lo_bids.cli.checks_values import KNOWN_FOLDS, OWN_SPACES, check_values, standard_spaces
from h2lo_bids.cli.tasks import CheckTask
from h2lo_bids.errors import (
    CannotCreateError,
    MissingInputError,
    UsageError,
)
from h2lo_bids.io import read_text
from h2lo_bids.settings import Settings
from h2lo_bids.wording import did_you_mean


def check_usage(settings: Settings) -> None:
    """Check paths and combinations of options; reads folders, writes nothing.

    Raises
    ------
    UsageError
        If options contradict each other or a folder is where it must not be.
    MissingInputError
        If a file or folder that an option names does not exist.
    """
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
    _check_files(settings)
    derivatives = [("--derivatives", path) for _, path in settings.derivatives]
    for option, path in [*derivatives, *_cohorts(settings)]:
        if not path.is_dir():
            raise MissingInputError(f"{option} {path}: is not a folder; give a dataset's root")
    if settings.lf_dir is not None and not settings.lf_dir.is_dir():
        raise MissingInputError(
            f"--lf-dir {settings.lf_dir}: is not a folder; give a dataset's root"
        )
    check_values(settings)
    if settings.use_plugin is not None:
        read_plugin(settings.use_plugin)


def _check_files(settings: Settings) -> None:
    """Refuse what is not there, and what is only a part or a parent of a model."""
    for option, path in _named_files(settings):
        if not path.exists():
            meant = did_you_mean(path.name, [KNOWN_FOLDS]) if option == "--folds" else ""
            raise MissingInputError(f"{option} {path}: no such file{meant or '; check the path'}")
    if settings.model:
        from h2lo_bids.models.collection import check_place

        for _, path in settings.model:
            check_place(path)


def prepare_folders(settings: Settings) -> None:
    """Create out_dir and the work folder.

    Raises
    ------
    CannotCreateError
        If one of them cannot be created or written, or out_dir is another program's.
    """
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
    """Read a Nipype plugin's name and arguments from YAML.

    Raises
    ------
    UsageError
        If the file says something else.
    MissingInputError
        If it cannot be read.
    """
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except OSError as err:
        raise MissingInputError(f"--use-plugin {path}: cannot read it: {err.strerror}") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise UsageError(f"--use-plugin {path}: not YAML: {' '.join(str(err).split())}") from err
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise UsageError(f"--use-plugin {path}: needs 'plugin: NAME' and may have 'plugin_args'")
    unknown = set(content) - {"plugin", "plugin_args"}
    if unknown or not isinstance(content.get("plugin_args") or {}, dict):
        raise UsageError(
            f"--use-plugin {path}: holds 'plugin: NAME' and a mapping 'plugin_args', nothing else"
        )
    return content


def check_models_and_templates(task: CheckTask, send: Any = None) -> dict[str, Any]:
    """Load each model once and find each template; runs in a child process.

    Parameters
    ----------
    task
        What will be needed.
    send
        Not used: the answer is the result.

    Returns
    -------
    dict
        ``{"event": "checked", "templates": [[suffix, space, image, mask]], "notes": [line]}``.

    Raises
    ------
    H2loError
        With what is wrong, in one line.
    """
    from h2lo_bids.cli.modelchoice import bundles_for

    settings = task.settings
    _check_device(settings)
    bundles = bundles_for(settings, task.suffixes)
    notes = [_check_model(*pair) for pair in bundles.items()]
    for bundle in bundles.values():
        check_beside(settings, bundle)
    if settings.use_plugin is not None:
        check_plugin(settings, read_plugin(settings.use_plugin))
    _check_weights(synthstrip_weights(settings))
    templates = [
        [suffix, space, *_find_template(settings, space, suffix)]
        for suffix in task.suffixes
        for space in standard_spaces(settings)
    ]
    return {"event": "checked", "templates": templates, "notes": notes}


def _find_template(settings: Settings, space: str, suffix: str) -> tuple[str, str | None]:
    """Return a template's image and brain mask."""
    from h2lo_bids.imaging.check import load_checked
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
    told = {"none": "not trained", "unknown": "of unknown training"}
    trained = told.get(kind, f"trained on {kind} pairs")
    return f"{suffix}: model {name}, {trained}, SHA-256 {bundle.sha256[:12]}"


def _check_device(settings: Settings) -> None:
    from h2lo_bids.synthesis.options import resolve_device

    resolve_device(settings.device)


def synthstrip_weights(settings: Settings) -> Path | None:
    """Find SynthStrip's weights where they are wanted.

    The workflow takes them as a file, so that FREESURFER_HOME set later computes masks again.
    """
    if settings.skull_strip not in ("auto", "synthstrip"):
        return None
    from h2lo_bids.imaging.brain.synthstrip import find_weights

    required = settings.skull_strip == "synthstrip"
    return find_weights(settings.synthstrip_weights, required=required)


def _check_weights(file: Path | None) -> None:
    from h2lo_bids.imaging.brain.synthstrip import load_network

    if file is not None:
        load_network(file)


def _check_places(settings: Settings) -> None:
    """Refuse to write into a dataset that is read."""
    places = {
        "out_dir": settings.out_dir,
        "--work-dir": settings.work,
        "--bids-database-dir": settings.bids_database_dir,
    }
    raw = {"the input dataset": settings.bids_dir, "the dataset of --lf-dir": settings.lf_dir}
    read: dict[str, Path] = {title: root for title, root in raw.items() if root is not None}
    read |= {f"the dataset of {option} {path}": path for option, path in _cohorts(settings)}
    read |= {f"the dataset of --derivatives {name}": path for name, path in settings.derivatives}
    for title, root in read.items():
        for name, path in places.items():
            if path is not None and not (title in raw and in_derivatives(path, root)):
                _outside_input(title, root, name, path)


def _cohorts(settings: Settings) -> list[tuple[str, Path]]:
    """Return the folders of high-field cohorts."""
    named = {
        "--pretrain-derivatives": settings.pretrain_derivatives,
        "--cohort": settings.cohort,
    }
    return [(option, path) for option, paths in named.items() for path in paths]


def _outside_input(title: str, root: Path, name: str, path: Path) -> None:
    inside, whole = path.resolve(), root.resolve()
    if inside == whole or whole in inside.parents:
        raise UsageError(
            f"{name} {path}: lies inside {title}, which is never written; choose a folder "
            f"outside it{'' if 'dataset of --' in title else ', or in its derivatives/NAME'}"
        )


def _named_files(settings: Settings) -> list[tuple[str, Path]]:
    """Return every path that an option says is there already."""
    named = [
        ("--bids-filter-file", settings.bids_filter_file),
        ("--synthstrip-weights", settings.synthstrip_weights),
        ("--template-file", settings.template_file),
        ("--use-plugin", settings.use_plugin),
    ]
    if not settings.folds.isdigit() and settings.folds != KNOWN_FOLDS:
        named.append(("--folds", Path(settings.folds)))
    named += [("--model", path) for _, path in settings.model]
    named += [("--realism-reference", path) for _, path in settings.realism_reference]
    named += [("--init", path) for _, path in settings.init if isinstance(path, Path)]
    named += [("--derivatives", path) for _, path in settings.derivatives]
    return [(option, path) for option, path in named if path is not None]
