"""Brain masks: found by a network, given as a file, or of the session's other scan."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.masks import (
    bounding_box,
    cut_bridges,
    cut_share,
    dice,
    held,
    largest_component,
    volume_ml,
    within,
    without_strays,
)
from h2lo_bids.imaging.orientation import MIN_FIT, orientation_fits, orientation_note
from h2lo_bids.imaging.reading import farthest_apart, name_of
from h2lo_bids.imaging.resample import block_means, placed, resample, resample_mask, spacing_of
from h2lo_bids.settings import Settings

THRESHOLD = 0.5
BRIDGE_MM = 5.0
"""Optic nerves and nasal leaks of low-field T2w scans are narrower than twice this."""
NEAR_1_MM = (0.8, 1.25)
"""Spacings in mm that the networks take as they are."""

THICK_MM = 4.0
"""Slices thicker than this are low-field ones, for which deepbet sees the head mirrored too."""
VOLUME_RANGE_ML = (500.0, 2500.0)
"""Volumes between which a brain is plausible, from a newborn's to a large adult's with CSF."""
MIN_ZERO_SHARE = 0.25
"""A brain fills about half of its own box; a raw scan's background is noise, not 0."""
STRIPPED_RANGE_ML = (300.0, 2300.0)
"""An adult's head with a zeroed background has 3 litres or more."""
MAX_CUT_SHARE = 0.15
"""Share of the box's face that may be cut: the brain stem's, not the neck's (a third)."""
_CLOSE_MM = 3.0
_PART_SHARE = 0.05  # of a stripped scan's largest part: a cerebellum has 0.1, an eye 0.005
SHARE_DICE = 0.90
SHARE_DISTANCE_MM = 4.0
SHARE_HELD = 0.965
"""Of T1w and T2w masks 0.973 or more of the smaller lies in the larger in real and simulated
heads that did not move, 0.961 or less where they moved by 4 mm or nodded by 3 degrees."""
MASK_RANGE_ML = (50.0, 3000.0)
"""Volumes that a given mask may have: from a slab or an unborn child to a large hydrocephalus."""
MIN_IN_HEAD = 0.75
"""Share of a given mask that must not lie in the background: 0.95 on real and simulated heads."""
EXPECTED_DICE, EXPECTED_HELD = 0.8, 0.93
"""Overlap with the brain that extraction finds, and share of the smaller of both in the larger,
below which a given mask is doubtful: one that is looser or tighter, and one that lies 7 mm off."""
MIN_DICE = 0.5
"""Below it the mask is refused, if what extraction finds has a brain's shape."""
_GRID_TOLERANCE_MM = 0.1
_BLOCK_MM = 4.0
_REMEDY = "check which scan it is of, and give another one, or none and it is computed"
_SOFT = "has values between 0 and 1"
_WEIGHTS = "synthstrip.1.pt"


@dataclass(frozen=True)
class BrainMask:
    """A brain mask and how it came about."""

    image: nib.Nifti1Image  # uint8, 0 or 1, on the scan's grid
    # "deepbet", "synthstrip", "stripped" (the scan had no skull), "skip", "given" or "shared"
    method: str
    notes: tuple[str, ...] = ()  # one line each: what a user should look at


