"""The participant level's outputs: grids, names and sidecars."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import (
    MODEL_FRAME,
    derivative_path,
    derivative_uri,
    meaning_of,
    sidecar,
    software_versions,
    template_reference,
)
from h2lo_bids.bids.scan import Scan
from h2lo_bids.imaging.templates import TemplateFiles, parse_space
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.io import sha256
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.settings import Settings
from h2lo_bids.settings.options import PROFILES

if TYPE_CHECKING:
    from h2lo_bids.models.bundle import Bundle

SIMULATED = (
    "The model was trained on simulated pairs, not on scans of the same people at both field "
    "strengths: to simulate a particular scanner, give a model trained on its scans with --model"
)
PREDICTION = (
    "This image is a prediction, not an acquired image: it may show structures that do not exist "
    "and hide ones that do. Not for diagnosis"
)
TRAINED_ON_SIMULATED = (
    "The model was trained on simulated data, not on scans of the same people at both field "
    "strengths"
)


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


NATIVE = Grid("native")
"""The scan's own voxels."""


def voxel_grid(sides: tuple[float, float, float], response: VoxelResponse) -> Grid:
    """Return the grid of voxels with some sides, in mm along the scan's own axes."""
    words = [f"{side:g}" for side in sides]
    label = "x".join(words).replace(".", "p")
    text = f"{' x '.join(words)} mm voxels along the scan's own axes"
    return Grid("lf", res=label, spacing=sides, resolution=text, response=response)


def grids_of(
    settings: Settings, templates: Mapping[str, TemplateFiles] | None = None
) -> tuple[Grid, ...]:
    """Return the grids that the options ask for, the scan's own first: it is always wanted."""
    grids = [NATIVE]
    if "model" in settings.output_spaces:
        grids.append(Grid("model", res="model", resolution="the model's own grid"))
    response = VoxelResponse(settings.slice_profile or PROFILES[0], settings.slice_thickness)
    grids += [voxel_grid(sides, response) for sides in settings.lf_grid]
    for space in dict.fromkeys(settings.standard_spaces):
        asked, own = parse_space(space), settings.template_file
        res = None if asked.resolution is None else str(asked.resolution)
        meaning = f"that of {own.name}" if own else f"resolution {res} of the template"
        image, mask = (templates or {}).get(space, (None, None))
        grids.append(Grid("template", asked.label, res, None, image, mask, res and meaning))
    return tuple(grids)


def enhanced_paths(out_dir: Path, scan: Scan) -> dict[str, Path]:
    """Name every image that enhancement makes: ``preproc``, ``mask`` and ``enhanced``."""
    name = partial(derivative_path, out_dir, scan, res="model")
    return {
        "preproc": name(suffix=scan.suffix, desc="preproc"),
        "mask": name(suffix="mask", desc="brain"),
        "enhanced": name(suffix=scan.suffix, desc="enhanced"),
    }


def output_path(
    out_dir: Path, scan: Scan, desc: str, suffix: str, grid: Grid = NATIVE, **more: str
) -> Path:
    """Name an image of a scan on a grid, or a table."""
    return derivative_path(
        out_dir, scan, desc=desc, suffix=suffix, space=grid.space, res=grid.res, **more
    )


def output_paths(
    out_dir: Path, scan: Scan, grids: Iterable[Grid], extras: Sequence[str] = ()
) -> dict[str, Path]:
    """Name every image and transform that a scan yields."""
    name = partial(output_path, out_dir, scan)
    paths = {"preproc": name("preproc", scan.suffix), "mask": name("brain", "mask")}
    for grid in grids:
        paths[f"lowfield_{grid.name}"] = name("lowfield", scan.suffix, grid)
        for kind in extras:
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
    settings: Settings,
    grids: Iterable[Grid],
    extras: Sequence[str],
    **how: Any,
) -> dict[str, dict[str, Any]]:
    """Compose the sidecar of every output that `output_paths` names; `how` is said of images."""
    paths = output_paths(settings.out_dir, scan, grids, extras)
    uris = {key: derivative_uri(path, settings.out_dir) for key, path in paths.items()}
    raw, preproc, mask = scan.uri, uris["preproc"], uris["mask"]
    contents = {
        "preproc": sidecar("preproc", Sources=[raw, mask], SkullStripped=True, **_field(scan)),
        "mask": _mask_sidecar([raw], SpatialReference=raw),
    }
    for grid in grids:
        reference = template_reference(grid.template) if grid.template else None
        where = {"SpatialReference": reference, "Resolution": grid.resolution}
        moved = [uris[f"forward_{grid.space}"]] if grid.kind == "template" else []
        low = sidecar(
            "lowfield",
            Sources=[raw, preproc, mask, *moved],
            SkullStripped=True,
            **where,
            SimulatedMagneticFieldStrength=model.metadata.get("target_field_strength"),
            ModelInputMagneticFieldStrength=model.metadata.get("source_field_strength"),
            **_field(scan),
            **_model_facts(model),
            RandomSeed=settings.random_seed,
            **how,
            SimulatedSliceProfile=grid.response.profile if grid.spacing else None,
            SimulatedSliceThickness=grid.thickness,
        )
        contents[f"lowfield_{grid.name}"] = low
        for kind in extras:
            uri, scale = uris[f"lowfield_{grid.name}"], settings.noise_factor
            contents[f"{kind}_{grid.name}"] = extra_sidecar(low, kind, model.metadata, uri, scale)
        sources = [raw, mask, *moved]
        if grid.kind != "native":
            on_grid = {**where, "SpatialReference": reference or raw}
            contents[f"mask_{grid.name}"] = _mask_sidecar(sources, **on_grid)
        if grid.kind in ("model", "template"):
            contents[f"preproc_{grid.name}"] = sidecar(
                "preproc", Sources=sources, SkullStripped=True, **where, **_field(scan)
            )
        if reference is not None:
            contents[f"forward_{grid.space}"] = _transform_sidecar(preproc, reference)
            contents[f"inverse_{grid.space}"] = _transform_sidecar(reference, preproc)
    return contents


