"""Brain extraction: which voxels of a head are brain."""

from h2lo_bids.imaging.brain.extract import BrainMask, extract_brain
from h2lo_bids.imaging.brain.given import compare_masks, share_mask, use_given_mask

__all__ = [
    "BrainMask",
    "compare_masks",
    "extract_brain",
    "share_mask",
    "use_given_mask",
]
