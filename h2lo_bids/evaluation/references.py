"""Real low-field scans without partner, to which synthesized images are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from h2lo_bids.bids.metadata import field_strength
from h2lo_bids.errors import BadDataError, H2loError
from h2lo_bids.evaluation.realism import Appearance, appearance
from h2lo_bids.imaging.brain import extract_brain, find_weights
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, resample_mask
from h2lo_bids.io import read_json
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings


def read_references(
    settings: Settings, contrast: str, frame: Frame, unusable: list[tuple[str, str]]
) -> dict[str, Appearance]:
    """Measure the real low-field scans that ``--realism-reference`` names for a contrast.

    Each is put on the pairs' frame as the scans of pairs are, so that all are compared alike.
    """
    method = "auto" if settings.skull_strip == "skip" else settings.skull_strip
    weights = None
    if settings.skull_strip in ("auto", "synthstrip"):
        required = settings.skull_strip == "synthstrip"
        weights = find_weights(settings.synthstrip_weights, required=required)
    measured: dict[str, Appearance] = {}
    for path in (path for of, path in settings.realism_reference if of == contrast):
        try:
            name = path.name if path.name not in measured else str(path)
            measured[name] = _reference(path, frame, method, weights)
        except H2loError as err:
            unusable.append((str(path), str(err)))
    return measured


def _reference(path: Path, frame: Frame, method: str, weights: Path | None) -> Appearance:
    _check_low_field(path)
    image = load_checked(path).image
    mask = extract_brain(image, method=method, weights=weights).image
    placed = conform(image, frame, mask=mask)
    inside = np.asarray(resample_mask(mask, placed.shape, placed.affine).dataobj) > 0
    looks = appearance(np.asarray(placed.dataobj), inside, frame.spacing)
    if np.isnan(looks.median):
        raise BadDataError(f"{path}: no positive value in its brain; look at the image")
    return looks


def _check_low_field(path: Path) -> None:
    """Refuse a reference whose sidecar, where there is one, says that it is a high-field scan."""
    sidecar = path.with_name(f"{path.name.partition('.nii')[0]}.json")
    if not sidecar.exists():
        return
    try:
        content = read_json(sidecar)
    except (OSError, ValueError) as err:
        raise BadDataError(f"{sidecar}: cannot be read as JSON ({err}); mend it") from err
    strength = field_strength(content if isinstance(content, dict) else {})
    if strength.tesla is not None and not strength.low:
        raise BadDataError(
            f"{path}: is no low-field scan, but of {strength.tesla:g} T by {strength.source} in "
            "its sidecar; give another one, or correct the sidecar"
        )
