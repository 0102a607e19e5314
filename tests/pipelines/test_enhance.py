"""Low-field scans of small brains, enhanced by an untrained network: exactly the identity."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import write_enhancer
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import map_coordinates
from small_brains import GRIDS, make_brain, seen, write_scan

from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.discover import ImageSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.models.bundle import Bundle, load_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.outputs import enhanced_paths
from h2lo_bids.reports.records import ScanReport, from_json
from h2lo_bids.settings import Settings
from pipelines.engine import run_workflow
from pipelines.participant import ImageSpec, RunSpec, init_participant_wf, records

FRAME = Frame((40, 48, 40), (3.0, 3.0, 3.0))
TURN = from_matvec(nib.eulerangles.euler2mat(0.06, -0.04, 0.05), [3, -4, 2])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Bundle:
    place = write_enhancer(tmp_path_factory.mktemp("model"), "T1w", FRAME)
    return load_bundle(place, task="enhance")


def _source(root: Path, ways=("axi", "cor", "sag"), turn: np.ndarray = TURN) -> ImageSource:
    """Return scans of one brain; the head turns after the first."""
    brain = make_brain()
    parts = [
        write_scan(root, "LF", seen(brain, turn if n else np.eye(4), *GRIDS[way]), way)
        for n, way in enumerate(ways)
    ]
    entities = tuple(p for p in parts[0].entities if len(ways) == 1 or p[0] != "acq")
    return ImageSource(replace(parts[0], entities=entities), tuple(parts))


def _run(folder: Path, model: Bundle, *sources: ImageSource) -> list[ScanReport]:
    run = RunSpec(Settings(folder, folder / "out", skull_strip="skip"))
    specs = [
        ImageSpec(f"scan_{n}", own.scan, model, own.parts, (None,) * len(own.parts))
        for n, own in enumerate(sources)
    ]
    workflow = init_participant_wf("wf", specs, run)
    workflow.base_dir = str(folder / "work")
    parts = {f"{image.name}_wf": [s.stem for s in image.parts] for image in specs}
    assert run_workflow(workflow, parts, run.settings, folder / "crash") == []
    kept = {record["stem"]: from_json(ScanReport, record) for record in records(workflow)}
    return [kept[own.scan.stem] for own in sources]


def test_warnings_about_a_fused_image_do_not_name_one_of_its_scans(tmp_path, model):
    names, run = [], RunSpec(Settings(tmp_path, tmp_path / "out", skull_strip="skip"))
    for ways in (("axi", "cor", "sag"), ("cor",)):
        files = [tmp_path / f"sub-01/anat/sub-01_acq-{way}_T1w.nii.gz" for way in ways]
        parts = tuple(Scan(file, "01", None, "T1w", (("sub", "01"),)) for file in files)
        spec = ImageSpec("scan", parts[0], model, parts, (None,) * len(parts))
        workflow = init_participant_wf("wf", [spec], run)
        names.append(workflow.get_node("scan_wf.check_range").inputs.name)
    assert names == ["sub-01_T1w", "sub-01/anat/sub-01_acq-cor_T1w.nii.gz"]


def _images(folder: Path, source: ImageSource) -> tuple[dict[str, nib.Nifti1Image], dict]:
    """Return what was made of scans, and the sidecar of their mask."""
    paths = enhanced_paths(folder / "out", source.scan)
    side = json.loads(sidecar_path(paths["mask"]).read_text())
    return {key: nib.load(path) for key, path in paths.items()}, side


def _seen_at(brain: nib.Nifti1Image, points: np.ndarray) -> np.ndarray:
    voxels = apply_affine(np.linalg.inv(brain.affine), points)
    return 20 * np.sqrt(map_coordinates(brain.get_fdata(), voxels.T, order=1))


@pytest.mark.slow
def test_scans_become_one_image_in_the_place_of_the_first_that_can_be_read(tmp_path, model):
    """Three orientations, one alone, and three of which one cannot be read."""
    three, alone = _source(tmp_path / "raw"), _source(tmp_path / "one", ("cor",))
    rest = _source(tmp_path / "rest", turn=np.eye(4))
    rest = replace(rest, scan=replace(rest.scan, entities=(("sub", "01"), ("run", "2"))))
    rest.parts[0].path.write_bytes(b"\x1f\x8bnothing")
    found = _run(tmp_path, model, three, alone, rest)
    # The brain as it was when the first scan was made, known in every voxel of the frame.
    brain = make_brain()
    for source, record in zip((three, alone, rest), found, strict=True):
        made, side = _images(tmp_path, source)
        low, mask = made["preproc"].get_fdata(), made["mask"].get_fdata() > 0
        # An untrained network adds nothing.
        np.testing.assert_array_equal(made["enhanced"].get_fdata(), low)
        assert made["preproc"].shape == FRAME.shape
        assert made["preproc"].header.get_zooms() == pytest.approx(FRAME.spacing)
        assert low.max() == 1
        assert not low[~mask].any()
        there = apply_affine(made["preproc"].affine, np.argwhere(mask))
        here, *shifted = (
            np.corrcoef(_seen_at(brain, there + shift), low[mask])[0, 1]
            for shift in np.vstack([np.zeros(3), 2.0 * np.eye(3), -2.0 * np.eye(3)])
        )
        assert here > (max(*shifted, 0.9) if source is three else 0.9)
        used = [part.path.name for part in source.parts if part is not rest.parts[0]]
        assert [uri.rpartition("/")[2] for uri in side["Sources"]] == used
        assert record.task == "enhance"
        assert "enhance" in dict(record.seconds)
    path = enhanced_paths(tmp_path / "out", three.scan)["enhanced"]
    assert json.loads(sidecar_path(path).read_text())["Fusion"] == "mrr"
    assert [Path(part).name for part in found[0].parts] == [p.path.name for p in three.parts]
    kinds = {figure.kind for figure in found[0].figures}
    assert kinds >= {"lowfieldinput", "enhanced", "difference"}
    assert (found[0].lost, found[1].lost, len(found[1].parts)) == ((), (), 1)
    ((path, error, message),) = found[2].lost
    assert path.endswith("acq-axi_T1w.nii.gz")
    assert error == "BadDataError"
    assert "acq-axi_T1w.nii.gz" in message
    assert any("made from" in line and "acq-cor" in line for line in found[2].warnings)
