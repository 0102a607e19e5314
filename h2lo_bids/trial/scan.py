"""What a trial does with one scan: images of the conditions, labels, tables, ratings."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from h2lo_bids import __version__
from h2lo_bids.bids.derivatives import derivative_uri, software_versions, write_sidecar
from h2lo_bids.bids.scan import Scan
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.evaluation.realism import noise_deviation
from h2lo_bids.imaging.resample import placed, resample, spacing_of
from h2lo_bids.io import atomic_write_bytes, atomic_write_text, read_json, save_nifti
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.outputs import Extras, Grid, extra_sidecar, output_paths, output_sidecars
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.trial import condition as cd
from h2lo_bids.trial import labels as lb
from h2lo_bids.trial import lesions as ls
from h2lo_bids.trial.columns import RATINGS, REGIONS
from h2lo_bids.trial.condition import HIGH, NATIVE, Condition
from h2lo_bids.trial.lesions import LESION, Place
from h2lo_bids.trial.observer import Observers, crop_of


@dataclass(frozen=True)
class Plan:
    """What is done with every scan of a run.

    Parameters
    ----------
    labels
        Name and root of each dataset of labels.
    conditions
        Those beside the high-field image.
    grids
        Of the run's plain low-field images, which labels are carried to as well.
    rated
        Whether observers look at realisations; else they are written.
    kept
        How many realisations are written although they are rated.
    """

    out_dir: Path
    labels: tuple[tuple[str, Path], ...] = ()
    conditions: tuple[Condition, ...] = ()
    grids: tuple[Grid, ...] = ()
    rated: bool = False
    kept: int = 0
    seed: int = 42
    options: EngineOptions = field(default_factory=EngineOptions)


class _Image(NamedTuple):
    """An image of a scan, on any grid of the scan's axes."""

    name: str
    grid: Grid
    data: np.ndarray
    brain: np.ndarray
    affine: np.ndarray


@dataclass
class Examined:
    """What the report shows of a scan: table rows, two images and the labels' mask, notes."""

    rows: list[list[Any]] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)
    outline: Any = None
    notes: list[str] = field(default_factory=list)


