"""The participant level's outputs: grids, names and sidecars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import derivative_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.sidecars import (
    derivative_uri,
    enhancement_sidecars,
    extra_sidecar,
    lowfield_sidecar,
    mask_sidecar,
    preproc_sidecar,
    template_reference,
    transform_sidecar,
)
from h2lo_bids.imaging.templates import parse_space
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.settings import Settings
from h2lo_bids.settings.options import PROFILES

if TYPE_CHECKING:
    from h2lo_bids.models.bundle import Bundle

TemplateFiles = tuple[Path | None, Path | None]
"""A template's image and its brain mask."""


@dataclass(frozen=True)
class Grid:
    """A voxel grid on which low-field images are written."""

    # "native": the scan's own; "model": the model's frame; "lf": other voxels along the scan's
    # axes; "template": a standard space.
    kind: str
    space: str | None = None  # entities of the file names
    res: str | None = None
    spacing: tuple[float, float, float] | None = None  # mm, of "lf"
    template: Path | None = None
    template_mask: Path | None = None
    resolution: str | None = None  # what ``res`` stands for, for the sidecar
    response: VoxelResponse = field(default_factory=VoxelResponse)  # of "lf"

    @property
    def name(self) -> str:
        """A word for workflow names."""
        own = self.res if self.kind == "lf" else self.space
        return "_".join(part for part in (self.kind, own) if part)

    @property
    def thickness(self) -> float | None:
        """Nominal thickness of the slices in mm, for ``"lf"``."""
        return (self.response.thickness or max(self.spacing)) if self.spacing else None

    @property
    def meaning(self) -> str:
        """What ``res`` stands for, and over what its voxels average."""
        if self.thickness is None:
            return str(self.resolution)
        return f"{self.resolution}, {self.response.profile} slice profile of {self.thickness:g} mm"


@dataclass(frozen=True)
class Extras:
    """What is written with each low-field image: noisy ones, a map of the deviation."""

    realisations: int = 0
    uncertainty: bool = False
    noise_scale: float = 1.0

    @property
    def noisy(self) -> tuple[str, ...]:
        """A word for each noisy image: ``noise01`` and so on."""
        return tuple(f"noise{number:02d}" for number in range(1, self.realisations + 1))

    @property
    def kinds(self) -> tuple[str, ...]:
        """A word for each image; its ``desc`` is ``lowfield`` and this word."""
        return (*self.noisy, "std") if self.uncertainty else self.noisy


def grids_of(
    output_spaces: Iterable[str],
    lf_grid: Iterable[tuple[float, float, float]] = (),
    templates: Mapping[str, TemplateFiles] | None = None,
    response: VoxelResponse | None = None,
) -> tuple[Grid, ...]:
    """Return the grids that the options ask for, the scan's own first: it is always wanted.

    Examples
    --------
    >>> grids = grids_of(["MNI152NLin2009cAsym:res-1"], [(1.6, 1.6, 5), (2, 2, 2)])
    >>> [grid.name for grid in grids]
    ['native', 'lf_1p6x1p6x5', 'lf_2x2x2', 'template_MNI152NLin2009cAsym']
    """
    spaces = list(dict.fromkeys(output_spaces))
    grids = [Grid("native")]
    if "model" in spaces:
        text = "the grid on which the model was trained, centred on the brain"
        grids.append(Grid("model", res="model", resolution=text))
    for sides in lf_grid:
        label = "x".join(f"{side:g}" for side in sides).replace(".", "p")
        text = " x ".join(f"{side:g}" for side in sides) + " mm voxels along the scan's own axes"
        own = response or VoxelResponse()
        grids.append(Grid("lf", res=label, spacing=sides, resolution=text, response=own))
    for space in spaces:
        if space not in ("native", "model"):
            asked = parse_space(space)
            res = None if asked.resolution is None else str(asked.resolution)
            meaning = f"resolution {res} of the template" if res else None
            image, mask = (templates or {}).get(space, (None, None))
            grids.append(Grid("template", asked.name, res, None, image, mask, meaning))
    return tuple(grids)


def enhanced_paths(out_dir: Path, scan: Scan) -> dict[str, Path]:
    """Name every image that enhancement makes: ``preproc``, ``mask`` and ``enhanced``."""
    kinds = {
        "preproc": ("preproc", scan.suffix),
        "mask": ("brain", "mask"),
        "enhanced": ("enhanced", scan.suffix),
    }
    return {
        key: derivative_path(out_dir, scan, suffix=suffix, desc=desc, res="model")
        for key, (desc, suffix) in kinds.items()
    }