def extra_sidecar(
    lowfield: Mapping[str, Any], kind: str, model: Mapping[str, Any], uri: str, scale: float
) -> dict[str, Any]:
    """Compose the sidecar of a noisy image or a deviation, from that of the low-field image."""
    if kind == "std":
        members = [name for name in model["files"] if name.startswith("members/")]
        content = {key: v for key, v in lowfield.items() if key not in ("ValueRange", "RandomSeed")}
        own = {"Units": "arbitrary", "NumberOfModels": len(members)}
        return {**content, "Description": meaning_of("lowfieldstd"), **own}
    return {
        **lowfield,
        "Description": meaning_of("lowfieldnoise01"),
        "Sources": list(dict.fromkeys([*lowfield["Sources"], uri])),
        "Realisation": int(kind.removeprefix("noise")),
        "NoiseModelSha256": sha256(json.dumps(model["noise"], sort_keys=True).encode()),
        **({"NoiseModelSubjects": n} if (n := model["noise"].get("subjects")) else {}),
        "NoiseScale": scale,
    }


def enhanced_sidecars(
    scan: Scan, parts: Sequence[Scan], model: Bundle, settings: Settings, **how: Any
) -> dict[str, dict[str, Any]]:
    """Compose the sidecar of every output that `enhanced_paths` names; `how` is said of images."""
    paths = enhanced_paths(settings.out_dir, scan)
    uris = {key: derivative_uri(path, settings.out_dir) for key, path in paths.items()}
    scans, fused = [part.uri for part in parts], len(parts) > 1
    made = {
        "Resolution": MODEL_FRAME,
        "Fusion": "mrr" if fused else "none",
        "RegistrationMethod": "ANTs, rigid, to one of the scans" if fused else None,
        "RandomSeed": settings.random_seed,
        **_field(scan),
        "Software": software_versions(),
    }
    facts = _model_facts(model)
    warning = f"{TRAINED_ON_SIMULATED}. {PREDICTION}" if facts["ModelWarning"] else PREDICTION
    return {
        "preproc": sidecar("preproc", Sources=[*scans, uris["mask"]], SkullStripped=True, **made),
        "mask": sidecar("brain", Type="Brain", Sources=scans, **made, SpatialReference=scans[0]),
        "enhanced": sidecar(
            "enhanced",
            Sources=[*scans, uris["preproc"], uris["mask"]],
            SkullStripped=True,
            **made,
            ModelTask="enhance",
            ModelInputMagneticFieldStrength=model.metadata.get("source_field_strength"),
            ModelTargetMagneticFieldStrength=model.metadata.get("target_field_strength"),
            **{**facts, "ModelWarning": warning},
            **how,
        ),
    }


def _mask_sidecar(sources: Sequence[str], **where: str | None) -> dict[str, Any]:
    """Compose the sidecar of a brain mask, whose writer adds the method."""
    return sidecar("brain", Type="Brain", Sources=sources, **where, BrainExtractionMethod="")


def _transform_sidecar(source: str, target: str) -> dict[str, Any]:
    return {
        "Description": "Spatial transform, in the convention of ANTs/ITK",
        "Sources": [source, target],
        "FromFile": source,
        "ToFile": target,
        "RegistrationMethod": "ANTs",
        "Software": software_versions(),
    }


def _field(scan: Scan) -> dict[str, Any]:
    """Return the input's field strength, as far as it is known."""
    return {
        "InputMagneticFieldStrength": scan.field_strength,
        "InputMagneticFieldStrengthSource": scan.field_source,
    }


def _model_facts(model: Bundle) -> dict[str, Any]:
    """Return which model made an image, and what it was trained on."""
    entry, metadata = CATALOGUE.get(model.method), model.metadata
    training = metadata.get("training_data") or {}
    kind = training.get("kind") or "unknown"
    return {
        "ValueRange": metadata.get("value_range"),
        "ModelName": metadata.get("name"),
        "ModelVersion": metadata.get("version"),
        "ModelMethod": metadata.get("method"),
        "ModelMethodTitle": entry.title if entry else None,
        "ModelReference": entry.link if entry else None,
        "ModelSha256": model.sha256,
        "ModelTrainingDataKind": kind,
        "ModelTrainingData": training.get("description"),
        "ModelTrainingDataLicense": training.get("licence"),
        "ModelWarning": SIMULATED if kind == "simulated" else None,
    }


def extras_of(settings: Settings) -> tuple[str, ...]:
    """Return what follows ``lowfield`` in the ``desc`` of each image that the options add."""
    count = settings.draws if settings.noise == "calibrated" else 0
    noisy = (f"noise{number:02d}" for number in range(1, count + 1))
    return (*noisy, *["std"] * settings.uncertainty)
