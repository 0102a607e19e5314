"""What the images of a participant are made from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from h2lo_bids.bids.scan import Scan
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.models.registry import FAMILIES, METHODS
from h2lo_bids.outputs import (
    Extras,
    Grid,
    TemplateFiles,
    enhanced_paths,
    extras_of,
    grids_of,
    output_paths,
)
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import scan_seed
from pipelines.engine import Source, add


@dataclass(frozen=True)
class ImageSpec:
    """What one image, or one set of images on several grids, is made from.

    Several parts are low-field scans of one session, which are fused. A part's mask is one
    to use instead of computing it, with its BIDS URI.
    """

    name: str  # unique within the participant
    scan: Scan  # what the outputs are named after
    model: Bundle
    parts: tuple[Scan, ...]
    masks: tuple[tuple[Path, str] | None, ...]
    precision: str = "fp32"  # in which the model is evaluated

    @property
    def enhanced(self) -> bool:
        """Whether it is made from low-field scans."""
        return self.model.task == "enhance"


@dataclass(frozen=True)
class RunSpec:
    """How the images of a participant are made: the options, and what they stand for here."""

    settings: Settings
    templates: Mapping[str, Mapping[str, TemplateFiles]] = field(default_factory=dict)
    synthstrip_weights: Path | None = None
    device: str = "cpu"
    omp_nthreads: int = 1

    @property
    def extras(self) -> Extras:
        """What is written with each low-field image."""
        return extras_of(self.settings)

    def grids(self, image: ImageSpec) -> tuple[Grid, ...]:
        """Return where low-field images are wanted."""
        return grids_of(self.settings, self.templates.get(image.scan.suffix))

    def paths(self, image: ImageSpec) -> dict[str, Path]:
        """Name every output of an image."""
        if image.enhanced:
            return enhanced_paths(self.settings.out_dir, image.scan)
        return output_paths(self.settings.out_dir, image.scan, self.grids(image), self.extras)


@dataclass(frozen=True)
class Branch:
    """The part of a participant's workflow in which one image is made."""

    workflow: pe.Workflow
    image: ImageSpec
    run: RunSpec
    donor: ImageSpec | None = None  # the T1w scan whose brain mask a T2w scan may take

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Where low-field images are wanted."""
        return self.run.grids(self.image)

    @property
    def seed(self) -> int | None:
        """That of a method that draws at random, of each scan its own; else None."""
        family = METHODS.get(self.image.model.method)
        if self.image.enhanced or family is None or not FAMILIES[family].random:
            return None
        return scan_seed(self.run.settings.random_seed, self.image.scan.stem)

    def add(
        self, step: Any, name: str, threads: int = 1, /, **inputs: Source | list[Source] | None
    ) -> pe.Node:
        """Add a node, as `pipelines.engine.add` does."""
        return add(self.workflow, step, name, threads, **inputs)
