"""Small brains, whose true place is known: enhanced by what is exactly the identity, and paired."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import write_enhancer
from nibabel.affines import apply_affine, from_matvec
from nipype.interfaces.base import Undefined
from skeletons import anat, put, scan_at
from small_brains import GRIDS, SHAPE, make_brain, seen, seen_at, write_scan

from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.discover import ImageSource
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.pairs import prepare_participant
from h2lo_bids.errors import BadDataError
from h2lo_bids.models.bundle import Bundle, load_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.outputs import enhanced_paths
from h2lo_bids.reports.records import ScanReport, from_json
from h2lo_bids.settings import Settings
from h2lo_bids.training.pairs import find_prepared, read_prepared
from pipelines.engine import run_workflow
from pipelines.pairs import (
    PairOptions,
    init_pair_wf,
    missing_pairs,
    pair_fingerprint,
    prepare_pairs,
)
from pipelines.participant import ImageSpec, RunSpec, init_participant_wf, records

FRAME = Frame((40, 48, 40), (3.0, 3.0, 3.0))
TURN = from_matvec(nib.eulerangles.euler2mat(0.06, -0.04, 0.05), [3, -4, 2])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Bundle:
    place = write_enhancer(tmp_path_factory.mktemp("model"), "T1w", frame=FRAME)
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


@pytest.mark.slow
def test_scans_become_one_image_in_the_place_of_the_first_that_can_be_read(tmp_path, model):
    """Three orientations, one alone, and two of which one cannot be read."""
    three, alone = _source(tmp_path / "raw"), _source(tmp_path / "one", ("cor",))
    rest = _source(tmp_path / "rest", ("axi", "cor"), np.eye(4))
    rest = replace(rest, scan=replace(rest.scan, entities=(("sub", "01"), ("run", "2"))))
    rest.parts[0].path.write_bytes(b"\x1f\x8bnothing")
    run = RunSpec(Settings(tmp_path, tmp_path / "out", skull_strip="skip"))
    specs = [
        ImageSpec(f"scan_{n}", own.scan, model, own.parts, (None,) * len(own.parts))
        for n, own in enumerate((three, alone, rest))
    ]
    workflow = init_participant_wf("wf", specs, run)
    workflow.base_dir = str(tmp_path / "work")
    assert run_workflow(workflow, {}, run.settings, tmp_path / "crash") == []
    kept = {record["stem"]: from_json(ScanReport, record) for record in records(workflow)}
    found = [kept[image.scan.stem] for image in specs]
    # The brain as it was when the first scan was made, known in every voxel of the frame.
    brain = make_brain()
    for source, record in zip((three, alone, rest), found, strict=True):
        paths = enhanced_paths(tmp_path / "out", source.scan)
        made = {key: nib.load(path) for key, path in paths.items()}
        low, mask = made["preproc"].get_fdata(), made["mask"].get_fdata() > 0
        # An untrained network adds nothing.
        np.testing.assert_array_equal(made["enhanced"].get_fdata(), low)
        assert made["preproc"].shape == FRAME.shape
        assert made["preproc"].header.get_zooms() == pytest.approx(FRAME.spacing)
        assert low.max() == 1
        assert not low[~mask].any()
        there = apply_affine(made["preproc"].affine, np.argwhere(mask))
        here, *shifted = (
            np.corrcoef(seen_at(brain, there + shift), low[mask])[0, 1]
            for shift in np.vstack([np.zeros(3), 2.0 * np.eye(3), -2.0 * np.eye(3)])
        )
        assert here > (max(*shifted, 0.9) if source is three else 0.9)
        used = [part.path.name for part in source.parts if part is not rest.parts[0]]
        told = {key: json.loads(sidecar_path(path).read_text()) for key, path in paths.items()}
        assert [uri.rpartition("/")[2] for uri in told["mask"]["Sources"]] == used
        assert told["enhanced"]["Fusion"] == ("mrr" if source is three else "none")
        assert (record.task, "enhance" in dict(record.seconds)) == ("enhance", True)
        # Warnings about a fused image do not name one of its scans.
        name = workflow.get_node(f"scan_{found.index(record)}_wf.check_range").inputs.name
        assert name == (source.scan.relative_path if source is alone else source.scan.stem)
    assert [Path(part).name for part in found[0].parts] == [p.path.name for p in three.parts]
    kinds = {figure.kind for figure in found[0].figures}
    assert kinds >= {"lowfieldinput", "enhanced", "difference"}
    assert (found[0].lost, found[1].lost, len(found[1].parts)) == ((), (), 1)
    ((path, error, message),) = found[2].lost
    assert path.endswith("acq-axi_T1w.nii.gz")
    assert error == "BadDataError"
    assert "acq-axi_T1w.nii.gz" in message
    assert any("made from" in line and "acq-cor" in line for line in found[2].warnings)


# Pairs.


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> PairSource:
    root = tmp_path_factory.mktemp("raw")
    brain = make_brain()
    low = tuple(write_scan(root, "LF", seen(brain, TURN, *g), acq) for acq, g in GRIDS.items())
    return PairSource(write_scan(root, "HF", brain), low)


def _prepare(out: Path, *pairs: PairSource):
    """Return the names of the pairs that were made and that were there, and what failed."""
    how = PairOptions(Settings(out, out / "out", work_dir=out / "work"), FRAME)
    made, kept, failed = prepare_pairs(pairs, how, out / "logs")
    return [pair.name for pair in made], [pair.name for pair in kept], failed


@pytest.mark.slow
def test_a_pair_from_scans_to_training(source, tmp_path) -> None:
    broken = replace(source.hf, entities=(*source.hf.entities, ("run", "2")))
    broken = replace(broken, path=tmp_path / "sub-01" / "ses-HF" / "anat" / f"{broken.stem}.nii.gz")
    broken.path.parent.mkdir(parents=True)
    broken.path.write_bytes(b"not an image")
    made, _, (failed,) = _prepare(tmp_path, source, replace(source, hf=broken))
    assert (made, failed.scan) == ([source.name], broken.relative_path)
    assert str(broken.path) in failed.message

    (pair,) = find_prepared(tmp_path / "out", contrast="T1w")
    assert not pair.doubts
    assert (pair.simulated, pair.fusion) == (True, "mrr")
    assert pair.sources[0] == "bids:raw:sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz"
    zooms = [nib.as_closest_canonical(nib.load(s.path)).header.get_zooms() for s in source.lf]
    assert [voxel for _, voxel in pair.noise] == [pytest.approx(sides) for sides in zooms]
    assert all(deviation > 0 for deviation, _ in pair.noise)
    assert pair.hf.name == "sub-01_ses-HF_res-model_desc-pairHF_T1w.nii.gz"
    assert pair.mask.name == "sub-01_ses-HF_res-model_desc-pair_mask.nii.gz"
    data = read_prepared(pair)
    assert (data.name, data.shape) == ("01", FRAME.shape)
    assert not data.hf[~data.mask].any()
    assert not data.lf[~data.mask].any()
    assert data.hf.max() == data.lf.max() == 1
    # Of one spacing, the high-field voxels are copied: the scan's values over its largest.
    own = make_brain().get_fdata()
    assert np.isin(np.rint(data.hf[data.mask] * own.max()), own).all()
    truth = np.sqrt(data.hf[data.mask])
    assert np.corrcoef(truth, data.lf[data.mask])[0, 1] > 0.9

    assert _prepare(tmp_path, source) == ([], [source.name], [])
    other = Settings(tmp_path, tmp_path / "out", random_seed=7)
    assert missing_pairs((source,), PairOptions(other, FRAME)) == (source.name,)
    pair.lf.write_bytes(b"x")
    with pytest.raises(BadDataError, match="cannot be read"):
        read_prepared(pair)


@pytest.mark.slow
def test_a_deliberately_misregistered_pair_is_flagged(source, tmp_path) -> None:
    """A precomputed low-field image that lies 8 mm away from where it should."""
    shift = from_matvec(np.eye(3), [0, 8, 0])
    low = write_scan(tmp_path / "mrr", "LF", seen(make_brain(), shift, SHAPE, 3.0))
    pair = PairSource(source.hf, (replace(low, dataset="mrr"),), registered=True)
    assert _prepare(tmp_path, pair)[0]
    (made,) = find_prepared(tmp_path / "out", contrast="T1w")
    assert made.doubts
    assert made.sources[1].startswith("bids:mrr:")
    record = json.loads(made.record.read_text())
    assert record["RegistrationMethod"].startswith("none")
    assert record["SpatialReference"] == source.hf.uri


def test_one_simulated_scan_makes_a_pair_simulated(source, tmp_path) -> None:
    for name, maker in (("real", "scanner"), ("made", "h2lo-phantom")):
        put(tmp_path / name / "dataset_description.json", {"GeneratedBy": [{"Name": maker}]})
    real, made = (scan_at(tmp_path / name / anat("01", None, "T1w")) for name in ("real", "made"))

    def simulated(high: Scan, low: Scan) -> bool:
        pair = PairSource(high, (low,))
        workflow = init_pair_wf(pair, "", PairOptions(Settings(tmp_path, tmp_path), FRAME))
        return workflow.get_node("write").inputs.sidecars["lf"]["Simulated"]

    assert not simulated(real, real)
    assert simulated(real, made)
    assert simulated(real, source.lf[0])


def test_masks_of_derivatives_are_those_of_the_pair(source, tmp_path, monkeypatch) -> None:
    """Of the raw scans: a mask in the name of a registered image is of another grid."""
    root, high, low = tmp_path / "masks", source.hf, source.lf[1]
    settings = Settings(tmp_path, tmp_path / "out", derivatives=(("m", root),))
    how = PairOptions(settings, FRAME)
    fingerprints = {pair_fingerprint(source, how)}
    names = {s: s.relative_path.replace("T1w", "desc-brain_mask") for s in (high, low)}
    for text in ("a mask", "another"):
        for name in names.values():
            put(root / name, text)
        fingerprints.add(pair_fingerprint(source, how))
    assert len(fingerprints) == 3
    workflow = init_pair_wf(source, "", how)
    finds = map(workflow.get_node, ("find_brain", "find_1", "find_2"))
    wanted = [str(root / names[high]), Undefined, str(root / names[low])]
    assert [find.inputs.given_mask for find in finds] == wanted
    sidecars = workflow.get_node("write").inputs.sidecars
    assert f"bids:m:{names[high]}" in sidecars["mask"]["Sources"]
    assert f"bids:m:{names[low]}" in sidecars["lf"]["Sources"]
    told: list[str] = []
    monkeypatch.setattr("pipelines.pairs.prepare_pairs", lambda *given: ([], [source], []))
    for folder in (root, tmp_path):  # which holds none
        asked = replace(settings, derivatives=(("m", folder),))
        prepare_participant(asked, (source,), tmp_path, lambda event: told.append(event["text"]))
    assert told == [
        *(f"{scan.stem}: brain mask {root / name}" for scan, name in names.items()),
        f"{high.stem}: brain mask computed, as there is no {tmp_path / names[high]}",
    ]
    for other in ("m", "lf"):  # a derivative, and --lf-dir
        assert how.mask_of(replace(low, dataset=other)) is None
