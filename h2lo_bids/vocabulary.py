"""Words, limits and types that several rooms share; this module imports nothing of ours."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

LEVELS = ("participant", "group", "evaluate", "benchmark", "trial")
"""Analysis levels of the BIDS App."""
LEVEL_ALIASES = {"train": "group"}

SYNTHESIZE, ENHANCE = TASKS = ("synthesize", "enhance")
"""High field to low field, and low field to high field."""
CONTRASTS = ("T1w", "T2w")
"""BIDS suffixes of the scans that are read."""

METHODS = (
    "h2lo", "h2lo-mlp", "h2lo-nograd", "arnold", "pix2pix", "diffi2i", "inr", "identity",
)  # fmt: skip
"""Methods of synthesis, the default first; `h2lo_bids.models.registry` has their families."""
IDENTITY = "identity"
"""The method that returns its input: the high-field image, or the low-field one to enhance."""
ENHANCER = "pfsr"
"""The method of enhancement."""
REAL, FLIP_ROTATE, CURVE = "real", "flip-rotate", "curve"
ARMS = (
    REAL, FLIP_ROTATE, CURVE,
    "arnold", "pix2pix", "diffi2i", "inr", "h2lo-mlp", "h2lo-nograd", "h2lo",
)  # fmt: skip
"""Rows of the paper's Table 2, of the two ablations, and of one curve of grey levels."""

SYNTHESIS_PRECISIONS = ("fp32", "bf16")
"""In which models are evaluated."""
SCALINGS = ("robust", "max")
"""How models take their input; see `h2lo_bids.imaging.normalise.scale_brain`."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of an OSError that free space or a larger quota would mend."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip
"""Limits that libraries read when they are imported."""

Say = Callable[[str], None]
"""Takes one line about the progress of something."""
Send = Callable[[dict[str, Any]], None]
"""Takes an event of a child process, for the process that started it."""


class Step(str):
    """A line about the progress of a fit, of which one now and then is enough."""
