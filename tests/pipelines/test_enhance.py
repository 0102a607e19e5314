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


def _run(folder: Path, model: Bundle, *sources: ImageSource, work: str = "work"):  # type: ignore[no-untyped-def]
    run = RunSpec(Settings(folder, folder / "out", skull_strip="skip"))
    specs = [
        ImageSpec(f"scan_{n}", own.scan, model, own.parts, (None,) * len(own.parts))
        for n, own in enumerate(sources)
    ]
    workflow = init_participant_wf("wf", specs, run)
    workflow.base_dir = str(folder / work)
    parts = {f"{image.name}_wf": [s.stem for s in image.parts] for image in specs}
    failures = run_workflow(workflow, parts, run.settings, folder / "crash")
    return failures, [from_json(ScanReport, record) for record in records(workflow)]


def test_warnings_about_a_fused_image_do_not_name_one_of_its_scans(tmp_path, model):
    names, run = [], RunSpec(Settings(tmp_path, tmp_path / "out", skull_strip="skip"))
    for ways in (("axi", "cor", "sag"), ("cor",)):
        files = [tmp_path / f"sub-01/anat/sub-01_acq-{way}_T1w.nii.gz" for way in ways]
        parts = tuple(Scan(file, "01", None, "T1w", (("sub", "01"),)) for file in files)
        spec = ImageSpec("scan", parts[0], model, parts, (None,) * len(parts))
        workflow = init_participant_wf("wf", [spec], run)
        names.append(workflow.get_node("scan_wf.check_range").inputs.name)
    assert names == ["sub-01_T1w", "sub-01/anat/sub-01_acq-cor_T1w.nii.gz"]


def _images(folder: Path, scan: Scan) -> dict[str, nib.Nifti1Image]:
    return {key: nib.load(path) for key, path in enhanced_paths(folder / "out", scan).items()}


@pytest.mark.slow
def test_three_orientations_become_one_image_in_the_place_of_the_first(tmp_path, model):
    source = _source(tmp_path / "raw")
    failures, (record,) = _run(tmp_path, model, source)
    assert failures == []
    made = _images(tmp_path, source.scan)
    low, mask = made["preproc"].get_fdata(), made["mask"].get_fdata() > 0
    # An untrained network adds nothing.
    np.testing.assert_array_equal(made["enhanced"].get_fdata(), low)
    assert made["preproc"].shape == FRAME.shape
    assert made["preproc"].header.get_zooms() == pytest.approx(FRAME.spacing)
    assert low.max() == 1
    assert not low[~mask].any()
    # The brain as it was when the first scan was made, known in every voxel of the frame.
    brain, affine = make_brain(), made["preproc"].affine
    there = apply_affine(affine, np.argwhere(mask))

    def likeness(shift: tuple[float, ...]) -> float:
        return np.corrcoef(_seen_at(brain, there + shift), low[mask])[0, 1]

    here = likeness((0, 0, 0))
    assert here > 0.9
    shifts = [tuple(2.0 * sign * row) for row in np.eye(3) for sign in (-1, 1)]
    assert max(likeness(shift) for shift in shifts) < here
    side = json.loads(
        (tmp_path / "out" / record.outputs[0]).with_suffix("").with_suffix(".json").read_text()
    )
    assert side["Fusion"] == "mrr"
    assert len([s for s in side["Sources"] if "raw" in s]) == 3
    assert record.task == "enhance"
    assert record.lost == ()
    assert [Path(part).name for part in record.parts] == [p.path.name for p in source.parts]
    assert {figure.kind for figure in record.figures} >= {"lowfieldinput", "enhanced", "difference"}
    # In a work folder that was moved nothing is computed again, and nothing is missed.
    steps = {path.name: path.stat().st_mtime_ns for path in _steps(tmp_path / "work")}
    (tmp_path / "work").rename(tmp_path / "moved")
    failures, (again,) = _run(tmp_path, model, source, work="moved")
    assert (failures, replace(again, seconds=record.seconds)) == ([], record)
    assert [step for step, _ in again.seconds] == [step for step, _ in record.seconds]
    assert dict(again.seconds)["enhance"] == dict(record.seconds)["enhance"]
    assert {path.name: path.stat().st_mtime_ns for path in _steps(tmp_path / "moved")} == steps


def _steps(work: Path) -> list[Path]:
    found = [path for path in work.rglob("result_*.pklz") if "_list_" not in path.name]
    assert len(found) > 10
    return [path for path in found if not path.name.startswith("result_ds_")]


def _seen_at(brain: nib.Nifti1Image, points: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    voxels = apply_affine(np.linalg.inv(brain.affine), points)
    return 20 * np.sqrt(map_coordinates(brain.get_fdata(), voxels.T, order=1))


@pytest.mark.slow
def test_one_scan_alone_and_one_that_cannot_be_read_among_three(tmp_path, model):
    alone = _source(tmp_path / "one", ("cor",))
    damaged = _source(tmp_path / "three", turn=np.eye(4))
    damaged = replace(damaged, scan=replace(damaged.scan, entities=(("sub", "01"), ("run", "2"))))
    damaged.parts[0].path.write_bytes(b"\x1f\x8bnothing")
    failures, records = _run(tmp_path, model, alone, damaged)
    assert failures == []
    kept = {record.stem: record for record in records}
    single, rest = kept["sub-01_ses-LF_acq-cor_T1w"], kept["sub-01_run-2_T1w"]
    assert single.lost == ()
    assert len(single.parts) == 1
    ((path, error, message),) = rest.lost
    assert path.endswith("acq-axi_T1w.nii.gz")
    assert error == "BadDataError"
    assert "acq-axi_T1w.nii.gz" in message
    assert any("made from" in line and "acq-cor" in line for line in rest.warnings)
    side = json.loads(
        sidecar_path(enhanced_paths(tmp_path / "out", damaged.scan)["mask"]).read_text()
    )
    assert ["acq-cor" in uri or "acq-sag" in uri for uri in side["Sources"]] == [True, True]
    for source in (alone, damaged):
        made = _images(tmp_path, source.scan)
        low, mask = made["preproc"].get_fdata(), made["mask"].get_fdata() > 0
        truth = _seen_at(make_brain(), apply_affine(made["preproc"].affine, np.argwhere(mask)))
        assert np.corrcoef(truth, low[mask])[0, 1] > 0.9
        np.testing.assert_array_equal(made["enhanced"].get_fdata(), low)
