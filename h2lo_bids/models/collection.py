"""A folder of bundles, such as the ``models`` of a training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import UsageError
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import METADATA
from h2lo_bids.models.registry import task_of


@dataclass(frozen=True)
class Found:
    """A bundle, as its metadata names it; nothing else of it has been read."""

    path: Path
    method: str
    contrast: str


def is_collection(path: Path) -> bool:
    """Tell a folder of bundles from a bundle."""
    return not (path / METADATA).exists() and any(path.glob(f"[!.]*/{METADATA}"))


def check_place(path: Path) -> None:
    """Refuse a part or a parent of what a model is kept in, and name what was meant.

    Parameters
    ----------
    path
        That was given for a bundle, a folder of bundles or a ``.pth`` file; exists.

    Raises
    ------
    UsageError
        If it is a file or folder inside a bundle, or a folder whose subfolders hold bundles,
        such as the output folder of a training.
    """
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
    """List the bundles in a folder, by name; one whose metadata are damaged is left out."""
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
    """Choose from a folder of bundles.

    Parameters
    ----------
    folder
        For which `is_collection` holds.
    contrasts
        Those that are of use.
    methods
        Those that are wanted; with none all are.
    task
        One of `h2lo_bids.vocabulary.TASKS`: only methods for it; None takes all.

    Returns
    -------
    tuple of Found
        At least one, in the order of the methods, else of the names.

    Raises
    ------
    UsageError
        If there is none, or none of a method that is wanted, or for the task.
    """
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
