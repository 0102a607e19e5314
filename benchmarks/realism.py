"""Measure how real synthesized images look beside real low-field scans: tables and a picture.

Run ``python benchmarks/realism.py OUT T1w --synthesized NAME=PATH ... --reference NAME=PATH ...``.
PATH is an image, or a folder that ``h2lo`` wrote: its low-field images of the contrast on the
scans' own grids are taken. ``IMAGE+IMAGE+IMAGE`` are scans of one head, fused by their mean (the
first alone is measured on its own grid). ``PATH,HF`` names the subject's own high-field image;
beside outputs of ``h2lo`` their ``desc-preproc`` image is found. OUT receives
``how-real_T1w.md`` and ``how-real_T1w.png``. About half a minute per head on one thread.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError, H2loError, MissingInputError
from h2lo_bids.evaluation import realism
from h2lo_bids.imaging.brain import extract_brain
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import frame_grid, resample, resample_mask, spacing_of
from h2lo_bids.models.frame import Frame

FRAME = Frame()
"""1 mm, centred on the brain: where bands are compared and pictures are cut."""


@dataclass(frozen=True)
class Image:
    """One row of the tables, its files read when first asked for."""

    name: str
    real: bool
    paths: tuple[Path, ...]
    own: Path | None

    @cached_property
    def native(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, brain and voxel size on its own grid."""
        image = upright(self.paths[0])
        brain = extract_brain(image, threads=1).image
        return (
            np.asarray(image.dataobj), np.asarray(brain.dataobj) > 0, spacing_of(image.affine)
        )  # fmt: skip

    @cached_property
    def framed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Values, brain and own high-field image on `FRAME`."""
        import nibabel as nib

        image, *others = map(upright, self.paths)
        brain = nib.Nifti1Image(self.native[1].astype(np.uint8), image.affine)
        shape, affine = frame_grid(image, FRAME, mask=brain)
        low = np.mean([resample(v, shape, affine).dataobj for v in (image, *others)], axis=0)
        high = None
        if self.own is not None:
            high = np.asarray(resample(load_checked(self.own).image, shape, affine).dataobj)
        return low, np.asarray(resample_mask(brain, shape, affine).dataobj) > 0, high

    @property
    def shown(self) -> np.ndarray:
        """The brain on `FRAME`, from 0 to its 99.5th percentile."""
        data, brain, _ = self.framed
        return np.where(brain, data, 0) / float(np.percentile(data[brain], 99.5))


def upright(path: Path) -> Any:
    """Read an image with its axes in RAS order: spectra are of its third, if sides are equal."""
    import nibabel as nib

    return nib.as_closest_canonical(load_checked(path).image)


def find(text: str, contrast: str, real: bool) -> list[Image]:
    name, _, rest = text.partition("=")
    path, _, own = rest.partition(",")
    root = Path(path)
    groups = [tuple(map(Path, path.split("+")))]
    if root.is_dir():
        every = sorted(root.glob(f"**/*_desc-lowfield_{contrast}.nii.gz"))
        groups = [(file,) for file in every if not re.search("_(space|res)-", file.name)]
    if not rest or not groups:
        raise MissingInputError(
            f"{text}: give NAME=IMAGE[,HF], or NAME=FOLDER that holds *_desc-lowfield_{contrast}"
        )
    found = []
    for files in groups:
        file = files[0]
        beside = file.with_name(re.sub("_desc-lowfield[a-z0-9]*_", "_desc-preproc_", file.name))
        high = Path(own) if own else beside if beside.is_file() and beside != file else None
        label = name if len(groups) == 1 else f"{name}, {file.name.partition('_desc')[0]}"
        found.append(Image(label, real, files, high))
    return found


def appearances(images: Sequence[Image]) -> list[str]:
    own = {image.name: realism.appearance(*image.native) for image in images}
    references = {image.name for image in images if image.real}
    lines = [
        "| Image | low/mid/high | noise | SNR low, mid, high | CNR low-mid, mid-high "
        "| spectrum, dB from nearest real | histogram, from nearest real |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, look in own.items():
        v = look.values()
        others = [own[other] for other in sorted(references - {name})]
        spectra = [realism.spectrum_distance(look, other) for other in others]
        histograms = [realism.histogram_distance(look, other) for other in others]
        snr = ", ".join(f"{v[f'snr_{level}']:.1f}" for level in ("low", "mid", "high"))
        nearest = [f"{min(d):.{n}f}" if d else "-" for d, n in ((spectra, 1), (histograms, 3))]
        lines.append(
            f"| {name} | {v['level_low']:.2f}/{v['level_mid']:.2f}/1 | {v['noise']:.4f} | {snr} "
            f"| {v['cnr_low_mid']:.1f}, {v['cnr_mid_high']:.1f} | {' | '.join(nearest)} |"
        )
    return lines


def bands(images: Sequence[Image]) -> list[str]:
    """Tabulate own and stranger; the stranger is the next image's high-field one."""
    known = [image for image in images if image.own is not None]
    heads = (f"{coarse:g}-{fine:g}" for coarse, fine in realism.HALF_PITCH_MM)
    lines = [f"| Own / stranger | {' | '.join(heads)} |", "|---" * 8 + "|"]
    for n, image in enumerate(known):
        low, brain, high = image.framed
        others = [o for o in (*known[n + 1 :], *known[:n]) if o.own != image.own]
        columns = []
        for partner, inside in ((high, brain), *((o.framed[2], o.framed[1]) for o in others[:1])):
            window = realism.tapered(brain & inside, FRAME.spacing)
            columns.append(realism.band_correlation(low, partner, window, FRAME.spacing))
        cells = [" / ".join(f"{x:.2f}" for x in row) for row in zip(*columns, strict=True)]
        lines.append(f"| {image.name} | {' | '.join(cells)} |")
    return lines if known else ["No image has a high-field partner."]


