"""Compare the derivatives of two runs of the same command, byte for byte.

    python3 .ci/compare.py NATIVE CONTAINER

Left out, since they tell when, where and how the run was started: ``logs/``, the
reports, their JSON, ``scans.tsv`` (seconds), ``dataset_description.json`` (paths, and the
container's name).
In sidecars the version of Python itself is left out. All the rest must be equal.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PYTHON = re.compile(rb'"python": "[0-9.]+"')


def compared(root: Path) -> dict[str, bytes]:
    """Return the files that are promised to be the same, with their content."""
    files = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root)
        told = name.suffix == ".html" or name.name in ("dataset_description.json", "scans.tsv")
        record = name.parent.name == "figures" and name.suffix == ".json"
        if told or record or name.parts[0] in ("logs", ".h2lo-work"):
            continue
        content = path.read_bytes()
        files[str(name)] = PYTHON.sub(b"", content) if name.suffix == ".json" else content
    return files


def main() -> int:
    """Print what differs; return 1 if anything does or nothing was made."""
    native, container = (compared(Path(folder)) for folder in sys.argv[1:3])
    differ = [n for n in sorted(native.keys() | container) if native.get(n) != container.get(n)]
    for name in differ:
        print(f"differs: {name}")
    images = sum(name.endswith(".nii.gz") for name in native)
    print(f"{len(native)} files, {images} images: {len(differ)} differ")
    return int(bool(differ) or not images)


if __name__ == "__main__":
    raise SystemExit(main())
