"""Where low-field images are wanted, with which extras, and whether the model can give them."""

from __future__ import annotations

from typing import Any

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.settings import Settings
from h2lo_bids.settings.options import PROFILES


def response_of(settings: Settings) -> Any:
    """Return `h2lo_bids.imaging.voxels.VoxelResponse` for the options of a run."""
    from h2lo_bids.imaging.voxels import VoxelResponse

    return VoxelResponse(settings.slice_profile or PROFILES[0], settings.slice_thickness)


def grids_for(settings: Settings) -> Any:
    """Return `h2lo_bids.outputs.grids_of` for the options of a run, without templates' files."""
    from h2lo_bids.outputs import grids_of

    return grids_of(settings.output_spaces, settings.lf_grid, response=response_of(settings))


def extras_of(settings: Settings) -> Any:
    """Return `h2lo_bids.outputs.Extras` for the options of a run."""
    from h2lo_bids.outputs import Extras

    noisy = settings.realisations if settings.noise == "calibrated" else 0
    scale = 1.0 if settings.noise_scale is None else settings.noise_scale
    return Extras(realisations=noisy, uncertainty=settings.uncertainty, noise_scale=scale)


def check_extras(settings: Settings, bundle: Any) -> None:
    """Check that a bundle carries what the options need."""
    remedy = "fit one with `h2lo bids_dir out_dir group`, or leave the option out"
    if settings.noise == "calibrated":
        from h2lo_bids.synthesis.noise import NoiseModel

        if "noise" not in bundle.metadata:
            raise UsageError(f"--noise calibrated: {bundle.path} has no noise model; {remedy}")
        try:
            NoiseModel.from_dict(bundle.metadata["noise"])
        except BadDataError as err:
            raise BadDataError(f"{bundle.path}: {err}") from err
    if settings.uncertainty:
        from h2lo_bids.models.collection import members

        if len(members(bundle)) < 2:
            raise UsageError(
                f"--uncertainty: {bundle.path} has no models of folds to compare; {remedy}"
            )