class Examination:
    """The work on one scan, whose participant outputs are in ``plan.out_dir``."""

    def __init__(
        self, scan: Scan, plan: Plan, bundle_of: Callable[[Condition | None], Bundle]
    ) -> None:
        self._scan, self._plan, self._bundle_of = scan, plan, bundle_of
        self._paths = output_paths(plan.out_dir, scan, plan.grids)
        mask: Any = nib.load(self._paths["mask"])
        self._mask, self._brain = mask, np.asarray(mask.dataobj) > 0
        self._heads: dict[str, cd.Head] = {}
        self._made: dict[str, np.ndarray] = {}
        self.found = Examined()

    def run(self) -> Examined:
        """Write everything; labels that cannot be used raise after the images are there."""
        high = _voxels(self._paths["preproc"])
        images = [_Image(HIGH, NATIVE, high, self._brain, self._mask.affine), *self._plain()]
        images += [self._image(condition) for condition in self._plan.conditions]
        if self._plan.kept or not self._plan.rated:
            self._write_realisations(images)
        labels = [
            lb.load_label(
                n, lb.find_label(n, root, self._scan), nib.load(self._scan.path), self._brain
            )
            for n, root in self._plan.labels
        ]
        for label in labels:
            self._write_label(label, images)
            head, lesions = self._measure(label, images)
            if self._plan.rated and label.kind != "dseg":
                self._rate(label, head, lesions, images)
        if labels:
            table = self._name("regions", "stats", extension=".tsv")
            write_table(table, self.found.rows, REGIONS)
            shown = {"lesionshigh": images[0], "lesionslow": images[-1]}
            self.found.pictures = {
                kind: placed(i.data, i.affine, self._mask) for kind, i in shown.items()
            }
            held = (labels[0].data > 0).astype(np.uint8)
            self.found.outline = placed(held, self._mask.affine, self._mask)
        return self.found

    def _head(self, bundle: Bundle) -> cd.Head:
        if bundle.sha256 not in self._heads:
            self._heads[bundle.sha256] = cd.prepare_head(self._scan, self._mask, bundle)
        return self._heads[bundle.sha256]

    def _name(self, *words: Any, **more: Any) -> Path:
        return cd.output_name(self._plan.out_dir, self._scan, *words, **more)

    def _mask_of(self, grid: Grid) -> Path:
        return self._paths["mask" if grid.kind == "native" else f"mask_{grid.name}"]

    def _plain(self) -> Iterator[_Image]:
        """Yield the run's own low-field images along the scan's axes."""
        for grid in self._plan.grids:
            if grid.kind in ("native", "lf"):
                brain: Any = nib.load(self._mask_of(grid))
                data = _voxels(self._paths[f"lowfield_{grid.name}"])
                yield _Image("lowfield", grid, data, np.asarray(brain.dataobj) > 0, brain.affine)

    def _image(self, condition: Condition) -> _Image:
        """Return the noise-free image of a condition: as it is there, or synthesized."""
        bundle, grid, plan = self._bundle_of(condition), condition.grid, self._plan
        brain, affine = cd.grid_brain(self._brain, self._mask.affine, condition)
        path = self._name(condition.name, self._scan.suffix, grid)
        digest = self._digest(bundle.sha256, repr(grid), repr(plan.options), plan.seed)
        if _digest_of(path) == digest:
            self._made[digest] = _voxels(path)
        else:
            if digest not in self._made:  # no other condition has this grid and model
                head = self._head(bundle)
                self._made[digest] = cd.noise_free(head, bundle, condition, plan.options, plan.seed)
            save_nifti(placed(self._made[digest], affine, self._mask), path)
        # Last, as it says that the image is whole; the condition's noise may have changed.
        write_sidecar(path, self._sidecar(condition, bundle) | {"InputDigest": digest})
        return _Image(condition.name, grid, self._made[digest], brain, affine)

    def _sidecar(self, condition: Condition, bundle: Bundle) -> dict[str, Any]:
        grid = condition.grid
        contents = output_sidecars(
            self._scan, bundle, self._plan.out_dir, [grid], Extras(),
            seed=self._plan.seed, settings={"Precision": self._plan.options.precision},
        )  # fmt: skip
        text = f"Condition {condition.name} of a virtual trial: {condition.text}"
        return contents[f"lowfield_{grid.name}"] | {"Description": text}

    def _digest(self, *words: Any) -> str:
        """Return a digest of words and of what the scan's outputs were made from."""
        sha = hashlib.sha256(json.dumps([__version__, *map(str, words)]).encode())
        for path in (self._paths["preproc"], self._paths["mask"]):
            sha.update(path.read_bytes())
        return sha.hexdigest()

    def _write_label(self, label: lb.Label, images: Sequence[_Image]) -> None:
        """Write a label on every grid of the run and of a condition."""
        kind = "dseg" if label.kind == "dseg" else "probseg"
        own = derivative_uri(self._paths["preproc"], self._plan.out_dir)
        targets: dict[str, tuple[Grid, Any]] = {}
        for image in images:
            space = placed(image.brain.astype(np.uint8), image.affine, self._mask)
            targets[image.grid.name] = image.grid, space
        for grid in self._plan.grids:
            targets[grid.name] = grid, nib.load(self._mask_of(grid))
        for grid, space in targets.values():
            data = lb.carry_label(label, self._mover(grid, space))
            path = self._name(label.name, kind, grid)
            told = read_json(_sidecar_of(self._mask_of(grid))) if grid.space else {}
            content = {
                "Description": f"{label.name}, by the share of each voxel that it fills",
                "Sources": [label.path.as_uri()],
                "SpatialReference": told.get("SpatialReference", own),
                **({"Resolution": grid.resolution} if grid.resolution else {}),
                "Software": software_versions(),
            }
            write_sidecar(path, content)
            save_nifti(placed(data, space.affine, space), path)

    def _mover(self, grid: Grid, space: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Return what carries shares to a grid, that of nibabel's `space`."""

        def own(share: np.ndarray) -> Any:
            return placed(share, self._mask.affine, self._mask)

        if grid.kind == "template":
            from h2lo_bids.imaging.registration import warp

            way = self._paths[f"forward_{grid.space}"]
            return lambda share: warp(own(share), space, way).get_fdata(dtype=np.float32)
        if grid.kind == "model":
            return lambda share: resample(own(share), space.shape, space.affine, order=1).get_fdata(
                dtype=np.float32
            )
        lines = lb.response_lines(
            self._brain.shape, self._mask.affine, space.shape, space.affine, grid.response
        )
        return lambda share: lb.carry(share, lines)

    def _shown(self, places: Iterable[Place], image: _Image) -> list[tuple[Place, ls.Shown]]:
        """Return the places that an image shows."""
        lines = lb.response_lines(
            self._brain.shape, self._mask.affine, image.brain.shape, image.affine,
            image.grid.response,
        )  # fmt: skip
        pairs = ((place, ls.shown(place, lines, image.brain)) for place in places)
        return [(place, shown) for place, shown in pairs if shown is not None]

    def _measure(
        self, label: lb.Label, images: Sequence[_Image]
    ) -> tuple[ls.Anatomy, tuple[Place, ...]]:
        """Add rows of regions and of lesions, in every image; return those of the last region."""
        high, affine, suffix = images[0].data, self._mask.affine, self._scan.suffix
        noises = [
            noise_deviation(i.data, i.brain, spacing_of(i.affine).tolist()) for i in images
        ]  # fmt: skip
        for region, share in label.regions():
            head = ls.Anatomy(high, self._brain, share >= 0.5, affine, suffix)
            lesions, outside = ls.find_lesions(head)
            if outside:
                self.found.notes.append(
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
                    self.found.notes.append(
                        f"{label.path}: {region} {', '.join(lost[:5])}: not in the brain of "
                        f"{image.name}; skipped"
                    )
            for image, of in zip(images[1:] or images, measured[1:] or measured, strict=True):
                self.found.rows += [
                    [image.name, image.grid.res, label.name, region, p.number or None, p.volume,
                     p.diameter, *p.centre, *measured[0][p.number], *of[p.number]]
                    for p in places if p.number in of and p.number in measured[0]
                ]  # fmt: skip
        return head, lesions

    def _realisations(
        self, images: Sequence[_Image], most: int = 0
    ) -> Iterator[tuple[int, Condition, np.ndarray, _Image]]:
        """Yield number, condition, noisy image and grid: one draw for all of a grid and model."""
        by_name = {image.name: image for image in images}
        groups: dict[tuple[str, str], list[Condition]] = {}
        for condition in self._plan.conditions:
            key = (repr(condition.lf_grid), self._bundle_of(condition).sha256)
            groups.setdefault(key, []).append(condition)
        for members in groups.values():
            bundle, image = self._bundle_of(members[0]), by_name[members[0].name]
            data = [
                (replace(c, realisations=min(c.realisations, most or c.realisations)),
                 by_name[c.name].data)
                for c in members
            ]  # fmt: skip
            for number, condition, noisy in cd.realise(
                data, image.brain, image.affine, self._head(bundle), bundle, self._plan.seed
            ):
                yield number, condition, noisy, by_name[condition.name]

    def _write_realisations(self, images: Sequence[_Image]) -> None:
        """Write the noisy images of the conditions that have any."""
        if not any(c.realisations for c in self._plan.conditions):
            return
        for number, condition, noisy, image in self._realisations(images, self._plan.kept):
            bundle, word = self._bundle_of(condition), f"noise{number:02d}"
            plain = self._name(condition.name, self._scan.suffix, image.grid)
            path = self._name(f"{condition.name}{word}", self._scan.suffix, image.grid)
            content = extra_sidecar(
                self._sidecar(condition, bundle), word, bundle.metadata,
                derivative_uri(plain, self._plan.out_dir), scale=condition.noise_scale,
            )  # fmt: skip
            write_sidecar(path, content)
            save_nifti(placed(noisy, image.affine, self._mask), path)

    def _rate(
        self,
        label: lb.Label,
        head: ls.Anatomy,
        lesions: tuple[Place, ...],
        images: Sequence[_Image],
    ) -> None:
        """Let the observers look at every realisation, and write what they say."""
        path = cd.ratings_path(self._plan.out_dir, self._scan.stem, label.name)
        bundles = [self._bundle_of(c) for c in self._plan.conditions]
        digest = self._digest(
            self._plan.conditions, [b.sha256 for b in bundles], self._plan.seed,
            self._plan.options, hashlib.sha256(label.path.read_bytes()).hexdigest(), list(RATINGS),
        )  # fmt: skip
        if _digest_of(path) == digest:
            return
        places = [*lesions, *ls.healthy_places(lesions, head, seed=self._plan.seed)]
        lost = len(lesions) - len({p.number for p in places[len(lesions) :]})
        if lost:
            self.found.notes.append(
                f"{label.path}: {lost} of {len(lesions)} lesions have no healthy place like the "
                "tissue around them; the observers compare them with those of the others"
            )
        rows, crops = self._look(places, images)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **crops)  # type: ignore[arg-type]
        atomic_write_bytes(path.with_suffix(".npz"), buffer.getvalue())
        write_table(path, rows, RATINGS)
        kinds = {str(b.metadata.get("training_data", {}).get("kind")) for b in bundles}
        study = {
            "InputDigest": digest, "Scan": self._scan.relative_path, "Label": label.name,
            "Training": sorted(kinds),
            "Conditions": {c.name: c.described for c in self._plan.conditions},
        }  # fmt: skip
        content = read_json(path.with_suffix(".json")) | study
        atomic_write_text(path.with_suffix(".json"), json.dumps(content, indent=2) + "\n")

    def _look(
        self, places: Sequence[Place], images: Sequence[_Image]
    ) -> tuple[list[list[Any]], dict[str, np.ndarray]]:
        """Return the rows of ratings, and crops of the lesions by condition and number."""
        high = images[0]
        contrasts = {
            p.number: ls.measure(high.data, s, 0.0).contrast
            for p, s in self._shown(places, high) if p.kind == LESION
        }  # fmt: skip
        rows: list[list[Any]] = []
        crops: dict[str, np.ndarray] = {}

        def add(name: str, number: int, data: np.ndarray, observers: Observers) -> None:
            for (p, s), rating in zip(observers.places, observers.look(data), strict=True):
                rows.append(
                    [name, p.number, p.rank, p.kind, number, p.volume, p.diameter,
                     p.length, contrasts.get(p.number), rating.cnr, *map(float, rating.channels),
                     rating.volume]
                )  # fmt: skip
                if number == 1 and p.kind == LESION:
                    crops[f"{name}_{p.number}"] = crop_of(data, s)

        add(HIGH, 1, high.data, self._observers(places, high))
        ready: tuple[str, Observers] | None = None
        for number, condition, noisy, image in self._realisations(images):
            if ready is None or ready[0] != repr(image.grid):
                ready = (repr(image.grid), self._observers(places, image))
            add(condition.name, number, noisy, ready[1])
        return rows, crops

    def _observers(self, places: Sequence[Place], image: _Image) -> Observers:
        return Observers(
            self._shown(places, image), image.brain, image.affine, self._scan.suffix
        )  # fmt: skip


def _voxels(path: Path) -> np.ndarray:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj, dtype=np.float32)


def _sidecar_of(path: Path) -> Path:
    return path.with_name(path.name.split(".")[0] + ".json")


def _digest_of(path: Path) -> str | None:
    """Return what an output was made from, as its sidecar has it; None without an output."""
    try:
        return str(read_json(_sidecar_of(path))["InputDigest"]) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
