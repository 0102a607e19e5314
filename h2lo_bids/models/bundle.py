"""Model bundles: weights, metadata and a card in one folder."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2lo_bids.errors import (
    BadDataError,
    CannotCreateError,
    MissingInputError,
    UsageError,
    of_the_machine,
)
from h2lo_bids.io import check_content, parse_json, replace_folder, sha256, stamp
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.registry import Model, build_model, sizes_of, task_of
from h2lo_bids.vocabulary import CONTRASTS, ENHANCE, SCALINGS

WEIGHTS, METADATA, CARD = "weights.safetensors", "metadata.json", "README.md"
FORMAT = "h2lo-bids bundle 1"
MAX_BYTES = 2**32
"""Size of a file of a bundle, 200 times that of the largest model here."""
EMBEDDED = ("h2lo", "identity")
"""Methods of which models always come with the package."""
MEMBERS = "members"
"""Folder of the folds' models inside a bundle, from which its uncertainty is computed."""

_EMBEDDED = Path(__file__).resolve().parents[1] / "data" / "models"


@dataclass(frozen=True)
class Bundle:
    """What is known of a trained model before its weights are read."""

    path: Path  # the bundle's folder, or the authors' ``.pth`` file
    method: str  # a key of `h2lo_bids.models.registry.METHODS`
    contrast: str  # ``"T1w"`` or ``"T2w"``, which it was trained on
    architecture: dict[str, Any] = field(hash=False)
    frame: Frame  # the grid on which the model sees positions
    sha256: str  # of the weights file
    metadata: dict[str, Any] = field(hash=False, compare=False)  # training data, use, limits
    card: str = field(hash=False, compare=False)  # Markdown

    @property
    def task(self) -> str:
        """What it is for, as follows from its method: ``"synthesize"`` or ``"enhance"``."""
        return task_of(self.method)

    @property
    def scaling(self) -> str:
        """How its input is scaled; the authors' checkpoints, which do not say, take the maximum."""
        return str(self.metadata.get("scaling", "max"))

    @property
    def digest(self) -> str:
        """Of all that decides its images: the weights, how they are used, and the noise model."""
        facts = [self.method, self.architecture, self.frame.to_dict(), self.sha256, self.metadata]
        return sha256(json.dumps(facts, sort_keys=True).encode())

    @property
    def weights_path(self) -> Path:
        """The file that holds the weights."""
        return self.path / WEIGHTS if self.path.is_dir() else self.path


def load_bundle(
    path: str | Path, *, contrast: str | None = None, task: str | None = None
) -> Bundle:
    """Read and check a bundle's folder, or the authors' released ``.pth`` file.

    A contrast and a task say what it is meant for; None takes the bundle's own.

    Raises
    ------
    MissingInputError
        If the folder or one of its files is absent or cannot be read.
    BadDataError
        If a file is damaged, incomplete, or was changed after it was saved.
    UsageError
        If the model was trained for another contrast or task.
    """
    path = Path(path).absolute()  # notebooks change their folder
    if not path.exists():
        raise MissingInputError(f"{path}: no such model; give a bundle's folder or a .pth file")
    if path.is_file():
        from h2lo_bids.models.release import read_release

        bundle = read_release(path, contrast=contrast)
    else:
        bundle = _read_folder(path)
    if contrast is not None and bundle.contrast != contrast:
        raise UsageError(
            f"model {path} was trained for {bundle.contrast} and cannot be applied to a "
            f"{contrast} scan; pass --model {contrast}=PATH, a folder with a model for each "
            f"contrast, or --contrast {bundle.contrast}"
        )
    if task is not None and bundle.task != task:
        raise UsageError(
            f"model {path} was trained to {bundle.task} ({bundle.method}) and cannot be used to "
            f"{task}; pass --task {bundle.task}, or another --model"
        )
    return bundle


def load_model(bundle: Bundle, *, device: str = "cpu") -> Model:
    """Load a bundle's weights, float32, in evaluation mode, after checking them again."""
    from h2lo_bids.models.release import read_state

    path = bundle.weights_path
    read = parse_weights if path.name == WEIGHTS else read_state
    state = read(_read_checked(path, bundle.sha256), path)
    return build_model(bundle.method, bundle.architecture, state, path).to(device)


