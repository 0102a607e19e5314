"""Make the pictures of the documentation: ``python docs/make_gallery.py [FOLDER]``.

One simulated person is scanned at 3 T and 64 mT, the 3 T scans go through ``h2lo``, and its
report through headless Chromium where that is installed. About five minutes on two cores;
FOLDER keeps what was computed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

GALLERY = Path(__file__).resolve().with_name("gallery")
GRID = {"T1w": "1.6x1.6x5", "T2w": "1.5x1.5x5"}


def main() -> None:
    """Make all pictures."""
    GALLERY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        bids, out = folder / "bids", folder / "out"
        if not bids.exists():
            run("h2lo_bids.cli.phantom", bids, "--subjects", 1, "--seed", 3)
        run("h2lo_bids.cli.run", bids, out, "participant", "--noise", "calibrated",
            "--lf-grid", *GRID.values())  # fmt: skip
        for contrast, grid in GRID.items():
            draw(contrast, grid, bids / "sub-01", out / "sub-01" / "ses-HF" / "anat")
        screenshot(out / "sub-01.html", GALLERY / "report.png")


def run(module: str, *words: object) -> None:
    """Run one of the commands as a user would."""
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True)


def draw(contrast: str, grid: str, raw: Path, made: Path) -> None:
    """Draw a scan, what was made of it, and the scanner's own image, a plane each."""
    label = grid.replace(".", "p")
    parts = {
        "3 T": next((raw / "ses-HF" / "anat").glob(f"*_{contrast}.nii.gz")),
        "64 mT": one(made, f"*_desc-lowfield_{contrast}", "_res-"),
        f"64 mT, {grid} mm, noise": one(made, f"*_res-{label}_desc-lowfieldnoise01_{contrast}"),
        "simulated scan": next((raw / "ses-LF" / "anat").glob(f"*acq-axi*_{contrast}.nii.gz")),
    }
    figure = Figure(figsize=(3.0 * len(parts), 6.4))
    for column, (title, path) in enumerate(parts.items()):
        image = nib.as_closest_canonical(nib.load(path))
        data, sides = np.asarray(image.dataobj, np.float32), image.header.get_zooms()
        for row, axis in enumerate((2, 0)):
            axes = figure.add_subplot(2, len(parts), row * len(parts) + column + 1)
            middle = data[tuple(slice(n // 4, -n // 4) for n in data.shape)]  # without scalp
            plane = np.rot90(np.take(data, int(data.shape[axis] * 0.55), axis))
            rest = [s for a, s in enumerate(sides) if a != axis]
            axes.imshow(plane, cmap="gray", vmin=0, vmax=1.1 * np.percentile(middle, 99.5),
                        aspect=rest[1] / rest[0])  # fmt: skip
            axes.set_axis_off()
            axes.set_title(title if row == 0 else "", fontsize=10)
    figure.tight_layout()
    figure.savefig(GALLERY / f"synthesis_{contrast}.png", dpi=80)


def one(folder: Path, pattern: str, without: str = " ") -> Path:
    """Return the first file of a pattern whose name lacks a part."""
    return next(p for p in sorted(folder.glob(f"{pattern}.nii.gz")) if without not in p.name)


def screenshot(page: Path, picture: Path) -> None:
    """Take a picture of a page, where there is a browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print(f"{picture}: not made, as there is no Chromium here", file=sys.stderr)
        return
    words = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,1500"]
    subprocess.run([browser, *words, f"--screenshot={picture}", page.as_uri()], check=True)


if __name__ == "__main__":
    main()
