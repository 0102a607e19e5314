"""The reference frame in which an operator sees positions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_AXES = ("LR", "AP", "IS")
ANCHORS = ("brain", "array")
MAX_VOXELS = 2**28
"""More than any head scan has: 1 GB in float32."""


@dataclass(frozen=True)
class Frame:
    """A model's own grid, on which the trunk's coordinates run from -1 to 1.

    Parameters
    ----------
    shape
        Voxels along each axis; the paper's grid is 208 x 256 x 256.
    spacing
        Voxel size in mm along each axis.
    orientation
        Axis codes of the positive directions, as nibabel names them.
    anchor
        ``"brain"``: the frame is centred on the brain (our bundles).
        ``"array"``: the frame is the scan's own array, re-ordered to
        ``orientation``; its shape replaces ``shape`` (the authors' release).
    """

    shape: tuple[int, int, int] = (208, 256, 256)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    orientation: str = "RAS"
    anchor: str = "brain"

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 2:
            raise ValueError(f"a frame needs three sides of at least 2 voxels, not {self.shape}")
        if math.prod(self.shape) > MAX_VOXELS:
            raise ValueError(f"a frame has at most {MAX_VOXELS} voxels, not {self.shape}")
        if len(self.spacing) != 3 or not 0 < min(self.spacing) <= max(self.spacing) < math.inf:
            raise ValueError(f"a frame needs three positive spacings in mm, not {self.spacing}")
        axes = sorted(pair for pair in _AXES for letter in self.orientation if letter in pair)
        if len(self.orientation) != 3 or axes != sorted(_AXES):
            raise ValueError(f"a frame's orientation is like RAS, not {self.orientation!r}")
        if self.anchor not in ANCHORS:
            raise ValueError(f"a frame's anchor is one of {ANCHORS}, not {self.anchor!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the frame as JSON-ready values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Frame:
        """Read a frame back from `to_dict`'s output."""
        try:
            # What JSON calls Infinity overflows here.
            shape = tuple(int(n) for n in values["shape"])
            spacing = tuple(float(s) for s in values["spacing"])
            return cls(shape, spacing, str(values["orientation"]), str(values["anchor"]))  # type: ignore[arg-type]
        except (KeyError, TypeError, OverflowError) as err:
            raise ValueError(
                f"a frame needs shape, spacing, orientation and anchor: {err}"
            ) from err


def normalised_coordinates(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Map voxel indices (..., 3) of a frame to the trunk's coordinates, float64 (..., 3).

    Equal to ``linspace(-1, 1, n)`` along each axis: the outer voxel centres lie
    at -1 and 1 (the paper's convention). Positions outside the grid go beyond.
    """
    last = np.asarray(shape, dtype=np.float64) - 1.0
    return 2.0 * np.asarray(voxels, dtype=np.float64) / last - 1.0
