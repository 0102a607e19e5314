"""Import of the authors' released checkpoints, without running what they hold."""

from __future__ import annotations

import io
import re
import reprlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from h2lo_bids.errors import BadDataError, UsageError, of_the_machine
from h2lo_bids.models.bundle import Bundle, read_hashed
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.registry import make_architecture
from h2lo_bids.vocabulary import CONTRASTS

_NAMES = {
    "feature_dim": "n_basis",
    "encoder_base_channels": "channels",
    "trunk_type": "trunk",
    "decoder_width": "width",
    "omega": "omega",
}
"""The release's argument names, and ours."""

_TRAINING = "unknown: the file does not say what it was trained on"


def read_release(path: Path, *, contrast: str | None = None) -> Bundle:
    """Describe a released ``.pth`` file as a bundle."""
    content, sha256 = read_hashed(path)
    checkpoint = _unpack(content, path)
    args = checkpoint.get("args") or {}
    contrast, source = _contrast(args, path, contrast)
    architecture = _architecture(args, path)
    frame = Frame(anchor="array")
    epoch = checkpoint.get("epoch")
    metadata = {
        "name": path.stem,
        "method": "h2lo",
        "contrast": contrast,
        "architecture": architecture,
        "frame": frame.to_dict(),
        "value_range": [0, 1],
        "source_field_strength": 3.0,
        "target_field_strength": 0.064,
        "training_data": {"kind": "unknown", "description": _TRAINING},
        "epoch": epoch if isinstance(epoch, int) else None,
        "sha256": sha256,
    }
    text = (files("h2lo_bids") / "data/cards/release.md").read_text(encoding="utf-8")
    card = text.format(name=path.name, contrast=contrast, source=source, training=_TRAINING)
    return Bundle(path, "h2lo", contrast, architecture, frame, sha256, metadata, card)


def _contrast(args: Mapping[str, Any], path: Path, given: str | None) -> tuple[str, str]:
    """Return the contrast and how it is known: the file itself is believed first."""
    stated = args.get("contrast")
    if stated is not None:
        known = {name.removesuffix("w").lower(): name for name in CONTRASTS}
        contrast = known.get(str(stated).lower().removesuffix("w"))
        if contrast is None:
            shown = reprlib.repr(stated)
            raise BadDataError(f"{path}: contrast = {shown} in its 'args' is not T1w or T2w")
        return contrast, "what the file states"
    named = {*re.findall("|".join(CONTRASTS), path.name)}
    if len(named) == 1:
        return named.pop(), "that of the file's name"
    if given not in CONTRASTS:
        raise UsageError(
            f"{path}: say which contrast this model is for: --model T1w={path}, or in its file name"
        )
    return str(given), "that of the scans it was used for: the file does not say"


def read_state(content: bytes, path: Path) -> dict[str, Any]:
    """Return the weights of a released checkpoint by state-dict name."""
    return dict(_unpack(content, path)["model_state_dict"])


def _unpack(content: bytes, path: Path) -> Mapping[str, Any]:
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_scalar_types()), warnings.catch_warnings():
            _check_archive(content)
            # PyTorch warns of foreign pickles before it refuses them.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as err:
        # Damaged archives surface as many types; a refused global as UnpicklingError.
        refused = re.search(r"GLOBAL ([\w.]+)", str(err))
        raise of_the_machine(err) or BadDataError(
            f"{path}: refused, since loading it would run {refused[1]}; a checkpoint holds weights"
            if refused
            else f"{path}: not a PyTorch checkpoint, or a truncated one; download it again"
        ) from err
    parts = checkpoint if isinstance(checkpoint, Mapping) else {}
    state, args = parts.get("model_state_dict"), parts.get("args")
    # Published weights may come without the arguments: the release's defaults are meant.
    if not isinstance(state, Mapping) or not state or not isinstance(args, Mapping | None):
        raise BadDataError(f"{path}: not a released H2LO checkpoint (no weights or 'args' in it)")
    return parts


def _check_archive(content: bytes) -> None:
    """Refuse an archive that unpacks to more than it is: PyTorch never compresses."""
    if content[:2] != b"PK":
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = archive.infolist()
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > len(content):
        raise ValueError("its parts are compressed, or larger than the file")


def _numpy_scalar_types() -> list[Any]:
    """Return what NumPy 1 and 2 pickle scalars with: checkpoints hold two, and none runs code."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *dtypes]


def _architecture(args: Mapping[str, Any], path: Path) -> dict[str, Any]:
    depth = args.get("decoder_depth", 4)
    if not isinstance(depth, int) or depth != 4:
        shown = reprlib.repr(depth)
        raise BadDataError(f"{path}: a trunk of {shown} layers is not supported, only 4")
    values = {ours: args[name] for name, ours in _NAMES.items() if args.get(name) is not None}
    try:
        return asdict(make_architecture("h2lo", values))
    except (TypeError, ValueError) as err:
        raise BadDataError(f"{path}: its 'args' make no sense: {err}") from err
