"""What a trial does with one scan: its labels, and tables and ratings of the conditions' images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.bids.derivatives import result_files, software_versions, write_sidecar
from h2lo_bids.bids.names import parse_name
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.evaluation.realism import noise_deviation
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import placed, resample, spacing_of, weigh_by_axis
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.io import atomic_path, read_text, save_nifti, sha256, table_rows, write_json
from h2lo_bids.outputs import Grid
from h2lo_bids.trial import lesions as ls
from h2lo_bids.trial.condition import Image, Images, sidecar_of
from h2lo_bids.trial.lesions import LESION, Place
from h2lo_bids.trial.observer import Observers, crop_of
from h2lo_bids.trial.study import RATINGS, REGIONS
from h2lo_bids.wording import listed

RECIPE = 2
"""Of ratings: another number where the same images would be rated otherwise."""
SUFFIXES = ("mask", "dseg", "probseg")
_OWN_SPACES = (None, "orig", "native", "individual")
_SAME = 1e-2
"""Of affines, in mm, within which two grids are one."""
_ROUNDING, _SCALED = 1e-3, 0.05
"""Of shares, and of numbers up to thousands that a header scales to 16 bits."""


@dataclass(frozen=True)
class Label:
    """One label image in the space of a scan."""

    name: str  # as given with ``--labels``
    path: Path
    kind: str  # "dseg" or "probseg", which a mask is, too
    data: np.ndarray  # (X, Y, Z): whole numbers, or float32 shares in [0, 1]
    names: dict[int, str]  # of the regions of a "dseg", by number, where its table has them

    def regions(self) -> Iterator[tuple[int, str, np.ndarray]]:
        """Give number, name and shares, float32, of each region."""
        if self.kind != "dseg":
            yield 1, self.name, self.data
            return
        for code in np.unique(self.data[self.data > 0]).tolist():
            yield code, self.names.get(code, str(code)), (self.data == code).astype(np.float32)


def find_label(name: str, root: Path, scan: Scan) -> Path:
    """Find the one label image of a scan in a derivative dataset, other than a brain mask."""
    if not root.is_dir():
        raise MissingInputError(f"--labels {name}={root}: no such folder; check the path")
    folder = root / f"sub-{scan.subject}"
    if scan.session and (folder / f"ses-{scan.session}").is_dir():
        folder /= f"ses-{scan.session}"
    entities, fitting = dict(scan.entities), []
    for path in sorted(folder.glob("anat/*.nii*")):
        parsed = parse_name(path.name)
        if parsed is None or parsed.suffix not in SUFFIXES or parsed.get("desc") == "brain":
            continue
        if parsed.get("sub") != scan.subject:
            raise BadDataError(
                f"{path}: is in the folder of sub-{scan.subject}, and its name is of another "
                "participant; rename or move it"
            )
        keys = ("ses", "acq", "ce", "rec", "run")
        other = any(parsed.get(key) not in (None, entities.get(key)) for key in keys)
        if not other and parsed.get("space") in (*_OWN_SPACES, scan.suffix):
            named = sum(parsed.get(key) is not None for key in keys)
            fitting.append(((parsed.get("space") == scan.suffix, named), path))
    # A label that names the space and entities of this very scan is meant before one without.
    best = [path for named, path in fitting if named == max(fitting)[0]]
    if len(best) > 1:
        names = ", ".join(path.name for path in best[:3])
        raise BadDataError(
            f"{folder}: {len(best)} label images fit {scan.stem} ({names}); keep one, or tell "
            "them apart by space-T1w and space-T2w"
        )
    if not best:
        raise MissingInputError(
            f"{folder}: --labels {name} holds no mask, dseg or probseg for {scan.stem}; add "
            "one in the scan's space"
        )
    return best[0]


def load_label(name: str, path: Path, scan_image: Any, brain: np.ndarray) -> Label:
    """Load a label image and check that it belongs to a scan, nibabel's image, and its brain."""
    image = load_checked(path).image
    scan = scan_image.get_filename()
    if image.shape != scan_image.shape:
        shapes = " and ".join(" x ".join(map(str, i.shape)) for i in (image, scan_image))
        raise BadDataError(
            f"{path}: is on another grid than {scan} ({shapes} voxels); resample it to the scan"
        )
    if not np.allclose(image.affine, scan_image.affine, atol=_SAME):
        raise BadDataError(
            f"{path}: lies elsewhere than {scan} (their affines differ); resample it to the scan"
        )
    kind, data = path.name.split(".")[0].rpartition("_")[2], np.asarray(image.dataobj)
    whole = data if kind == "probseg" else np.rint(data)
    if np.abs(data - whole).max() > _SCALED:
        raise BadDataError(f"{path}: a {kind} holds whole numbers, this one does not")
    if whole.min() < -_ROUNDING or (kind == "probseg" and whole.max() > 1 + _ROUNDING):
        raise BadDataError(f"{path}: has values beyond those of a {kind}; check how it was made")
    held = whole >= 0.5
    if not held.any():
        raise BadDataError(f"{path}: is empty: no voxel has a label")
    if 2 * np.count_nonzero(held & brain) < np.count_nonzero(held):
        raise BadDataError(
            f"{path}: most of it lies outside the brain of {scan}; it may be of another person"
        )
    if kind == "dseg":
        return Label(name, path, kind, whole.astype(np.int32), _names(path))
    share = held if kind == "mask" else data.clip(0)
    return Label(name, path, "probseg", share.astype(np.float32), {})


