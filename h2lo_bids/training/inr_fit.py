"""Fitting the conditional INR: H2LO's protocol with the L1 term alone."""

from __future__ import annotations

import dataclasses

from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.models.inr import InrArchitecture
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions

fit_inr = fit
"""The operators' own fit: the estimators and the validation ask the network as they ask H2LO."""


def adapt_inr(options: FitOptions) -> FitOptions:
    """Turn the options that the user gave into those of the conditional INR.

    Everything but the network and the gradient term stays H2LO's, so that the two
    are compared under one protocol. In the paper's that is 8000 voxels of the whole
    grid per step, L1 alone, and Adam with the same cosine; in the default one the
    voxels of the same crops, on the same schedule.

    Parameters
    ----------
    options
        As given, with the sizes of H2LO or of an INR; H2LO's encoder and width are
        taken over.
    """
    sizes = options.architecture
    if isinstance(sizes, H2loArchitecture):
        sizes = InrArchitecture(sizes.channels, sizes.n_basis, sizes.width)
    return dataclasses.replace(options, family="inr", architecture=sizes, lambda_grad=0.0)
