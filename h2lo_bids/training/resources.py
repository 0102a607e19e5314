"""What a fit has cost, as far as the operating system tells."""

from __future__ import annotations

import sys


def peak_memory() -> float | None:
    """Return the largest memory that this process has held, in GB.

    A helper that this process waited for counts if it held more. The GPU's
    memory does not count.

    Returns
    -------
    float or None
        None where the system does not tell.
    """
    try:
        import resource
    except ImportError:
        return None
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    most = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return round(most * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)
