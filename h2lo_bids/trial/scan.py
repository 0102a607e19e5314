"""What a trial does with one scan: images of the conditions, labels, tables, ratings."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids import __version__
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.sidecars import derivative_uri, extra_sidecar, software_versions, write_sidecar
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.evaluation.realism import noise_deviation
from h2lo_bids.imaging.resample import placed, spacing_of
from h2lo_bids.io import atomic_write_bytes, atomic_write_text, read_json, save_nifti
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.outputs import Extras, Grid, output_paths, output_sidecars
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.trial.columns import RATINGS, REGIONS
from h2lo_bids.trial.condition import (
    HIGH,
    NATIVE,
    Condition,
    Head,
    grid_brain,
    noise_free,
    output_name,
    prepare_head,
    ratings_path,
    realise,
)
from h2lo_bids.trial.labels import Label, carry_label, find_label, load_label, response_lines
from h2lo_bids.trial.lesions import (
    LESION,
    Place,
    Shown,
    crop_of,
    find_lesions,
    measure,
    places_of,
    whole_region,
)
from h2lo_bids.trial.lesions import shown as shown_on
from h2lo_bids.trial.observer import Observers


@dataclass(frozen=True)
class Plan:
    """What is done with every scan of a run.

    Parameters
    ----------
    out_dir
        Root of the derivative dataset.
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
    seed, options
        Of the run.
    """

    out_dir: Path
    labels: tuple[tuple[str, Path], ...] = ()
    conditions: tuple[Condition, ...] = ()
    grids: tuple[Grid, ...] = ()
    rated: bool = False
    kept: int = 0
    seed: int = 42
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class _Image:
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
        paths = output_paths(plan.out_dir, scan, plan.grids)
        self._paths = paths
        mask: Any = nib.load(paths["mask"])
        self._mask, self._brain = mask, np.asarray(mask.dataobj) > 0
        self._heads: dict[str, Head] = {}
        self.found = Examined()

    def run(self) -> Examined:
        """Write everything; labels that cannot be used raise after the images are there."""
        images = [*self._plain(), *(self._image(c) for c in self._plan.conditions)]
        high = _voxels(self._paths["preproc"])
        images.insert(0, _Image(HIGH, NATIVE, high, self._brain, self._mask.affine))
        labels = [
            load_label(n, find_label(n, root, self._scan), nib.load(self._scan.path), self._brain)
            for n, root in self._plan.labels
        ]
        for label in labels:
            self._write_label(label, images)
            self._measure(label, images)
            if self._plan.rated and label.lesions is not None:
                self._rate(label, images)
        if labels:
            write_table(
                output_name(self._plan.out_dir, self._scan, "regions", "stats", extension=".tsv"),
                self.found.rows,
                REGIONS,
            )
            shown = {"lesionshigh": images[0], "lesionslow": images[-1]}
            self.found.pictures = {
                kind: placed(i.data, i.affine, self._mask) for kind, i in shown.items()
            }
            held = (labels[0].data > 0).astype(np.uint8)
            self.found.outline = placed(held, self._mask.affine, self._mask)
        if self._plan.kept or not self._plan.rated:
            self._write_realisations(images)
        return self.found

    def _head(self, bundle: Bundle) -> Head:
        if bundle.sha256 not in self._heads:
            self._heads[bundle.sha256] = prepare_head(self._scan, self._mask, bundle)
        return self._heads[bundle.sha256]

    def _name(self, *words: Any, **more: Any) -> Path:
        return output_name(self._plan.out_dir, self._scan, *words, **more)

    def _plain(self) -> Iterator[_Image]:
        """Yield the run's own low-field images along the scan's axes."""
        for grid in self._plan.grids:
            if grid.kind in ("native", "lf"):
                path = self._paths[f"lowfield_{grid.name}"]
                key = "mask" if grid.kind == "native" else f"mask_{grid.name}"
                brain: Any = nib.load(self._paths[key])
                inside = np.asarray(brain.dataobj) > 0
                yield _Image("lowfield", grid, _voxels(path), inside, brain.affine)

    def _image(self, condition: Condition) -> _Image:
        """Return the noise-free image of a condition: as it is there, or synthesized."""
        bundle, grid = self._bundle_of(condition), condition.grid
        brain, affine = grid_brain(self._brain, self._mask.affine, condition)
        path = self._name(condition.name, self._scan.suffix, grid)
        digest = self._digest(bundle.sha256, repr(grid), repr(self._plan.options), self._plan.seed)
        if _digest_of(path) == digest:
            return _Image(condition.name, grid, _voxels(path), brain, affine)
        same = self._same_image(condition, digest)
        data = (
            noise_free(self._head(bundle), bundle, condition, self._plan.options, self._plan.seed)
            if same is None
            else same
        )
        content = self._sidecar(condition, bundle) | {"InputDigest": digest}
        write_sidecar(path, content)
        save_nifti(placed(data, affine, self._mask), path)
        return _Image(condition.name, grid, data, brain, affine)

    def _same_image(self, condition: Condition, digest: str) -> np.ndarray | None:
        """Return what another condition of this grid and model was synthesized as."""
        for other in self._plan.conditions:
            path = self._name(other.name, self._scan.suffix, other.grid)
            if other.name != condition.name and _digest_of(path) == digest:
                return _voxels(path)
        return None

    def _sidecar(self, condition: Condition, bundle: Bundle) -> dict[str, Any]:
        grid = condition.grid
        options = {"Precision": self._plan.options.precision}
        contents = output_sidecars(
            self._scan, bundle, self._plan.out_dir, [grid], Extras(),
            seed=self._plan.seed, settings=options,
        )  # fmt: skip
        return contents[f"lowfield_{grid.name}"] | {
            "Description": f"Condition {condition.name} of a virtual trial: {condition.text}",
        }

    def _digest(self, *words: Any) -> str:
        """Return a digest of words and of what the scan's outputs were made from."""
        sha = hashlib.sha256(json.dumps([__version__, *map(str, words)]).encode())
        for path in (self._paths["preproc"], self._paths["mask"]):
            sha.update(path.read_bytes())
        return sha.hexdigest()

    def _write_label(self, label: Label, images: Sequence[_Image]) -> None:
        """Write a label on every grid that an image has."""
        kind = "dseg" if label.kind == "dseg" else "probseg"
        for grid, image in {i.grid.name: (i.grid, i) for i in images}.values():
            data = carry_label(
                label, self._mask.affine, image.brain.shape, image.affine, grid.response
            )
            path = self._name(label.name, kind, grid)
            write_sidecar(
                path,
                {
                    "Description": f"{label.name}, by the share of each voxel that it fills",
                    "Sources": [label.path.as_uri()],
                    "SpatialReference": derivative_uri(self._paths["preproc"], self._plan.out_dir),
                    **({"Resolution": grid.resolution} if grid.resolution else {}),
                    "Software": software_versions(),
                },
            )
            save_nifti(placed(data, image.affine, self._mask), path)

    def _lines(self, image: _Image) -> list[np.ndarray] | None:
        old, new = (self._brain.shape, self._mask.affine), (image.brain.shape, image.affine)
        return response_lines(*old, *new, image.grid.response)

    def _measure(self, label: Label, images: Sequence[_Image]) -> None:
        """Add rows of regions and of connected lesions, in every image."""
        places: list[tuple[str, Place]] = []
        for name, share in label.regions():
            lesions, outside = find_lesions(share >= 0.5, self._brain, self._mask.affine)
            if outside:
                self.found.notes.append(
                    f"{label.path}: {outside} parts of {name} lie outside the brain; skipped"
                )
            places.append((name, whole_region(share, self._brain, lesions, self._mask.affine)))
            places += [(name, p) for p in lesions if label.lesions is not None]
        high = images[0]
        noise = noise_deviation(high.data, high.brain, spacing_of(high.affine).tolist())
        reference = {
            (name, p.number): measure(high.data, seen, noise)
            for name, p in places
            if (seen := shown_on(p, None, high.brain)) is not None
        }
        for image in images[1:] or images:
            lines = self._lines(image)
            noise = noise_deviation(image.data, image.brain, spacing_of(image.affine).tolist())
            for name, place in places:
                seen = shown_on(place, lines, image.brain)
                before = reference.get((name, place.number))
                if seen is None or before is None:
                    self.found.notes.append(
                        f"{label.path}: {name} {place.number or ''} is not in the brain of "
                        f"{image.name}; skipped"
                    )
                    continue
                after = measure(image.data, seen, noise)
                self.found.rows.append(
                    [image.name, image.grid.res, label.name, name, place.number or None,
                     place.volume, place.diameter, *place.centre,
                     before.mean, before.deviation, before.contrast, before.cnr,
                     after.mean, after.deviation, after.contrast, after.cnr]
                )  # fmt: skip

    def _realisations(
        self, images: Sequence[_Image], most: int = 0
    ) -> Iterator[tuple[int, Condition, np.ndarray, _Image]]:
        """Yield number, condition, noisy image and grid: one draw for all of a grid and model."""
        by_name = {image.name: image for image in images}
        groups: dict[tuple[str, str], list[Condition]] = {}
        for condition in self._plan.conditions:
            key = (repr(condition.grid.spacing), self._bundle_of(condition).sha256)
            groups.setdefault(key, []).append(condition)
        for members in groups.values():
            bundle, image = self._bundle_of(members[0]), by_name[members[0].name]
            data = [
                (replace(c, realisations=min(c.realisations, most or c.realisations)),
                 by_name[c.name].data)
                for c in members
            ]  # fmt: skip
            for number, condition, noisy in realise(
                data, image.brain, image.affine, self._head(bundle), bundle, self._plan.seed
            ):
                yield number, condition, noisy, by_name[condition.name]

    def _write_realisations(self, images: Sequence[_Image]) -> None:
        """Write the noisy images of the conditions that have any."""
        if not any(c.realisations for c in self._plan.conditions):
            return
        for number, condition, noisy, image in self._realisations(images, self._plan.kept):
            bundle = self._bundle_of(condition)
            path = self._name(
                f"{condition.name}noise{number:02d}", self._scan.suffix, grid=image.grid
            )
            content = extra_sidecar(
                self._sidecar(condition, bundle), f"noise{number:02d}", bundle.metadata,
                derivative_uri(
                    self._name(condition.name, self._scan.suffix, grid=image.grid),
                    self._plan.out_dir,
                ),
                scale=condition.noise_scale,
            )  # fmt: skip
            write_sidecar(path, content)
            save_nifti(placed(noisy, image.affine, self._mask), path)

    def _rate(self, label: Label, images: Sequence[_Image]) -> None:
        """Let the observers look at every realisation, and write what they say."""
        path = ratings_path(self._plan.out_dir, self._scan.stem, label.name)
        shas = [self._bundle_of(c).sha256 for c in self._plan.conditions]
        digest = self._digest(
            self._plan.conditions, shas, self._plan.seed, self._plan.options,
            hashlib.sha256(label.path.read_bytes()).hexdigest(),
        )  # fmt: skip
        if path.exists() and _digest_of(path) == digest:
            return
        high = images[0]
        assert label.lesions is not None
        places, lost = places_of(
            label.lesions, high.data, self._brain, self._mask.affine, seed=self._plan.seed
        )
        lesions = [p for p in places if p.kind == LESION]
        if lost:
            self.found.notes.append(
                f"{label.path}: {lost} of {len(lesions)} lesions have no healthy place like the "
                "tissue around them; the observers compare the others"
            )
        shapes = ((p.number, shown_on(p, None, high.brain)) for p in lesions)
        contrasts = {n: measure(high.data, s, 0.0).contrast for n, s in shapes if s is not None}
        rows: list[list[Any]] = []

        def add(condition: str, number: int, seen: list[tuple[Place, Shown]], looked: Any) -> None:
            for (place, _), rating in zip(seen, looked, strict=True):
                rows.append(
                    [condition, place.number, place.kind, number, place.volume, place.diameter,
                     contrasts.get(place.number), rating.cnr, *map(float, rating.channels),
                     rating.volume]
                )  # fmt: skip

        seen, observers = self._observers(places, high)
        add(HIGH, 1, seen, observers.look(high.data))
        crops = {f"{HIGH}_{p.number}": crop_of(high.data, s) for p, s in seen if p.kind == LESION}
        ready: dict[str, Any] = {}
        for number, condition, noisy, image in self._realisations(images):
            if image.grid.name not in ready:
                ready = {image.grid.name: self._observers(places, image)}
            seen, observers = ready[image.grid.name]
            add(condition.name, number, seen, observers.look(noisy))
            if number == 1:
                crops |= {
                    f"{condition.name}_{p.number}": crop_of(noisy, s)
                    for p, s in seen if p.kind == LESION
                }  # fmt: skip
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **crops)  # type: ignore[arg-type]
        atomic_write_bytes(path.with_suffix(".npz"), buffer.getvalue())
        write_table(path, rows, RATINGS)
        kinds = {self._bundle_of(c).metadata.get("training_data", {}).get("kind")
                 for c in self._plan.conditions}  # fmt: skip
        study = {
            "InputDigest": digest, "Scan": self._scan.relative_path, "Label": label.name,
            "Training": sorted(map(str, kinds)),
            "Conditions": {c.name: c.described for c in self._plan.conditions},
        }  # fmt: skip
        content = read_json(path.with_suffix(".json")) | study
        atomic_write_text(path.with_suffix(".json"), json.dumps(content, indent=2) + "\n")

    def _observers(
        self, places: Sequence[Place], image: _Image
    ) -> tuple[list[tuple[Place, Shown]], Observers]:
        lines = self._lines(image)
        seen = [(p, s) for p in places if (s := shown_on(p, lines, image.brain)) is not None]
        return seen, Observers(seen, image.brain, image.affine, self._scan.suffix)


def _voxels(path: Path) -> np.ndarray:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj, dtype=np.float32)


def _digest_of(path: Path) -> str | None:
    """Return what an output was made from, as its sidecar has it; None without an output."""
    try:
        sidecar = path.with_name(path.name.split(".")[0] + ".json")
        return str(read_json(sidecar)["InputDigest"]) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
