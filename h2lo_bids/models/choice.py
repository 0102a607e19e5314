"""Which models a run uses, of given bundles, folders of bundles and embedded models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.errors import UsageError
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import METADATA, Bundle, default_bundle, load_bundle
from h2lo_bids.models.registry import METHODS, task_of
from h2lo_bids.settings import Settings
from h2lo_bids.settings.options import ALL
from h2lo_bids.vocabulary import ENHANCE, IDENTITY, SYNTHESIZE

_DEFAULT = {SYNTHESIZE: "h2lo", ENHANCE: "pfsr"}
BUNDLE = "bundle"
"""What every fold calls the folder of its model."""


class Found(NamedTuple):
    """A bundle, as its metadata name it; nothing else of it has been read."""

    path: Path
    method: str
    contrast: str


def is_collection(path: Path) -> bool:
    """Return whether a folder holds bundles and is none itself."""
    return not (path / METADATA).exists() and any(path.glob(f"[!.]*/{METADATA}"))


def check_place(path: Path) -> None:
    """Refuse a part or a parent of a model's folder, and name the folder that was meant."""
    if (path / METADATA).exists() or is_collection(path) or path.suffix == ".pth":
        return
    whole = next((parent for parent in path.parents[:2] if (parent / METADATA).is_file()), None)
    if whole is not None:
        raise UsageError(f"{path}: is a part of a model; give the model's folder: {whole}")
    folders = sorted({found.parents[1] for found in path.glob(f"*/*/{METADATA}")})
    if folders:
        meant = path / "models" if path / "models" in folders else folders[0]
        raise UsageError(
            f"{path}: is not a model, but its folder {meant.name}/ holds some: {meant}"
        )


def choose_bundles(
    folder: Path,
    *,
    contrasts: Sequence[str],
    methods: Sequence[str] = (),
    task: str | None = None,
) -> tuple[Found, ...]:
    """Choose from a folder of bundles; those whose metadata cannot be read count by their names."""
    found = []
    for place in sorted(folder.glob("[!.]*")):
        try:
            content = read_json(place / METADATA)
            item = Found(place, str(content["method"]), str(content["contrast"]))
        except (OSError, ValueError, KeyError, TypeError):
            item = Found(place, *place.name.rpartition("_")[::2])
            if item.method not in METHODS:
                continue
        found.append(item)
    usable = [i for i in found if i.contrast in contrasts and task in (None, task_of(i.method))]
    lacking = [name for name in methods if name not in {item.method for item in usable}]
    if lacking or not usable:
        what = f"{lacking[0]} model" if lacking else "model"
        aim = f" to {task}" if task else ""
        listed = ", ".join(item.path.name for item in found) or "nothing that can be read"
        raise UsageError(
            f"{folder}: holds no {what} for {' or '.join(contrasts)}{aim}; it holds {listed}"
        )
    if methods:
        usable = [item for name in methods for item in usable if item.method == name]
    return tuple(usable)


def bundles_for(settings: Settings, suffixes: tuple[str, ...]) -> dict[str, Bundle]:
    """Return the bundle that is to be used for each contrast: a given or an embedded one."""
    given, methods, task = dict(settings.model), settings.method[:1], settings.task
    bundles: dict[str, Bundle] = {}
    for contrast, path in given.items():
        wanted = [s for s in suffixes if (s == contrast if contrast else s not in given)]
        if not wanted:
            continue
        for bundle in _models_at(path, wanted, methods, task, one_each=True):
            bundles[bundle.contrast] = bundle
    name = methods[0] if methods else _DEFAULT[task]
    return {s: bundles.get(s) or default_bundle(s, method=name) for s in suffixes}


def given_bundles(settings: Settings, contrasts: tuple[str, ...]) -> tuple[Bundle, ...]:
    """Return all models that the evaluate level is given, in the order of the options."""
    methods = () if ALL in settings.method else settings.method
    # Without the option the models themselves say what they are for.
    task = ENHANCE if settings.task == ENHANCE else None
    found: list[Bundle] = []
    for contrast, path in settings.model:
        # Which pairs there are is no matter of a bundle's folder, which knows its contrast.
        alone = not (contrast or path.is_file() or is_collection(path))
        wanted = () if alone else (contrast,) if contrast else contrasts
        found += _models_at(path, wanted, methods, task)
    return tuple(found)


def _models_at(
    path: Path,
    contrasts: Sequence[str],
    methods: tuple[str, ...],
    task: str | None,
    *,
    one_each: bool = False,
) -> Iterator[Bundle]:
    """Load what a path leads to: one model, or those of some contrasts in a folder."""
    # A file of the authors may not know its contrast.
    places = {path: contrasts[0] if len(contrasts) == 1 else None}
    if is_collection(path):
        found = choose_bundles(path, contrasts=contrasts, methods=methods, task=task)
        places = {item.path: item.contrast for item in found}
        for contrast in contrasts if one_each else ():
            usable = [item for item in found if item.contrast == contrast]
            names, how = [item.method for item in usable], "choose one with --method"
            if len({*names}) < len(names):
                names, how = [item.path.name for item in usable], "give the folder of one"
            if len(names) > 1:
                raise UsageError(
                    f"--model {path}: holds {len(names)} models for {contrast}; {how}: "
                    f"{', '.join(names)}"
                )
    for place, own in places.items():
        bundle = load_bundle(place, contrast=own, task=task)
        if methods and bundle.method not in methods:
            raise UsageError(
                f"--model {bundle.path}: is a model of {bundle.method}, and --method asks for "
                f"{' and '.join(methods)}; leave --method out, or give another model"
            )
        yield bundle


def named_models(
    settings: Settings, contrasts: tuple[str, ...]
) -> dict[str, list[tuple[str, Bundle]]]:
    """Return the models of each contrast, by default the embedded one, under names of their own."""
    # Not the identity: the high-field image itself is a row of every table.
    found: dict[str, list[tuple[str, Bundle]]] = {}
    if not settings.model:
        asked = [name for name in settings.method if name != ALL] or [_DEFAULT[settings.task]]
        for contrast in contrasts if asked != [IDENTITY] else ():
            names = (name for name in asked if name != IDENTITY)
            found[contrast] = [("embedded", default_bundle(contrast, method=n)) for n in names]
    for bundle in given_bundles(settings, contrasts):
        if bundle.contrast not in contrasts:
            raise UsageError(
                f"--model {bundle.path}: is for {bundle.contrast}, and there are no pairs of it; "
                f"the pairs are {', '.join(contrasts)}"
            )
        if bundle.method != IDENTITY:
            own = found.setdefault(bundle.contrast, [])
            own.append((_name(bundle, [name for name, _ in own]), bundle))
    if not found:
        raise UsageError(
            f"method {IDENTITY}: the high-field image itself is a row of every table; name "
            "another method or model to compare with it"
        )
    return found


def _name(bundle: Bundle, taken: list[str]) -> str:
    """Call a model by its folder or file, or, where every model's folder is called so, itself."""
    name = bundle.path.stem if bundle.path.is_file() else bundle.path.name
    if name == BUNDLE:
        name = str(bundle.metadata.get("name", name))
    name = re.sub(r"[^\w.+-]+", "-", name).lstrip(".+-") or "model"
    name = f"model-{name}" if name == IDENTITY else name
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)
