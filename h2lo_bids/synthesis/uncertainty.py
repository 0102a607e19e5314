"""How far the models of the folds are apart, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.interface import Model
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict_on_grid


def deviation_on_grid(
    models: Iterable[Model],
    volume: np.ndarray,
    volume_affine: np.ndarray,
    target_shape: Sequence[int],
    target_affine: np.ndarray,
    target_mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    world_transform: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 42,
    response: VoxelResponse | None = None,
) -> np.ndarray:
    """Evaluate several models and return the standard deviation of their images.

    It says how far the outcome depends on which people the model was fitted to,
    not how noisy a scan is. Running moments are kept, never the images.

    Parameters
    ----------
    models
        At least two models of one frame; taken one at a time.
    volume, volume_affine, target_shape, target_affine, target_mask, options, world_transform
        As for `h2lo_bids.synthesis.predict.predict_on_grid`.
    seed
        The same for all of them: methods that draw at random draw the same.
    response
        As for `predict_on_grid`.

    Returns
    -------
    numpy.ndarray
        float32 of `target_shape`, in units of the image, with n - 1 in the
        denominator; images are cut to [0, 1] first. Exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If there are fewer than two models, or the mask is not on the wanted grid.
    """
    mask = np.asarray(target_mask, dtype=bool)
    number, mean, square = 0, np.zeros(np.count_nonzero(mask)), np.zeros(np.count_nonzero(mask))
    for number, model in enumerate(models, start=1):
        image = predict_on_grid(
            model,
            volume,
            volume_affine,
            target_shape,
            target_affine,
            mask,
            options=options,
            world_transform=world_transform,
            seed=seed,
            response=response,
        )
        values = np.clip(image[mask], 0.0, 1.0)
        # Welford's update does not subtract two large sums.
        step = values - mean
        mean += step / number
        square += step * (values - mean)
    if number < 2:
        raise ValueError(f"a standard deviation needs two models or more, not {number}")
    out = np.zeros(mask.shape, dtype=np.float32)
    out[mask] = np.sqrt(square / (number - 1))
    return out