def save_bundle(
    folder: str | Path,
    model: Model,
    *,
    contrast: str,
    frame: Frame,
    metadata: Mapping[str, Any],
    card: str,
    method: str = "h2lo",
    extras: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle, whole or not at all, with further files as `extras`, and read it back."""
    extras, folder, weights = extras or {}, Path(folder), weights_file(model)
    record = {
        **metadata,
        "format": FORMAT,
        "method": method,
        "task": task_of(method),
        "contrast": contrast,
        "architecture": sizes_of(model.architecture),
        "parameters": sum(p.numel() for p in model.parameters()),
        "frame": frame.to_dict(),
        "sha256": sha256(weights),
    }
    if extras:
        record["files"] = {name: sha256(data) for name, data in extras.items()}
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    files = {WEIGHTS: weights, METADATA: text.encode(), CARD: card.encode(), **extras}
    try:
        replace_folder(folder, files)
    except OSError as err:
        text = f"{folder}: cannot save the model ({err.strerror}); check its permissions"
        raise of_the_machine(err, str(folder)) or CannotCreateError(text) from err
    return load_bundle(folder)


def weights_file(model: Model) -> bytes:
    """Return the content of the file that holds a model's weights in a bundle."""
    import safetensors.torch

    state = model.state_dict()
    return safetensors.torch.save(
        {k: v.detach().cpu().float().contiguous() for k, v in state.items()}
    )


def default_bundle(contrast: str, *, method: str = "h2lo") -> Bundle:
    """Return a model that comes with the package, trained on simulated pairs."""
    folder = _EMBEDDED / f"{method}_{contrast}"
    if not folder.is_dir():
        aim = f"--task {ENHANCE}" if task_of(method) == ENHANCE else f"--method {method}"
        raise UsageError(
            f"no {contrast} model of {method} comes with this package; fit one with `group {aim}` "
            "and give its models folder with --model, or choose other scans with --contrast"
        )
    return load_bundle(folder, contrast=contrast)


def parse_weights(content: bytes, path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file by name."""
    import safetensors.torch

    try:
        return safetensors.torch.load(content)
    except Exception as err:
        # The library raises its own type, and KeyError or ValueError at times.
        text = f"{path}: not a safetensors file: {err}; get the model again"
        raise of_the_machine(err) or BadDataError(text) from err


def read_extra(bundle: Bundle, name: str) -> bytes:
    """Read a further file of a bundle and check it against its recorded digest."""
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", name):  # it might leave the folder
        raise BadDataError(f"{bundle.path / METADATA}: {name!r} is not a further file of a model")
    return _read_checked(bundle.path / name, str(bundle.metadata["files"][name]))


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
    names = [n for n in bundle.metadata.get("files", {}) if n.startswith(f"{MEMBERS}/")]
    loaded = []
    for name in sorted(names, key=lambda n: (len(n), n)):  # 10 comes after 9
        path = bundle.path / name
        state = parse_weights(read_extra(bundle, name), path)
        loaded.append(build_model(bundle.method, bundle.architecture, state, path))
    return tuple(loaded)


def read_bytes(path: Path) -> bytes:
    """Read a part of a model whole."""
    try:
        if path.exists() or path.is_symlink():  # whose content DataLad may not have fetched
            check_content(path)
        if path.stat().st_size > MAX_BYTES:
            raise BadDataError(f"{path}: is larger than any model ({MAX_BYTES} bytes)")
        return path.read_bytes()
    except OSError as err:
        raise MissingInputError(
            f"{path}: cannot read this part of a model ({err.strerror}); "
            "give a bundle's whole folder or a .pth file"
        ) from err


def _read_folder(path: Path) -> Bundle:
    place = path / METADATA
    try:
        metadata = parse_json(read_bytes(place))
    except ValueError as err:
        raise BadDataError(f"{place}: not JSON ({err}); the bundle is damaged") from err
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise BadDataError(f"{place}: not the metadata of a model ('format' must be {FORMAT!r})")
    kinds = {
        "training_data": dict, "name": str, "scaling": str, "value_range": list,
        "input_range": dict, "files": dict, "parameters": int,
    }  # fmt: skip
    for key, kind in kinds.items():
        if not isinstance(metadata.get(key, kind()), kind):
            raise BadDataError(f"{place}: wrong field {key!r}: {metadata[key]!r}; get it again")
    card = read_bytes(path / CARD).decode("utf-8", errors="replace")
    try:
        facts = {key: str(metadata[key]) for key in ("method", "contrast", "sha256")}
        sizes, frame = dict(metadata["architecture"]), Frame.from_dict(metadata["frame"])
    except (KeyError, TypeError, ValueError) as err:
        raise BadDataError(f"{place}: missing or wrong field: {err}") from err
    bundle = Bundle(path, architecture=sizes, frame=frame, metadata=metadata, card=card, **facts)
    if bundle.contrast not in CONTRASTS:
        raise BadDataError(f"{place}: contrast {bundle.contrast!r} is not T1w or T2w")
    if bundle.scaling not in SCALINGS:
        text = f"unknown scaling {bundle.scaling!r}; this version knows {[*SCALINGS]}"
        raise BadDataError(f"{place}: {text}")
    _read_checked(path / WEIGHTS, bundle.sha256)
    for name in metadata.get("files", {}):
        read_extra(bundle, name)
    return bundle


def read_hashed(path: Path) -> tuple[bytes, str]:
    """Return a file of a model and its SHA-256: read once per process, unless it changes."""
    try:
        return _read(path, stamp(path))
    except OSError:
        return read_bytes(path), ""  # which says what is wrong


@functools.lru_cache(maxsize=8)  # both contrasts, or one with its folds' models
def _read(path: Path, stamped: tuple[str, int, int]) -> tuple[bytes, str]:
    content = read_bytes(path)
    return content, sha256(content)


def _read_checked(path: Path, sha256: str) -> bytes:
    """Read a part of a model and check it against its recorded digest."""
    content, found = read_hashed(path)
    if found != sha256:
        raise BadDataError(
            f"{path}: truncated or changed since it was saved (its SHA-256 is not the recorded "
            "one); get the model again"
        )
    return content
