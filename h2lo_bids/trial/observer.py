"""Model observers: what an image says of a place, as numbers that a study decides by.

Both know where a lesion would be and its shape (signal known exactly); neither knows the
anatomy there (background known statistically). The first takes the contrast to noise ratio,
the second the outputs of a few channels, from which `statistics.hotelling_ratings` makes a
Hotelling observer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np

from h2lo_bids.evaluation.realism import noise_deviation
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.trial.lesions import Place, Shown

CHANNELS = 4
POLARITY = {"T1w": -1.0, "T2w": 1.0}
"""Sign of a white-matter lesion's contrast, which the CNR observer knows."""
_FWHM = 2.0
"""Of the first channel's kernel, mm, to which the voxel's side is added."""
_WIDTH = 1.064
"""Of exp(-pi r^2 / a^2), a over its full width at half maximum."""


class Rating(NamedTuple):
    """What one image says of one place."""

    cnr: float  # difference of the means of place and ring over the noise, positive for a lesion
    channels: np.ndarray  # (`CHANNELS`,), in units of the image, signed as the CNR
    volume: float  # mm^3 by the midpoint segmenter, see `segment`


def channel_weights(place: Shown, sides: np.ndarray) -> np.ndarray:
    """Return convolution channels: Laguerre-Gauss functions, convolved with the place's shape.

    The mean of the ring is taken off, so that a channel sees no constant. Where the place is 1
    and all around it 0, the first says 1 and the others, which hear the background, 0.

    Parameters
    ----------
    place
        On the image's grid.
    sides
        (3,), of a voxel, mm.

    Returns
    -------
    numpy.ndarray
        (`CHANNELS`, *box).

    References
    ----------
    Gallas and Barrett 2003, J. Opt. Soc. Am. A 20:1725; convolved with the signal for
    irregular shapes Diaz and others 2015, IEEE Trans. Med. Imaging 34(7), as VICTRE does.
    """
    from scipy.signal import fftconvolve
    from scipy.special import eval_genlaguerre

    half = np.ceil(3 * np.sqrt(_FWHM**2 + sides**2) / sides).astype(int)
    index = np.indices(2 * half + 1).T - half
    squares = (index**2 @ (sides**2 / (_WIDTH**2 * (_FWHM**2 + sides**2)))).T
    channels = np.empty((CHANNELS, *place.share.shape))
    for order in range(CHANNELS):
        kernel = np.exp(-np.pi * squares) * eval_genlaguerre(order, 0.5, 2 * np.pi * squares)
        whole = fftconvolve(place.share, kernel)
        inner = (slice(h, h + n) for h, n in zip(half, place.share.shape, strict=True))
        channel = np.where(place.held > 0, whole[tuple(inner)], 0.0)
        channels[order] = channel - channel.sum() * place.around
    answers = np.tensordot(channels, place.share, 3)
    channels[0] /= answers[0] or 1.0
    channels[1:] -= np.multiply.outer(answers[1:], channels[0])
    return channels.astype(np.float32)


def segment(image: np.ndarray, place: Shown, polarity: float) -> float:
    """Count the voxels on the lesion's side of the midpoint between its mean and its ring's.

    The search goes over voxels that are mostly place or ring, each counted by that part, since
    what else it holds, such as fluid, may be brighter: the simplest segmenter, which knows where
    to look.
    """
    values = image[place.box]
    inside, around = (values * place.inside).sum(), (values * place.around).sum()
    if polarity * (inside - around) <= 0:
        return 0.0
    found = (place.held >= 0.5) & (polarity * (values - (inside + around) / 2) > 0)
    return float(place.held[found].sum())


class Observers:
    """Both observers, ready to look at places in any image of one grid."""

    def __init__(
        self,
        places: Sequence[tuple[Place, Shown]],
        brain: np.ndarray,
        affine: np.ndarray,
        contrast: str,
    ) -> None:
        self.places = places
        self._box, self._sides = bounding_box(brain), spacing_of(affine)
        self._brain, self._polarity = brain[self._box], POLARITY[contrast]
        self._weights = [channel_weights(shown, self._sides) for _, shown in places]

    def look(self, image: np.ndarray) -> Iterator[Rating]:
        """Rate every place, in order."""
        noise = noise_deviation(image[self._box], self._brain, self._sides.tolist())
        size = float(np.prod(self._sides))
        for (_, place), weights in zip(self.places, self._weights, strict=True):
            values = image[place.box]
            difference = float((values * (place.inside - place.around)).sum())
            yield Rating(
                self._polarity * difference / noise if noise > 0 else np.nan,
                self._polarity * np.tensordot(weights, values, 3),
                size * segment(image, place, self._polarity),
            )


def crop_of(image: np.ndarray, place: Shown, affine: np.ndarray) -> np.ndarray:
    """Return the axial slice of square pixels through a place's middle, in bytes: 1 is white."""
    turn = nib.io_orientation(affine)
    values, share = (nib.apply_orientation(a, turn) for a in (image[place.box], place.share))
    plane = values[:, :, int(np.argmax(share.sum(axis=(0, 1))))]
    sides = spacing_of(affine)[np.argsort(turn[:, 0])][:2]
    for axis, times in enumerate(np.rint(sides / sides.min()).astype(int)):
        plane = np.repeat(plane, times, axis)
    return np.rint(255 * np.clip(plane, 0, 1)).astype(np.uint8)
