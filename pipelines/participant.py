"""All images of one participant: low-field ones synthesized, or enhanced ones."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from h2lo_bids.bids.scan import Scan
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.models.registry import FAMILIES, METHODS
from h2lo_bids.outputs import Grid, TemplateFiles, enhanced_paths, extras_of, grids_of, output_paths
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import scan_seed
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE
from pipelines import scan_steps
from pipelines.engine import Source, add, results
from pipelines.lowfield_steps import ChooseReference, FuseLowField, add_fusion
from pipelines.outputs import MakeFigures, MakeRegistrationFigures, add_outputs


@dataclass(frozen=True)
class ImageSpec:
    """What one image, or one set of images on several grids, is made from."""

    name: str  # unique within the participant
    scan: Scan  # what the outputs are named after
    model: Bundle
    parts: tuple[Scan, ...]  # several are low-field scans of one session, to be fused
    masks: tuple[tuple[Path, str] | None, ...]  # of each part: one to use, and its BIDS URI
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
    device: str = "cpu"
    omp_nthreads: int = 1

    def grids(self, image: ImageSpec) -> tuple[Grid, ...]:
        """Return where low-field images are wanted."""
        return grids_of(self.settings, self.templates.get(image.scan.suffix))

    def paths(self, image: ImageSpec) -> dict[str, Path]:
        """Name every output of an image."""
        if image.enhanced:
            return enhanced_paths(self.settings.out_dir, image.scan)
        return output_paths(
            self.settings.out_dir, image.scan, self.grids(image), extras_of(self.settings)
        )


@dataclass(frozen=True)
class Branch:
    """The part of a participant's workflow in which one image is made, up to ``ds_record``."""

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


def init_participant_wf(name: str, images: Sequence[ImageSpec], run: RunSpec) -> pe.Workflow:
    """Build the workflow of one participant: one branch ``<name>_wf`` per image."""
    workflow = pe.Workflow(name=name)
    donors = {image.name: _donor(image, images) for image in images}
    branches = {}
    for image in images:
        branch = Branch(pe.Workflow(name=f"{image.name}_wf"), image, run, donors[image.name])
        (_enhance if image.enhanced else _synthesize)(branch)
        branches[image.name] = branch.workflow
    workflow.add_nodes(list(branches.values()))
    for image in images:
        if (donor := donors[image.name]) is not None:
            # From the step that fails for no scan: this image must not fail with its donor.
            find, taker = ("find_1", "choose") if image.enhanced else ("find_brain", "prepare")
            ends = (f"{find}.mask_file", f"{taker}.donor_mask")
            workflow.connect([(branches[donor.name], branches[image.name], [ends])])
    return workflow


def _donor(image: ImageSpec, images: Sequence[ImageSpec]) -> ImageSpec | None:
    """Return the T1w scan of the same session whose mask a T2w scan may take."""
    if image.scan.suffix != "T2w" or any(image.masks):
        return None
    wanted = ("T1w", image.scan.session)
    same = [other for other in images if (other.scan.suffix, other.scan.session) == wanted]
    return same[0] if len(same) == 1 else None


def _synthesize(branch: Branch) -> None:
    """Prepare a scan, evaluate the model on every grid, and draw the low-field image."""
    products, stem = prepare_scan(branch), branch.image.scan.stem
    for grid in branch.grids:
        products |= add_grid(branch, grid, products)
    figures = add(
        branch.workflow, MakeFigures(stem=stem, task=SYNTHESIZE), "figures",
        image=products["checked"], image_mask=products["mask"], before=products["preproc"],
        after=products["lowfield_native"], mask=products["mask"],
    )  # fmt: skip
    drawn = [figures]
    for grid in branch.grids:
        if grid.kind == "template":
            step = MakeRegistrationFigures(stem=stem, space=grid.space, template=grid.template)
            moved, mask = (products[f"{key}_{grid.name}"] for key in ("preproc", "mask"))
            name = f"registration_figures_{grid.space}"
            drawn.append(add(branch.workflow, step, name, moved=moved, mask=mask))
    add_outputs(branch, products, "lowfield_native", drawn, warnings=products["warnings"])


