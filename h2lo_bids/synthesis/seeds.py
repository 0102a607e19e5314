"""Seeds of the methods that draw at random when they synthesize."""

from __future__ import annotations

import zlib


def scan_seed(seed: int, name: str) -> int:
    """Return the seed of one scan, from the run's seed and the scan's name.

    Two scans of one run draw differently, and the same command draws the same.

    Examples
    --------
    >>> scan_seed(42, "sub-01_T1w") == scan_seed(42, "sub-01_T1w")
    True
    >>> scan_seed(42, "sub-01_T1w") == scan_seed(42, "sub-02_T1w")
    False
    """
    return zlib.crc32(f"{seed} {name}".encode())
