"""The prepared pairs that a run is to use."""

from __future__ import annotations

from h2lo_bids.errors import BadDataError
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.training.prepared import PreparedPair, find_prepared, training_frame
from h2lo_bids.vocabulary import CONTRASTS


def frame_of(settings: Settings) -> Frame:
    """Return the grid on which pairs are prepared.

    Without ``--resolution`` it has voxels of 1 mm, or at the evaluate level of
    the size that the models were fitted on, if that is one and the same.

    Raises
    ------
    H2loError
        If a model cannot be read, or the resolution is out of range.
    """
    if settings.resolution is not None:
        return training_frame(settings.resolution)
    if settings.level != "evaluate" or not settings.model:
        return training_frame()
    from h2lo_bids.cli.modelchoice import given_bundles

    sizes = set()
    for bundle in given_bundles(settings, CONTRASTS):
        if bundle.frame.anchor == "brain":
            sizes |= set(bundle.frame.spacing)
    return training_frame(sizes.pop()) if len(sizes) == 1 else training_frame()


def usable_pairs(
    settings: Settings, contrast: str, sources: tuple[str, ...]
) -> tuple[tuple[PreparedPair, ...], tuple[PreparedPair, ...]]:
    """Return the prepared pairs of some scans.

    Parameters
    ----------
    settings
        Uses ``out_dir`` and ``keep_flagged_pairs``.
    contrast
        ``"T1w"`` or ``"T2w"``.
    sources
        BIDS URIs of the high-field scans.

    Returns
    -------
    used, flagged : tuple of PreparedPair
        Those to use, and those left out because their registration is doubtful.
    """
    # A damaged pair that is wanted was made again before: others are no concern of this run.
    found = find_prepared(
        settings.out_dir, contrast=contrast, sources=set(sources), damaged=lambda line: None
    )
    if settings.keep_flagged_pairs:
        return found, ()
    used = tuple(pair for pair in found if not pair.check.flagged)
    return used, tuple(pair for pair in found if pair.check.flagged)


def flagged_line(pair: PreparedPair) -> str:
    """Say why the registration of a pair is doubtful."""
    return (
        f"{pair.contrast}: sub-{pair.name or pair.subject} is flagged, its registration is "
        f"doubtful: {'; '.join(pair.check.reasons)}"
    )


def all_flagged(settings: Settings) -> BadDataError:
    """Return the error of a run that the registration check has left no pair."""
    return BadDataError(
        f"{settings.out_dir}: the registration check flagged every pair; inspect them in "
        "group.html, which --reports-only writes, and use --keep-flagged-pairs if they are good"
    )
