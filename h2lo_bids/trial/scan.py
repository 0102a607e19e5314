"""What a trial does with one scan: labels, tables and ratings, in images of the conditions."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.bids.derivatives import (
    derivative_uri,
    result_files,
    sidecar_path,
    software_versions,
    write_sidecar,
)
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.evaluation.realism import noise_deviation
from h2lo_bids.imaging.resample import placed, resample, spacing_of, weigh_by_axis
from h2lo_bids.io import atomic_write_bytes, read_json, save_nifti, sha256, write_json
from h2lo_bids.outputs import Grid
from h2lo_bids.trial import labels as lb
from h2lo_bids.trial import lesions as ls
from h2lo_bids.trial.condition import Image, Images, digest_of
from h2lo_bids.trial.lesions import LESION, Place
from h2lo_bids.trial.observer import CHANNELS, Observers, crop_of


def columns(**given: str | tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Describe the columns of a table by their meaning, or by meaning and unit."""
    return {
        name: {"Description": text} if isinstance(text, str) else
        {"Description": text[0], "Units": text[1]}
        for name, text in given.items()
    }  # fmt: skip


_PLACE = {
    "volume": ("Volume of the part in the brain", "mm^3"),
    "diameter": ("Diameter of the ball of this volume", "mm"),
}
REGIONS = columns(
    image="desc of the image that is measured",
    res="Its res entity; n/a on the scan's own grid",
    label="Name given with --labels",
    region="Region",
    lesion="Number of the lesion, the largest first; n/a for the whole region",
    **_PLACE,
    x=("Centre, right", "mm"),
    y=("Centre, anterior", "mm"),
    z=("Centre, superior", "mm"),
    hf_mean="Mean in the high-field image",
    hf_sd="Standard deviation there",
    hf_contrast="Mean less that of the ring (healthy white matter 1 to 5 mm away) over the ring's",
    hf_cnr="Mean less that of the ring over the image's noise",
    mean="Mean in the image, voxels weighted by the share that is filled",
    sd="Standard deviation there",
    contrast="As hf_contrast",
    cnr="As hf_cnr",
)
RATINGS = columns(
    condition="Condition of the trial; highfield is the high-field image",
    lesion="Number of the lesion, the largest first",
    place="0 for the lesion; from 1 for its healthy places",
    kind="lesion; or mirror (other hemisphere) or matched (like tissue and depth)",
    realisation="Number of the noisy image",
    **_PLACE,
    length=("Longest extent of the lesion in any direction", "mm"),
    hf_contrast="Contrast of the lesion in the high-field image",
    cnr="Rating of the CNR observer",
    **{f"channel{n}": "Output of a Laguerre-Gauss channel" for n in range(1, CHANNELS + 1)},
    segmented=("Volume by the midpoint segmenter", "mm^3"),
)