def picture(volumes: dict[str, np.ndarray], path: Path) -> None:
    """Write three planes through the middle of each volume of one grid, from 0 to 1."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    rows = []
    for volume in volumes.values():
        grey = (255 * np.clip(volume, 0, 1)).astype(np.uint8)
        x, y, z = (n // 2 for n in grey.shape)
        side = max(grey.shape)
        tiles = np.zeros((side, 3 * side), np.uint8)
        for k, cut in enumerate((grey[:, :, z], grey[:, y], grey[x])):
            tile = cut.T[::-1]
            top, left = (side - tile.shape[0]) // 2, k * side + (side - tile.shape[1]) // 2
            tiles[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        rows.append(tiles)
    canvas = Pillow.fromarray(np.vstack(rows))
    draw = ImageDraw.Draw(canvas)
    for n, name in enumerate(volumes):
        draw.text((6, n * len(rows[0]) + 4), name, fill=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("contrast", choices=("T1w", "T2w"))
    for word in ("--synthesized", "--reference"):
        parser.add_argument(word, nargs="+", default=[], metavar="NAME=PATH[,HF]")
    given = parser.parse_args()
    images = []
    try:
        for text, real in (
            *((text, True) for text in given.reference),
            *((text, False) for text in given.synthesized),
        ):
            for image in find(text, given.contrast, real):
                try:
                    images.append((image, image.framed)[0])
                except H2loError as err:
                    print(f"skipped: {err}")
        if not images:
            raise BadDataError("no image could be used; give --synthesized or --reference")
    except H2loError as err:
        parser.exit(err.exit_code, f"{err}\n")
    given.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*appearances(images), "", *bands(images), ""])
    (given.out / f"how-real_{given.contrast}.md").write_text(text)
    picture(
        {image.name: image.shown for image in images}, given.out / f"how-real_{given.contrast}.png"
    )
    print(text)


if __name__ == "__main__":
    main()