def _names(path: Path) -> dict[int, str]:
    """Read the regions' names from the table beside a segmentation, or of its dataset."""
    sibling = path.with_name(path.name.split(".")[0] + ".tsv")
    for table in (sibling, *(parent / "dseg.tsv" for parent in path.parents[:4])):
        if table.is_file():
            try:
                rows = table_rows(read_text(table))
                return {int(row["index"]): row["name"] for row in rows}
            except (KeyError, ValueError) as err:
                raise BadDataError(f"{table}: needs the columns index and name") from err
    return {}


def carry_label(label: Label, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Carry a label to a grid by partial volume: its share, or the region that has the largest."""
    if label.kind != "dseg":
        return move(label.data)
    best = np.maximum(move((label.data == 0).astype(np.float32)), 1e-6)
    codes = np.zeros(best.shape, dtype=np.int32)
    for code, _, region in label.regions():
        share = move(region)
        codes[share > best] = code
        np.maximum(best, share, out=best)
    return codes


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
        labels, of_run = [], self._images.settings.labels
        scan = load_checked(self._scan.path).image if of_run else None
        for name, root in of_run:
            labels.append(load_label(name, find_label(name, root, self._scan), scan, self._brain))
        trial = self._images.settings.level == "trial"
        rated = [label for label in labels if label.kind != "dseg"]
        ill = np.any([label.data >= 0.5 for label in rated], axis=0) if rated else None
        sources = [sha256(label.path.read_bytes()) for label in rated]
        for label in labels:
            self._write_label(label, images)
            head, lesions = self._measure(label, images, ill)
            if trial and label.kind != "dseg":
                self._rate(label, head, lesions, images, sources)
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

    def _write_label(self, label: Label, images: Sequence[Image]) -> None:
        """Write a label on every grid of the run and of a condition."""
        native = self._images.uri(self._images.paths["preproc"])
        targets: dict[str, tuple[Grid, Any]] = {
            i.grid.name: (i.grid, placed(i.data, i.affine, self._mask)) for i in images
        }
        targets |= {g.name: (g, nib.load(self._images.mask_of(g))) for g in self._images.grids}
        for asked, space in targets.values():
            # What fills the voxels: conditions with other slices share the file.
            grid = replace(asked, response=VoxelResponse())
            data = carry_label(label, self._mover(grid, space))
            path = self._images.name(label.name, label.kind, grid)
            known = sidecar_of(self._images.mask_of(grid)) if grid.space else {}
            content = {
                "Description": f"{label.name}, by the share of each voxel that it fills",
                "Sources": [label.path.as_uri()],
                "SpatialReference": known.get("SpatialReference", native),
                **({"Resolution": grid.meaning} if grid.resolution else {}),
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
        return ls.response_lines(self._brain.shape, self._mask.affine, shape, affine, grid.response)

    def _shown(self, places: Iterable[Place], image: Image) -> list[tuple[Place, ls.Shown]]:
        """Return the places that an image shows."""
        lines = self._lines(image.grid, image.brain.shape, image.affine)
        pairs = ((place, ls.shown(place, lines, image.brain)) for place in places)
        return [(place, shown) for place, shown in pairs if shown is not None]

    def _measure(
        self, label: Label, images: Sequence[Image], ill: np.ndarray | None
    ) -> tuple[ls.Anatomy, tuple[Place, ...]]:
        """Add rows of regions and of lesions, in every image; return those of the last region."""
        high, affine, suffix = images[0].data, self._mask.affine, self._scan.suffix
        noises = [
            noise_deviation(i.data, i.brain, spacing_of(i.affine).tolist()) for i in images
        ]  # fmt: skip
        for _, region, share in label.regions():
            head = ls.Anatomy(high, self._brain, share >= 0.5, affine, suffix, ill)
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
                        f"{label.path}: {region} {listed(lost)}: not in the brain of "
                        f"{image.name}, or without healthy brain around; skipped"
                    )
            for image, of in zip(images[1:], measured[1:], strict=True):
                self.rows += [
                    [image.name, image.grid.res, label.name, region, p.number or None, p.volume,
                     p.diameter, *p.centre, *measured[0][p.number], *of[p.number]]
                    for p in places if p.number in of and p.number in measured[0]
                ]  # fmt: skip
        return head, lesions

    def _rate(
        self,
        label: Label,
        head: ls.Anatomy,
        lesions: tuple[Place, ...],
        images: Sequence[Image],
        sources: Sequence[str],
    ) -> None:
        """Let the observers look at every realisation, and write what they say."""
        table, sidecar, pictures = result_files(
            self._images.out_dir, "trial_ratings", scan=f"{self._scan.stem}_{label.name}"
        )
        bundles = {image.name: image.source[1] for image in images if image.source}
        models = {name: bundle.digest for name, bundle in bundles.items()}
        digest = self._images.digest(
            self._images.conditions, models, self._images.seed,
            self._images.options, label.name, sources, RECIPE, list(RATINGS),
        )  # fmt: skip
        if (known := sidecar_of(table)).get("InputDigest") == digest:
            self.notes += known.get("Notes", ())
            return
        places = [*lesions, *ls.healthy_places(lesions, head, seed=self._images.seed)]
        lost = len(lesions) - len({p.number for p in places[len(lesions) :]})
        text = (
            f"{label.path}: {lost} of {len(lesions)} lesions have no healthy place like the tissue "
            "around them; the observers compare them with those of the others"
        )
        self.notes += (notes := [text] if lost else [])
        rows, crops = self._look(places, images)
        with atomic_path(pictures) as temporary:
            np.savez_compressed(temporary, **crops)  # type: ignore[arg-type]
        write_table(table, rows, RATINGS)
        kinds = {str(b.metadata.get("training_data", {}).get("kind")) for b in bundles.values()}
        study = {
            "InputDigest": digest, "Scan": self._scan.relative_path, "Label": label.name,
            "Training": sorted(kinds),
            "Conditions": {c.name: c.described for c in self._images.conditions},
            "Models": models, "Notes": notes,
        }  # fmt: skip
        write_json(sidecar, RATINGS | study)

    def _look(
        self, places: Sequence[Place], images: Sequence[Image]
    ) -> tuple[list[list[Any]], dict[str, np.ndarray]]:
        """Return the rows of ratings, and crops of the lesions by condition and number."""
        rows: list[list[Any]] = []
        crops: dict[str, np.ndarray] = {}
        contrasts: dict[int, float] = {}
        high, known = images[0], dict[Grid, Observers]()
        for number, image, data in chain([(1, high, high.data)], self._images.realisations(images)):
            if image.grid not in known:
                shown = self._shown(places, image)
                known[image.grid] = Observers(shown, image.brain, image.affine, self._scan.suffix)
            observers = known[image.grid]
            for (place, at), rating in zip(observers.places, observers.look(data), strict=True):
                if image is high and place.kind == LESION:
                    contrasts[place.number] = ls.measure(data, at, 0.0).contrast
                rows.append(
                    [image.name, place.number, place.rank, place.kind, number, place.volume,
                     place.diameter, place.length, contrasts.get(place.number), rating.cnr,
                     *map(float, rating.channels), rating.volume]
                )  # fmt: skip
                if number == 1 and place.kind == LESION:
                    crops[f"{image.name}_{place.number}"] = crop_of(data, at, image.affine)
        return rows, crops