def extract_brain(
    image: Any,
    *,
    method: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> BrainMask:
    """Find the brain in a head scan of any contrast and spacing.

    Parameters
    ----------
    image
        nibabel image, 3-D, checked.
    method
        ``"auto"``: a scan that has no skull keeps what is not 0; any other goes
        to SynthStrip where its weights are present, or else to deepbet.
        ``"skip"``: the scan has no skull. ``"deepbet"``, ``"synthstrip"``: that
        tool.
    weights
        SynthStrip's ``synthstrip.1.pt``; looked for in ``$FREESURFER_HOME``
        when not given.
    threads
        CPU threads for the network; torch's own choice when not given.

    Raises
    ------
    MissingInputError
        If SynthStrip is asked for and its weights are absent.
    BadDataError
        If no brain is found.
    """
    stripped = method in ("skip", "auto") and looks_stripped(image)
    if method == "skip" or stripped:
        kind, why = "stripped", "as the scan has no skull"
        if method == "skip":
            what = "the scan does not look skull-stripped; was --skull-strip skip meant for it?"
            kind, why = "skip", "" if stripped else f"as asked, but {what}"
        notes = (f"{name_of(image)}: no brain extraction, {why}",) if why else ()
        return make_result(stripped_mask(image), image, kind, name_of(image), notes)
    file = find_weights(weights, method)
    import torch

    from h2lo_bids.imaging.synthstrip import synthstrip_mask

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        mask = synthstrip_mask(image, file) if file else deepbet_mask(image)
        return make_result(mask, image, "synthstrip" if file else "deepbet", name_of(image))
    finally:
        torch.set_num_threads(before)


def deepbet_mask(image: Any) -> np.ndarray:
    """Find the brain in a head with deepbet's network, which comes with its weights.

    Fisch et al. 2024, deepbet (MIT). Called in memory: the package's own file interface refuses
    small files and writes reoriented copies.
    """
    canonical = nib.as_closest_canonical(image)
    spacing = spacing_of(canonical.affine)
    if not np.all((spacing >= NEAR_1_MM[0]) & (spacing <= NEAR_1_MM[1])):
        shape = np.maximum(2, np.ceil(np.asarray(canonical.shape) * spacing)).astype(int)
        start = (np.asarray(canonical.shape) - 1) / 2 - (shape - 1) / 2 / spacing
        step = nib.affines.from_matvec(np.diag(1 / spacing), start)
        canonical = resample(canonical, tuple(int(n) for n in shape), canonical.affine @ step)
    volume = np.asarray(canonical.dataobj, dtype=np.float32)
    with warnings.catch_warnings():  # of its own deprecations
        warnings.simplefilter("ignore")
        from deepbet import BrainExtraction

        network = BrainExtraction(no_gpu=True)
    lost = BadDataError(
        f"{name_of(image)}: deepbet finds no brain; check the image and its orientation, or give "
        "a mask"
    )
    try:
        probability = network.run_model(np.array(volume, dtype=np.float32, order="C"))
        if spacing.max() > THICK_MM:
            flipped = network.run_model(np.array(volume[::-1], dtype=np.float32, order="C"))
            probability = (probability + flipped[::-1]) / 2
    except (AssertionError, ValueError) as err:  # deepbet's "not enough foreground", or nothing
        raise lost from err
    mask = cut_bridges(probability > THRESHOLD, BRIDGE_MM, (1.0, 1.0, 1.0))
    if not mask.any():
        raise lost
    return _on_grid_of(image, nib.Nifti1Image(mask.astype(np.uint8), canonical.affine))


def find_weights(given: str | os.PathLike[str] | None, method: str) -> Path | None:
    """Look for SynthStrip's weights, if a method of `extract_brain` takes them."""
    if method not in ("auto", "synthstrip"):
        return None
    if given is not None:
        if not Path(given).is_file():
            raise MissingInputError(f"{given}: no SynthStrip weights there; check the path")
        return Path(given)
    home = os.environ.get("FREESURFER_HOME")
    if home and (file := Path(home).absolute() / "models" / _WEIGHTS).is_file():
        return file
    if method == "synthstrip":
        raise MissingInputError(
            f"SynthStrip needs FreeSurfer's {_WEIGHTS}: give its path, or set FREESURFER_HOME"
            " to a folder that has it under models/, or use deepbet"
        )
    return None


def synthstrip_weights(settings: Settings) -> Path | None:
    """Find the weights for nodes, which compute masks again where FREESURFER_HOME is set later."""
    return find_weights(settings.synthstrip_weights, settings.skull_strip)


def make_result(
    mask: np.ndarray, image: Any, method: str, name: str, notes: tuple[str, ...] = ()
) -> BrainMask:
    """Wrap a mask; warn of a volume that no brain has, and of a brain that the image cuts."""
    found, volume = list(notes), volume_ml(mask, image.affine)
    low, high = VOLUME_RANGE_ML
    if not low <= volume <= high:
        found.append(f"{name}: its brain mask has {volume:.0f} ml; look at it or give another one")
    head = np.asarray(image.dataobj) != 0  # a brain alone would end at its box
    shown = mask[bounding_box(head)] if method in ("deepbet", "synthstrip", "shared") else mask
    if shown.any() and (share := cut_share(shown)) > MAX_CUT_SHARE:
        found.append(
            f"{name}: the field of view cuts the brain ({share:.0%} of a face of its box); models "
            "are trained on whole brains only, so check the output before you use it"
        )
    return BrainMask(placed(mask.astype(np.uint8), image.affine, image), method, tuple(found))


def looks_stripped(image: Any) -> bool:
    """Check whether a scan is a brain on an exactly zero background.

    All three must hold: at least a quarter of the voxels are exactly 0; the
    rest have a brain's volume (0.3 to 2.3 litres); and no border of the array
    cuts the rest over more than 15 % of the face of its bounding box, as a neck
    does in a small head. Defaced heads and heads whose background was zeroed
    fail the second, small ones the third.
    """
    nonzero = np.asarray(image.dataobj) != 0
    if 1 - nonzero.mean() < MIN_ZERO_SHARE or not nonzero.any():
        return False
    low, high = STRIPPED_RANGE_ML
    return low <= volume_ml(nonzero, image.affine) <= high and cut_share(nonzero) <= MAX_CUT_SHARE


def stripped_mask(image: Any) -> np.ndarray:
    """Return the brain of a stripped scan: what is not 0, closed by 3 mm and filled."""
    from scipy.ndimage import binary_fill_holes

    mask = largest_component(np.asarray(image.dataobj) != 0, _PART_SHARE)
    box, spacing = bounding_box(mask), spacing_of(image.affine).tolist()
    margin = int(np.ceil(_CLOSE_MM / min(spacing))) + 1
    padded = np.pad(mask[box], margin)
    closed = ~within(~within(padded, _CLOSE_MM, spacing), _CLOSE_MM, spacing)
    inner = (slice(margin, -margin),) * 3
    mask[box] = binary_fill_holes(closed[inner] | mask[box])
    return mask


def use_given_mask(mask: Any, image: Any) -> BrainMask:
    """Use a precomputed mask, resampled where its grid is not the scan's.

    Every voxel above 0.5 is brain; where the values are fractions of a larger one (100 per
    cent, say), above half of the largest. Small parts far from the rest are left out. A mask
    that was changed has a note.

    Raises
    ------
    BadDataError
        If the mask is empty, inverted, larger or smaller than any brain, or lies outside
        the scan or in its background.
    """
    name, values = name_of(mask), np.asarray(mask.dataobj, dtype=np.float32)
    soft, largest = np.any(np.abs(values - np.rint(values)) > 0.01), float(values.max())
    cut = largest / 2 if soft and largest >= 2 else 0.5  # splines overshoot 1
    inside = values > cut
    notes = [f"{name}: this brain mask {_SOFT}; it is cut at {cut:g}"] if soft else []
    if not inside.any():
        raise BadDataError(f"{name}: this brain mask is empty (nothing above 0.5); {_REMEDY}")
    apart = farthest_apart(mask.affine, image.affine, image.shape)
    if mask.shape != image.shape or apart >= _GRID_TOLERANCE_MM:
        inside = _on_grid_of(image, placed(inside.astype(np.uint8), mask.affine, mask))
        notes.append(f"{name}: this brain mask was resampled to the grid of {name_of(image)}")
    whole = inside
    inside = without_strays(whole, spacing_of(image.affine).tolist()) if whole.any() else whole
    if strays := np.count_nonzero(whole & ~inside):
        what = f"small parts far from the rest ({strays} voxels), which are left out"
        notes.append(f"{name}: this brain mask has {what}")
    if fault := _fault(inside, image):
        then = f"{_SOFT}, and cut at {cut:g} it " if soft else ""
        raise BadDataError(f"{name}: this brain mask {then}{fault}; {_REMEDY}")
    return make_result(inside, image, "given", name, tuple(notes))


def _fault(inside: np.ndarray, image: Any) -> str:
    """Name what keeps a mask from being that of the scan's brain, if anything."""
    label = name_of(image)
    if not inside.any():
        return f"lies outside {label}"
    if inside[np.ix_(*[(0, -1)] * 3)].mean() > 0.5:
        return f"is inverted, or not one: it holds the corners of {label}"
    volume, (low, high) = volume_ml(inside, image.affine), MASK_RANGE_ML
    if not low <= volume <= high:
        return f"takes {volume:.0f} ml of {label}, unlike any brain ({low:g} to {high:g} ml)"
    if (share := _share_in_head(inside, image)) < MIN_IN_HEAD:
        return f"lies by {100 * (1 - share):.0f} % in the background of {label}"
    return ""


def _share_in_head(inside: np.ndarray, image: Any) -> float:
    """Return how much of a mask is brighter than an eighth of what is bright in the scan."""
    step = np.maximum(1, _BLOCK_MM // spacing_of(image.affine)).astype(int)
    data = block_means(np.asarray(image.dataobj, dtype=np.float32), step)
    low, high = np.percentile(data, (1, 99.5))
    data = np.clip(data, low, high) - low
    bright = data[data > data.mean()]
    counted = block_means(inside.astype(np.float32), step) > 0.5
    if not bright.size or not counted.any():
        return 1.0
    return float(np.mean(data[counted] > bright.mean() / 8))


def brain_of(image: Any, mask: Any = None, **how: Any) -> BrainMask:
    """Find a scan's brain by `extract_brain`, or use a given mask and compare it with that.

    There is a note if the header's orientation does not fit the brain.
    """
    if mask is None:
        brain = extract_brain(image, **how)
    else:
        brain = use_given_mask(mask, image)
        how["method"] = "auto" if looks_stripped(image) else "deepbet"  # SynthStrip takes a minute
        try:
            found = extract_brain(image, **how)
        except BadDataError:  # what masks are given for
            pass
        else:
            brain = compare_masks(brain, found, name_of(mask), image)
    note = orientation_note(image, brain.image, name_of(image))
    return replace(brain, notes=(*brain.notes, note)) if note else brain


def compare_masks(given: BrainMask, found: BrainMask, name: str, image: Any) -> BrainMask:
    """Note where a given mask is not what extraction finds; refuse it if that is a brain."""
    mine, other = (np.asarray(mask.image.dataobj) > 0 for mask in (given, found))
    overlap = dice(mine, other)
    if overlap >= EXPECTED_DICE and held(mine, other) >= EXPECTED_HELD:
        return given
    text = (
        f"{name}: this brain mask and the brain that {found.method} finds in {name_of(image)} "
        f"have a Dice overlap of only {overlap:.2f}"
    )
    fits = orientation_fits(image, found.image).values() if overlap < MIN_DICE else ()
    if max(fits, default=0) >= MIN_FIT:
        raise BadDataError(f"{text}; {_REMEDY}")
    return replace(given, notes=(*given.notes, f"{text}; check that it is of this scan"))


def share_mask(own: BrainMask, donor: BrainMask, image: Any) -> BrainMask:
    """Use the mask of a session's T1w for its T2w where the head did not move.

    The extraction networks know T1w best, and both contrasts then keep the same
    tissue. The donor's mask is taken when, on the scan's grid, both masks have
    a Dice overlap of at least 0.90, the larger holds 0.965 of the smaller, and their
    centres lie within 4 mm: then their differences are those of contrast, not of
    position. Otherwise, and where the T1w's image cuts the brain, the scan keeps its own.
    """
    moved = _on_grid_of(image, donor.image)
    mine = np.asarray(own.image.dataobj) > 0
    overlap = dice(moved, mine)
    if overlap < SHARE_DICE or held(moved, mine) < SHARE_HELD:
        return own
    offset = (np.argwhere(moved).mean(0) - np.argwhere(mine).mean(0)) * spacing_of(image.affine)
    cut = cut_share(np.asarray(donor.image.dataobj) > 0) > MAX_CUT_SHARE
    if cut or np.linalg.norm(offset) > SHARE_DISTANCE_MM:
        return own
    name, text = name_of(image), "uses the brain mask of the session's other contrast"
    return make_result(moved, image, "shared", name, (f"{name}: {text} (Dice {overlap:.3f})",))


def _on_grid_of(image: Any, mask: Any) -> np.ndarray:
    return np.asarray(resample_mask(mask, image.shape, image.affine).dataobj) > 0
