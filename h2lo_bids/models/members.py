"""The models of the folds, kept inside a bundle for its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import Bundle, load_bundle, parse_weights, read_bytes, read_extra

if TYPE_CHECKING:
    from h2lo_bids.models.interface import Model

FOLDER = "members"


def member_files(bundles: Sequence[str | Path]) -> dict[str, bytes]:
    """Collect the weights of bundles as further files of another one.

    Parameters
    ----------
    bundles
        Folders of bundles of one architecture and frame.

    Returns
    -------
    dict
        ``members/<n>.safetensors`` and content, in the order given; for the
        ``extras`` of `h2lo_bids.models.bundle.save_bundle`.

    Raises
    ------
    UsageError
        If they differ in contrast, method, architecture or frame.
    H2loError
        As `h2lo_bids.models.bundle.load_bundle`.
    """
    loaded = [load_bundle(path) for path in bundles]
    for bundle in loaded:
        for key in ("contrast", "method", "architecture", "frame"):
            if getattr(bundle, key) != getattr(loaded[0], key):
                raise UsageError(
                    f"{bundle.path}: its {key} is not that of {loaded[0].path}; "
                    "members of one model come from one cross-validation"
                )
    return {f"{FOLDER}/{n}.safetensors": read_bytes(b.weights_path) for n, b in enumerate(loaded)}


def members(bundle: Bundle) -> tuple[Model, ...]:
    """Load the models of the folds that a bundle carries.

    Parameters
    ----------
    bundle
        From `h2lo_bids.models.bundle.load_bundle`.

    Returns
    -------
    tuple of Model
        In evaluation mode, float32, on the CPU; empty when there are none.

    Raises
    ------
    H2loError
        If one is damaged, or does not fit the bundle's architecture.
    """
    from h2lo_bids.models.registry import build_model

    names = [n for n in bundle.metadata.get("files", {}) if n.startswith(f"{FOLDER}/")]
    loaded = []
    for name in sorted(names, key=lambda n: (len(n), n)):  # 10 comes after 9
        path = bundle.path / name
        state = parse_weights(read_extra(bundle, name), path)
        loaded.append(build_model(bundle.method, bundle.architecture, state, path))
    return tuple(loaded)
