"""Time from nothing to the scans of one subject out of many.

Run ``python benchmarks/indexing.py``. It writes a dataset of empty images into
a temporary folder and prints, each measured in a fresh Python process with
its imports: discovery of one subject, of all, with a kept index, and PyBIDS
alone (``BIDSLayout`` with and without metadata). No validation, since PyBIDS
does none either.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES = ("acq-MPRAGE_T1w", "acq-FSPGR_rec-SCIC_T1w", "acq-CUBE_T2w", "FLAIR")

DISCOVER = """
from pathlib import Path
from h2lo_bids.bids.discover import discover
from h2lo_bids.bids.query import Query
database = Path({database!r}) if {database!r} else None
found = discover(Query(Path({root!r}), participant_labels={labels!r}, database_dir=database,
                       skip_bids_validation=True))
print(len(found.scans))
"""
PYBIDS = """
from bids import BIDSLayout
from bids.layout import BIDSLayoutIndexer
layout = BIDSLayout({root!r}, validate=False,
                    indexer=BIDSLayoutIndexer(validate=False, index_metadata={metadata}))
files = layout.get(subject=["0500"], suffix=["T1w", "T2w"], extension=[".nii.gz"])
print(len([file.get_metadata() for file in files]))
"""


def write_skeleton(root: Path, subjects: int) -> int:
    """Write a dataset of empty images with sidecars, eight files per subject."""
    description = {"Name": "skeleton", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    sidecar = json.dumps({"MagneticFieldStrength": 3, "RepetitionTime": 2.5})
    for number in range(1, subjects + 1):
        folder = root / f"sub-{number:04d}" / "ses-01" / "anat"
        folder.mkdir(parents=True)
        for image in IMAGES:
            stem = f"sub-{number:04d}_ses-01_{image}"
            (folder / f"{stem}.nii.gz").touch()
            (folder / f"{stem}.json").write_text(sidecar)
    return subjects * len(IMAGES) * 2


def seconds(code: str) -> tuple[float, str]:
    """Run code in a fresh process; give its wall-clock time and output."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=1000)
    subjects = parser.parse_args().subjects
    with tempfile.TemporaryDirectory() as folder:
        root, database = Path(folder) / "bids", str(Path(folder) / "database")
        root.mkdir()
        files = write_skeleton(root, subjects)
        print(f"{subjects} subjects, {files} files")
        one, every = (f"{min(500, subjects):04d}",), ()

        def ours(labels: tuple[str, ...], where: str = "") -> str:
            return DISCOVER.format(root=str(root), labels=labels, database=where)

        cases = {
            "one subject": ours(one),
            "all subjects": ours(every),
            "one subject, writing an index": ours(one, database),
            "one subject, reading the index": ours(one, database),
            "all subjects, reading the index": ours(every, database),
            "BIDSLayout without metadata": PYBIDS.format(root=str(root), metadata=False),
            "BIDSLayout with metadata": PYBIDS.format(root=str(root), metadata=True),
        }
        base = None
        for label, code in cases.items():
            taken, found = seconds(code)
            base = base or taken
            print(f"{label:34s} {taken:7.2f} s  {taken / base:6.1f} times  {found} scans")


if __name__ == "__main__":
    main()