def prepare_scan(branch: Branch) -> dict[str, Source]:
    """Bring a scan to the model's frame and range, and to that range on its own grid, too."""
    image, model, run = branch.image, branch.image.model, branch.run
    path, how = image.scan.path, (image.masks[0], run.settings, run.omp_nthreads)
    find = scan_steps.add_find_brain(branch.workflow, "find_brain", path, *how)
    wanted = (model.frame, model.contrast, model.scaling)
    made = scan_steps.add_preparation(branch.workflow, find, path, *wanted, native=True)
    return made | {
        "preproc": made["native"], "mask_method": made["method"],
        "scaling": made["native_scaling"], "scaling_model": made["scaling"],
    }  # fmt: skip


def add_grid(branch: Branch, grid: Grid, products: Mapping[str, Source]) -> dict[str, Source]:
    """Evaluate the model on one grid; return what was made there."""
    image, run = branch.image, branch.run
    found, slices = dict[str, Source](), dict[str, Any]()
    mask, moved = products["mask"], None
    if grid.kind == "model":
        mask = products["volume_mask"]
        found = {"preproc_model": products["volume"], "mask_model": mask}
    elif grid.kind == "lf":
        slices = {"slice_profile": grid.response.profile, "slice_thickness": grid.thickness}
        step = scan_steps.RegridMask(spacing=grid.spacing)
        mask = (add(branch.workflow, step, f"regrid_{grid.name}", mask_file=mask), "mask_file")
        found[f"mask_{grid.name}"] = mask
    elif grid.kind == "template":
        found = _add_template(branch, grid, products)
        mask, moved = found[f"mask_{grid.name}"], found[f"forward_{grid.space}"]
    ends = {"volume": products["volume"], "mask_file": mask, "to_template": moved}
    folds = {"std": dict(image.model.metadata["files"])} if run.settings.uncertainty else {}
    for kind, members in {"lowfield": None, **folds}.items():
        name = "synthesize" if kind == "lowfield" else kind
        # A scan that came on the model's own grid is synthesized once.
        other = {
            "twin": products[f"{kind}_native"], "twin_mask": products["mask"],
            "twin_device": products[f"device_{kind}_native"],
        } if grid.kind == "model" else {}  # fmt: skip
        values = {"members": members, **slices}
        node = _evaluate(branch, f"{name}_{grid.name}", values, **ends, **other)
        found[f"{kind}_{grid.name}"] = (node, "out_file")
        found[f"device_{kind}_{grid.name}"] = (node, "device")
    noisy = (kind for kind in extras_of(run.settings) if kind != "std")
    for number, kind in enumerate(noisy, start=1):
        step = scan_steps.AddNoise(
            noise=image.model.metadata["noise"],
            # Two scans of one run never share their noise.
            seed=[run.settings.random_seed, zlib.crc32(image.scan.stem.encode())],
            realisation=number,
            scale=run.settings.noise_factor,
            acquired=grid.kind == "lf",
        )
        low = found[f"lowfield_{grid.name}"]
        node = add(branch.workflow, step, f"{kind}_{grid.name}", in_file=low, **ends)
        found[f"{kind}_{grid.name}"] = (node, "out_file")
        found[f"device_{kind}_{grid.name}"] = found[f"device_lowfield_{grid.name}"]
    return found


def _evaluate(branch: Branch, name: str, values: dict[str, Any], **ends: Source | None) -> pe.Node:
    """Add the step that evaluates an image's model."""
    image, run, model = branch.image, branch.run, branch.image.model
    step = scan_steps.Synthesize(
        model=str(model.path), sha256=model.sha256, architecture=model.architecture,
        frame=model.frame.to_dict(), contrast=model.contrast, device=run.device,
        precision=image.precision, seed=branch.seed, **values,
    )  # fmt: skip
    threads = 1 if run.device.startswith("cuda") else run.omp_nthreads
    return add(branch.workflow, step, name, threads, **ends)


