"""Brain extraction: which voxels of a head are brain."""

from h2lo_bids.imaging.brain.extract import extract_brain
from h2lo_bids.imaging.brain.given import compare_masks, share_mask, use_given_mask
from h2lo_bids.imaging.brain.result import BrainMask

__all__ = [
    "BrainMask",
    "compare_masks",
    "extract_brain",
    "share_mask",
    "use_given_mask",
]
