"""The losses of Equations 2 and 3 of the paper."""

from __future__ import annotations

import torch
from torch.nn import functional

LAMBDA_GRAD = 10.0
"""Weight of the gradient term in the authors' release."""


def gaussian_derivative_kernels(sigma: float = 1.0, size: int = 5) -> torch.Tensor:
    """Return the filters k_d(r) = -r_d / sigma^2 G_sigma(r) of Equation 3.

    Parameters
    ----------
    sigma
        Standard deviation of the Gaussian, in voxels.
    size
        Side of the kernels, odd.

    Returns
    -------
    torch.Tensor
        float32, (3, 1, size, size, size): one kernel per axis, ready for
        `torch.nn.functional.conv3d`, which correlates.

    Raises
    ------
    ValueError
        If `size` is even or `sigma` is not positive.
    """
    if size % 2 == 0 or not sigma > 0:
        raise ValueError(f"kernels need an odd size and a positive sigma, not {size} and {sigma}")
    r = torch.arange(size, dtype=torch.float64) - size // 2
    offsets = torch.stack(torch.meshgrid(r, r, r, indexing="ij"))
    density = torch.exp(-(offsets**2).sum(0) / (2 * sigma**2)) / (2 * torch.pi * sigma**2) ** 1.5
    return (-offsets / sigma**2 * density).float()[:, None]


def gradient_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    kernels: torch.Tensor,
    *,
    padding: int = 2,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compare the Gaussian derivatives of two sub-volumes (Equation 3).

    The mean over voxels takes the place of the squared Frobenius norm's sum, as
    in the authors' release, so that the weight does not depend on the size.

    Parameters
    ----------
    predicted, target
        (B, 1, X, Y, Z), in units of the normalised intensity.
    kernels
        From `gaussian_derivative_kernels`.
    padding
        Zeros put around the sub-volume; 2 keeps its size.
    weight
        Weight of each voxel's squared response, to be broadcast to the
        responses; None weighs all alike.

    Returns
    -------
    torch.Tensor
        Scalar: the sum over three axes of the mean squared difference.
    """
    difference = (predicted - target).float()
    responses = functional.conv3d(difference, kernels.to(difference.device), padding=padding)
    squares = responses.square()
    if weight is not None:
        squares = squares * weight
    return squares.mean(dim=(0, 2, 3, 4)).sum()


def l1_loss(
    predicted: torch.Tensor, target: torch.Tensor, *, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the (weighted) mean absolute difference over the sampled voxels."""
    difference = (predicted.float() - target.float()).abs()
    return (difference if weight is None else difference * weight).mean()