def _add_template(branch: Branch, grid: Grid, products: Mapping[str, Source]) -> dict[str, Source]:
    """Register a brain to a standard space, and bring it and its mask there."""
    settings = branch.run.settings
    step = scan_steps.RegisterToTemplate(
        template=grid.template, template_mask=grid.template_mask,
        transform="affine" if settings.sloppy else "syn", seed=settings.random_seed,
        name=branch.image.parts[0].path,
    )  # fmt: skip
    register = add(
        branch.workflow, step, f"register_{grid.space}",
        in_file=products["preproc"], mask_file=products["mask"],
    )  # fmt: skip
    return {
        f"forward_{grid.space}": (register, "forward"),
        f"inverse_{grid.space}": (register, "inverse"),
        f"preproc_{grid.name}": (register, "out_file"),
        f"mask_{grid.name}": (register, "mask_file"),
    }


def _enhance(branch: Branch) -> None:
    """Fuse low-field scans on the frame, enhance them, and draw what changed."""
    workflow, image, run, model = branch.workflow, branch.image, branch.run, branch.image.model
    names = [str(part.path) for part in image.parts]
    how = (run.settings, run.omp_nthreads)
    finds = [
        scan_steps.add_find_brain(workflow, f"find_{number}", part.path, mask, *how)
        for number, (part, mask) in enumerate(zip(image.parts, image.masks, strict=True), start=1)
    ]
    choose = add(
        branch.workflow, ChooseReference(names=names, frame=model.frame.to_dict()), "choose",
        **{key: [(find, output) for find in finds] for key, output in (
            ("scans", "checked"), ("masks", "mask_file"), ("methods", "method"),
            ("errors", "error"),
        )},
    )  # fmt: skip
    fuse, parts = add_fusion(
        workflow, finds, names, FuseLowField(scaling=model.scaling, contrast=model.contrast),
        {"seed": run.settings.random_seed, "high_name": "its reference"},
        {"high": (choose, "reference"), "high_mask": (choose, "mask_file"),
         "reference": (choose, "number")},
        volume_mask=(choose, "volume_mask"),
    )  # fmt: skip
    mask, volume = (fuse, "mask_file"), (fuse, "volume")
    enhance = _evaluate(branch, "enhance", {}, volume=volume, mask_file=mask)
    figures = add(
        branch.workflow, MakeFigures(stem=image.scan.stem, task=ENHANCE), "figures",
        image=(choose, "reference"), image_mask=(choose, "mask_file"), before=volume,
        after=(enhance, "out_file"), mask=mask,
    )  # fmt: skip
    products = {
        "mask": mask, "mask_method": (choose, "method"), "preproc": volume,
        "profile": (fuse, "profile"), "scaling": (fuse, "scaling"),
        "enhanced": (enhance, "out_file"), "device_enhanced": (enhance, "device"),
    }  # fmt: skip
    add_outputs(
        branch, products, "enhanced", [figures],
        coverage=(fuse, "coverage"), errors=parts["errors"],
        warnings=[(choose, "notes"), *parts["warnings"]],
    )  # fmt: skip


def records(workflow: pe.Workflow) -> list[dict[str, Any]]:
    """Return the record of every branch that ended, with the seconds that each step took."""
    found, took = {}, defaultdict[str, dict[str, float]](dict)
    for name, result in results(workflow):
        _, branch, *_, node = name.split(".")
        step = step_label(node)
        duration = float(getattr(result.runtime, "duration", 0.0))
        took[branch][step] = took[branch].get(step, 0.0) + duration
        if node == "ds_record":
            found[branch] = result.outputs.record
    return [
        {**record, "seconds": [[step, round(s, 2)] for step, s in took[branch].items()]}
        for branch, record in found.items()
    ]


def step_label(node: str) -> str:
    """Return what the report calls a node, by its name within its branch, as ``write``."""
    node = re.sub(r"_list_.*", "", node)
    if node.startswith("ds_"):
        return "write"
    if match := re.fullmatch(r"(regrid|synthesize|std|noise\d+)_(.+)", node):
        return f"{match[1]} ({match[2]})"
    return re.sub(r"^register_.*", "register", node)