def output_paths(
    out_dir: Path, scan: Scan, grids: Iterable[Grid], extras: Extras | None = None
) -> dict[str, Path]:
    """Name every image and transform that a scan yields."""

    def name(desc: str, suffix: str, grid: Grid | None = None) -> Path:
        space, res = (grid.space, grid.res) if grid else (None, None)
        return derivative_path(out_dir, scan, suffix=suffix, desc=desc, space=space, res=res)

    paths = {"preproc": name("preproc", scan.suffix), "mask": name("brain", "mask")}
    for grid in grids:
        paths[f"lowfield_{grid.name}"] = name("lowfield", scan.suffix, grid)
        for kind in extras.kinds if extras else ():
            paths[f"{kind}_{grid.name}"] = name(f"lowfield{kind}", scan.suffix, grid)
        if grid.kind != "native":
            paths[f"mask_{grid.name}"] = name("brain", "mask", grid)
        if grid.kind in ("model", "template"):
            paths[f"preproc_{grid.name}"] = name("preproc", scan.suffix, grid)
        if grid.kind == "template":
            ends = {"forward": (scan.suffix, grid.space), "inverse": (grid.space, scan.suffix)}
            for key, (start, end) in ends.items():
                paths[f"{key}_{grid.space}"] = derivative_path(
                    out_dir, scan, suffix="xfm", extension=".h5", mode="image", from_=start, to=end
                )
    return paths


def output_sidecars(
    scan: Scan,
    model: Bundle,
    out_dir: Path,
    grids: Iterable[Grid],
    extras: Extras,
    *,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Compose the sidecar of every output that `output_paths` names."""
    paths = output_paths(out_dir, scan, grids, extras)
    uris = {key: derivative_uri(path, out_dir) for key, path in paths.items()}
    mask, facts = uris["mask"], _model_facts(model)
    contents = {"preproc": preproc_sidecar(scan, mask=mask), "mask": mask_sidecar(scan)}
    for grid in grids:
        reference = template_reference(grid.template) if grid.template else None
        where: dict[str, Any] = {"spatial_reference": reference, "resolution": grid.resolution}
        moved = [uris[f"forward_{grid.space}"]] if grid.kind == "template" else []
        averaged: dict[str, Any] = {}
        if grid.spacing is not None:
            averaged["SimulatedSliceProfile"] = grid.response.profile
            averaged["SimulatedSliceThickness"] = grid.thickness
        low = lowfield_sidecar(
            scan,
            model=facts,
            sources=[uris["preproc"], mask, *moved],
            seed=seed,
            settings={**settings, **averaged},
            **where,
        )
        contents[f"lowfield_{grid.name}"] = low
        for kind in extras.kinds:
            contents[f"{kind}_{grid.name}"] = extra_sidecar(
                low, kind, model.metadata, uris[f"lowfield_{grid.name}"], scale=extras.noise_scale
            )
        if grid.kind != "native":
            contents[f"mask_{grid.name}"] = mask_sidecar(scan, sources=[mask, *moved], **where)
        if grid.kind in ("model", "template"):
            contents[f"preproc_{grid.name}"] = preproc_sidecar(
                scan, mask=mask, sources=moved, **where
            )
        if reference is not None:
            ends = {
                "forward": (uris["preproc"], reference),
                "inverse": (reference, uris["preproc"]),
            }
            for way, (source, target) in ends.items():
                contents[f"{way}_{grid.space}"] = transform_sidecar(source=source, target=target)
    return contents


def enhanced_sidecars(
    scan: Scan,
    parts: Sequence[Scan],
    model: Bundle,
    out_dir: Path,
    *,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Compose the sidecar of every output that `enhanced_paths` names."""
    paths = enhanced_paths(out_dir, scan)
    uris = {key: derivative_uri(path, out_dir) for key, path in paths.items()}
    return enhancement_sidecars(
        scan, parts, uris, _model_facts(model), seed=seed, settings=settings
    )


def _model_facts(model: Bundle) -> dict[str, Any]:
    """Return what sidecars say of a model."""
    entry = CATALOGUE.get(model.method)
    return {
        **model.metadata,
        "sha256": model.sha256,
        "title": entry.title if entry else None,
        "reference": entry.link if entry else None,
    }


def response_of(settings: Settings) -> VoxelResponse:
    """Return what low-field voxels average over, for the options of a run."""
    return VoxelResponse(settings.slice_profile or PROFILES[0], settings.slice_thickness)


def grids_for(settings: Settings) -> tuple[Grid, ...]:
    """Return the grids for the options of a run, without templates' files."""
    return grids_of(settings.output_spaces, settings.lf_grid, response=response_of(settings))


def extras_of(settings: Settings) -> Extras:
    """Return what is written with each low-field image, for the options of a run."""
    noisy = settings.realisations if settings.noise == "calibrated" else 0
    scale = 1.0 if settings.noise_scale is None else settings.noise_scale
    return Extras(realisations=noisy, uncertainty=settings.uncertainty, noise_scale=scale)
