"""Several models together: a folder of bundles, and the folds' models inside one bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.errors import UsageError
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import (
    METADATA,
    Bundle,
    load_bundle,
    parse_weights,
    read_bytes,
    read_extra,
)
from h2lo_bids.models.registry import task_of

if TYPE_CHECKING:
    from h2lo_bids.models.registry import Model

MEMBERS = "members"
"""Folder of the folds' models inside a bundle, from which its uncertainty is computed."""


@dataclass(frozen=True)
class Found:
    """A bundle, as its metadata names it; nothing else of it has been read."""

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


def find_bundles(folder: Path) -> tuple[Found, ...]:
    """List the bundles in a folder, by name; one whose metadata are damaged is skipped."""
    found = []
    for path in sorted(folder.glob(f"[!.]*/{METADATA}")):
        try:
            told = read_json(path)
            found.append(Found(path.parent, str(told["method"]), str(told["contrast"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(found)


def choose_bundles(
    folder: Path,
    *,
    contrasts: Iterable[str],
    methods: Iterable[str] = (),
    task: str | None = None,
) -> tuple[Found, ...]:
    """Choose from a folder of bundles."""
    found, contrasts, methods = find_bundles(folder), tuple(contrasts), tuple(methods)
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


def member_files(bundles: Sequence[str | Path]) -> dict[str, bytes]:
    """Collect the weights of bundles as further files of another one."""
    loaded = [load_bundle(path) for path in bundles]
    for bundle in loaded:
        for key in ("contrast", "method", "architecture", "frame"):
            if getattr(bundle, key) != getattr(loaded[0], key):
                raise UsageError(
                    f"{bundle.path}: its {key} is not that of {loaded[0].path}; "
                    "members of one model come from one cross-validation"
                )
    return {f"{MEMBERS}/{n}.safetensors": read_bytes(b.weights_path) for n, b in enumerate(loaded)}


def members(bundle: Bundle) -> tuple[Model, ...]:
    """Load the models of the folds that a bundle carries."""
    from h2lo_bids.models.registry import build_model

    names = [n for n in bundle.metadata.get("files", {}) if n.startswith(f"{MEMBERS}/")]
    loaded = []
    for name in sorted(names, key=lambda n: (len(n), n)):  # 10 comes after 9
        path = bundle.path / name
        state = parse_weights(read_extra(bundle, name), path)
        loaded.append(build_model(bundle.method, bundle.architecture, state, path))
    return tuple(loaded)
