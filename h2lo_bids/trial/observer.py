"""Model observers: what an image says of a place, as numbers that a study decides by.

Both know where a lesion would be and how large (signal known exactly); neither knows the
anatomy there (background known statistically). The first takes the contrast to noise ratio,
the second the outputs of a few channels, from which `statistics.hotelling_ratings` makes a
Hotelling observer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from h2lo_bids.evaluation.realism import noise_deviation
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.trial.lesions import Place, Shown

CHANNELS = 4
POLARITY = {"T1w": -1.0, "T2w": 1.0}
"""Sign of a white-matter lesion's contrast, which the CNR observer knows."""
_WIDTH = 1.064
"""Of exp(-pi r^2 / a^2), a over its full width at half maximum."""


@dataclass(frozen=True)
class Rating:
    """What one image says of one place.

    Parameters
    ----------
    cnr
        Difference of the means of place and ring over the noise, positive for a lesion.
    channels
        (`CHANNELS`,), in units of the image.
    volume
        mm^3 by the midpoint segmenter, see `segment`.
    """

    cnr: float
    channels: np.ndarray
    volume: float


def channel_weights(place: Shown, sides: np.ndarray, diameter: float) -> np.ndarray:
    """Return rotationally symmetric Laguerre-Gauss channels of a place's size.

    Along each axis they are as wide as a ball of this diameter seen by such voxels. The mean
    of the ring is taken off, so that a channel sees no constant; each has norm 1.

    Parameters
    ----------
    place
        On the image's grid.
    sides
        (3,), of a voxel, mm.
    diameter
        mm.

    Returns
    -------
    numpy.ndarray
        (`CHANNELS`, *box).

    References
    ----------
    Myers and Barrett 1987, J. Opt. Soc. Am. A 4:2447; Gallas and Barrett 2003, J. Opt. Soc.
    Am. A 20:1725; for volumes Platisa and others 2011, J. Opt. Soc. Am. A 28:1145.
    """
    from scipy.special import eval_genlaguerre

    index = np.indices(place.share.shape)
    middle = (index * place.share).sum(axis=(1, 2, 3)) / place.share.sum()
    squares = sum(
        ((index[a] - middle[a]) * sides[a]) ** 2 / (_WIDTH**2 * (diameter**2 + sides[a] ** 2))
        for a in range(3)
    )
    # Where neither place nor ring is, there may be fluid, another lesion, or no brain.
    known = (place.inside > 0) | (place.around > 0)
    found = []
    for order in range(CHANNELS):
        channel = np.exp(-np.pi * squares) * eval_genlaguerre(order, 0.5, 2 * np.pi * squares)
        channel = np.where(known, channel, 0.0)
        channel = channel - channel.sum() * place.around
        norm = np.linalg.norm(channel)
        found.append(channel / norm if norm > 0 else channel)
    return np.stack(found).astype(np.float32)


def segment(image: np.ndarray, place: Shown, polarity: float) -> int:
    """Count the voxels on the lesion's side of the midpoint between its mean and its ring's.

    The search goes over place and ring: the simplest segmenter, which knows where to look.
    """
    values = image[place.box]
    inside, around = (values * place.inside).sum(), (values * place.around).sum()
    if polarity * (inside - around) <= 0:
        return 0
    known = (place.inside > 0) | (place.around > 0)
    beyond = polarity * (values - (inside + around) / 2) > 0
    return int(np.count_nonzero(beyond & known))


class Observers:
    """Both observers, ready to look at any image of one grid.

    Parameters
    ----------
    places
        With what the grid shows of each.
    brain
        Bool, on the grid.
    affine
        (4, 4).
    contrast
        ``"T1w"`` or ``"T2w"``.
    """

    def __init__(
        self,
        places: Sequence[tuple[Place, Shown]],
        brain: np.ndarray,
        affine: np.ndarray,
        contrast: str,
    ) -> None:
        at = np.argwhere(brain)
        self._box = tuple(slice(a, b + 1) for a, b in zip(at.min(0), at.max(0), strict=True))
        self._brain, self._sides = brain[self._box], spacing_of(affine)
        self._polarity = POLARITY[contrast]
        self._places = [
            (shown, channel_weights(shown, self._sides, place.diameter)) for place, shown in places
        ]

    def look(self, image: np.ndarray) -> Iterator[Rating]:
        """Rate every place, in order."""
        noise = noise_deviation(image[self._box], self._brain, self._sides.tolist())
        size = float(np.prod(self._sides))
        for place, weights in self._places:
            values = image[place.box]
            difference = float((values * (place.inside - place.around)).sum())
            yield Rating(
                self._polarity * difference / noise if noise > 0 else np.nan,
                np.tensordot(weights, values, 3),
                size * segment(image, place, self._polarity),
            )