class Examination:
    """The work on one scan, whose participant outputs are in the output folder."""

    def __init__(self, images: Images) -> None:
        self._images, self._scan = images, images.scan
        self._mask, self._brain = images.mask, images.brain
        # What the report shows: rows of `REGIONS`, two images by the name of their figure, the
        # labels' mask; and warnings.
        self.rows: list[list[Any]] = []
        self.pictures: dict[str, Any] = {}
        self.outline: Any = None
        self.notes: list[str] = []

    def run(self) -> Examination:
        """Write everything; labels that cannot be used raise after the images are there."""
        images = self._images.write()
        labels = []
        for name, root in self._images.settings.labels:
            path = lb.find_label(name, root, self._scan)
            labels.append(lb.load_label(name, path, nib.load(self._scan.path), self._brain))
        for label in labels:
            self._write_label(label, images)
            head, lesions = self._measure(label, images)
            if self._images.settings.level == "trial" and label.kind != "dseg":
                self._rate(label, head, lesions, images)
        if labels:
            table = self._images.name("regions", "stats", extension=".tsv")
            write_table(table, self.rows, REGIONS)
            pictures = {"lesionshigh": images[0], "lesionslow": images[-1]}
            self.pictures = {
                kind: placed(i.data, i.affine, self._mask) for kind, i in pictures.items()
            }
            held = (labels[0].data > 0).astype(np.uint8)
            self.outline = placed(held, self._mask.affine, self._mask)
        return self

    def _write_label(self, label: lb.Label, images: Sequence[Image]) -> None:
        """Write a label on every grid of the run and of a condition."""
        kind = "dseg" if label.kind == "dseg" else "probseg"
        native = derivative_uri(self._images.paths["preproc"], self._images.out_dir)
        targets: dict[str, tuple[Grid, Any]] = {}
        for image in images:
            space = placed(image.brain.astype(np.uint8), image.affine, self._mask)
            targets[image.grid.name] = image.grid, space
        for grid in self._images.grids:
            targets[grid.name] = grid, nib.load(self._images.mask_of(grid))
        for grid, space in targets.values():
            data = lb.carry_label(label, self._mover(grid, space))
            path = self._images.name(label.name, kind, grid)
            known = read_json(sidecar_path(self._images.mask_of(grid))) if grid.space else {}
            content = {
                "Description": f"{label.name}, by the share of each voxel that it fills",
                "Sources": [label.path.as_uri()],
                "SpatialReference": known.get("SpatialReference", native),
                **({"Resolution": grid.resolution} if grid.resolution else {}),
                "Software": software_versions(),
            }
            write_sidecar(path, content)
            save_nifti(placed(data, space.affine, space), path)

    def _mover(self, grid: Grid, space: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Return what carries shares to a grid, that of nibabel's `space`."""

        def image_of(share: np.ndarray) -> Any:
            return placed(share, self._mask.affine, self._mask)

        if grid.kind == "template":
            from h2lo_bids.imaging.registration import warp

            way = self._images.paths[f"forward_{grid.space}"]
            return lambda share: warp(image_of(share), space, way).get_fdata(dtype=np.float32)
        if grid.kind == "model":
            return lambda share: resample(
                image_of(share), space.shape, space.affine, order=1
            ).get_fdata(dtype=np.float32)
        lines = self._lines(grid, space.shape, space.affine)
        return lambda share: weigh_by_axis(share, [line.astype(np.float32) for line in lines])

    def _lines(self, grid: Grid, shape: Sequence[int], affine: np.ndarray) -> Any:
        """Return what the voxels of a grid along the scan's axes average of the scan's."""
        return lb.response_lines(self._brain.shape, self._mask.affine, shape, affine, grid.response)

    def _shown(self, places: Iterable[Place], image: Image) -> list[tuple[Place, ls.Shown]]:
        """Return the places that an image shows."""
        lines = self._lines(image.grid, image.brain.shape, image.affine)
        pairs = ((place, ls.shown(place, lines, image.brain)) for place in places)
        return [(place, shown) for place, shown in pairs if shown is not None]

    def _measure(
        self, label: lb.Label, images: Sequence[Image]
    ) -> tuple[ls.Anatomy, tuple[Place, ...]]:
        """Add rows of regions and of lesions, in every image; return those of the last region."""
        high, affine, suffix = images[0].data, self._mask.affine, self._scan.suffix
        noises = [
            noise_deviation(i.data, i.brain, spacing_of(i.affine).tolist()) for i in images
        ]  # fmt: skip
        for _, region, share in label.regions():
            head = ls.Anatomy(high, self._brain, share >= 0.5, affine, suffix)
            lesions, outside = ls.find_lesions(head)
            if outside:
                self.notes.append(
                    f"{label.path}: {outside} parts of {region} lie outside the brain; skipped"
                )
            places = [ls.whole_region(share, lesions, head)]
            places += lesions if label.kind != "dseg" else ()
            measured: list[dict[int, ls.Measure]] = []
            for image, noise in zip(images, noises, strict=True):
                shown = self._shown(places, image)
                measured.append({p.number: ls.measure(image.data, s, noise) for p, s in shown})
                lost = [str(p.number or "all") for p in places if p.number not in measured[-1]]
                if lost:
                    self.notes.append(
                        f"{label.path}: {region} {', '.join(lost[:5])}: not in the brain of "
                        f"{image.name}; skipped"
                    )
            for image, of in zip(images[1:] or images, measured[1:] or measured, strict=True):
                self.rows += [
                    [image.name, image.grid.res, label.name, region, p.number or None, p.volume,
                     p.diameter, *p.centre, *measured[0][p.number], *of[p.number]]
                    for p in places if p.number in of and p.number in measured[0]
                ]  # fmt: skip
        return head, lesions

    def _rate(
        self,
        label: lb.Label,
        head: ls.Anatomy,
        lesions: tuple[Place, ...],
        images: Sequence[Image],
    ) -> None:
        """Let the observers look at every realisation, and write what they say."""
        table, sidecar, pictures = result_files(
            self._images.out_dir, "trial_ratings", scan=f"{self._scan.stem}_{label.name}"
        )
        bundles = [image.source[1] for image in images if image.source]
        digest = self._images.digest(
            self._images.conditions, [b.sha256 for b in bundles], self._images.seed,
            self._images.options, sha256(label.path.read_bytes()), list(RATINGS),
        )  # fmt: skip
        if digest_of(table) == digest:
            return
        places = [*lesions, *ls.healthy_places(lesions, head, seed=self._images.seed)]
        lost = len(lesions) - len({p.number for p in places[len(lesions) :]})
        if lost:
            self.notes.append(
                f"{label.path}: {lost} of {len(lesions)} lesions have no healthy place like the "
                "tissue around them; the observers compare them with those of the others"
            )
        rows, crops = self._look(places, images)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **crops)  # type: ignore[arg-type]
        atomic_write_bytes(pictures, buffer.getvalue())
        write_table(table, rows, RATINGS)
        kinds = {str(b.metadata.get("training_data", {}).get("kind")) for b in bundles}
        study = {
            "InputDigest": digest, "Scan": self._scan.relative_path, "Label": label.name,
            "Training": sorted(kinds),
            "Conditions": {c.name: c.described for c in self._images.conditions},
        }  # fmt: skip
        write_json(sidecar, RATINGS | study)

    def _look(
        self, places: Sequence[Place], images: Sequence[Image]
    ) -> tuple[list[list[Any]], dict[str, np.ndarray]]:
        """Return the rows of ratings, and crops of the lesions by condition and number."""
        rows: list[list[Any]] = []
        crops: dict[str, np.ndarray] = {}
        contrasts: dict[int, float] = {}
        grid, high = "", images[0]
        for number, image, data in chain([(1, high, high.data)], self._images.realisations(images)):
            if grid != repr(image.grid):
                grid, shown = repr(image.grid), self._shown(places, image)
                observers = Observers(shown, image.brain, image.affine, self._scan.suffix)
            for (place, at), rating in zip(shown, observers.look(data), strict=True):
                if image is high and place.kind == LESION:
                    contrasts[place.number] = ls.measure(data, at, 0.0).contrast
                rows.append(
                    [image.name, place.number, place.rank, place.kind, number, place.volume,
                     place.diameter, place.length, contrasts.get(place.number), rating.cnr,
                     *map(float, rating.channels), rating.volume]
                )  # fmt: skip
                if number == 1 and place.kind == LESION:
                    crops[f"{image.name}_{place.number}"] = crop_of(data, at)
        return rows, crops
