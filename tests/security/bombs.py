"""Read a file in a process that may use little memory: ``python bombs.py PATH``.

Prints what the reader said, and the most memory that it used (MB).
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from h2lo_bids.errors import H2loError
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.models.bundle import load_bundle, load_model


def main() -> None:
    """Read one file, an image or a model, as its name says."""
    path = Path(sys.argv[1])
    if ".nii" not in path.name:
        import torch  # noqa: F401 - before the memory is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        if ".nii" in path.name:
            load_checked(path)
        else:
            load_model(load_bundle(path))
        said = "read"
    except H2loError as err:
        said = str(err)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{used // 1024}\t{said}")


if __name__ == "__main__":
    main()
