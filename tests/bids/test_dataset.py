from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from skeletons import HIGH, anat, annex, ds005752, ds006557, find, put, scan_at, write

from h2lo_bids.bids import dataset
from h2lo_bids.bids.dataset import (
    bibtex,
    container,
    description,
    find_validator,
    other_source,
    write_dataset_files,
)
from h2lo_bids.errors import InvalidBidsError
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.outputs import grids_of, output_sidecars
from h2lo_bids.settings import Settings


@pytest.fixture
def validator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_validator(), "bids-validator-deno is missing; install the extra `test`"
    monkeypatch.setattr(dataset, "find_validator", find_validator)


def sidecars(out: Path, changed: dict[str, Any], **words: Any) -> dict[str, dict[str, Any]]:
    """Return those of one scan's images on all grids, with noise and a deviation."""
    scan = scan_at(Path("/raw") / anat("01", None, "T1w"), field_strength=3.0)
    members = dict.fromkeys(("members/0.safetensors", "members/1.safetensors", "other"), "")
    model = default_bundle("T1w")
    model = replace(model, metadata={**model.metadata, "files": members, **changed})
    settings = Settings(Path("/raw"), out, random_seed=7, lf_grid=((1.6, 1.6, 5.0),), **words)
    kinds = ("noise01", "noise02", "std")
    return output_sidecars(scan, model, settings, grids_of(settings), kinds)


def test_simulated_data_noise_deviations_and_thick_slices_are_said_in_the_sidecar(tmp_path):
    real = sidecars(tmp_path, {"training_data": {"kind": "real"}}, slice_thickness=4.0)
    assert "ModelWarning" not in real["lowfield_native"]
    assert real["lowfield_lf_1p6x1p6x5"]["SimulatedSliceThickness"] == 4.0
    made = sidecars(tmp_path, {}, noise_scale=1.5)
    content = made["lowfield_native"]
    assert content["ModelTrainingDataKind"] == "simulated"
    assert "simulated" in content["ModelWarning"]
    assert content["SimulatedMagneticFieldStrength"] == 0.064
    assert content["InputMagneticFieldStrength"] == 3.0
    own = default_bundle("T1w")
    assert (content["ModelSha256"], content["RandomSeed"]) == (own.sha256, 7)
    for kind in ("lowfield", "noise01", "std"):
        content = made[f"{kind}_lf_1p6x1p6x5"]
        assert content["SimulatedSliceProfile"] == "box"
        assert content["SimulatedSliceThickness"] == 5.0
        assert content.get("NoiseScale") == (1.5 if kind == "noise01" else None)
    first, second, std = (made[f"{kind}_native"] for kind in ("noise01", "noise02", "std"))
    assert "SimulatedSliceProfile" not in first
    assert [first["Realisation"], second["Realisation"]] == [1, 2]
    noise = json.dumps(own.metadata["noise"], sort_keys=True).encode()
    assert first["NoiseModelSha256"] == hashlib.sha256(noise).hexdigest()
    assert "bids::sub-01/anat/sub-01_desc-lowfield_T1w.nii.gz" in first["Sources"]
    assert std["NumberOfModels"] == 2
    assert ("ValueRange" in first, "ValueRange" in std) == (True, False)


def test_the_bibliography_is_bibtex() -> None:
    assert bibtex().count("{") == bibtex().count("}")
    first, *fields, last = bibtex(["nibabel", "absent"]).splitlines()
    assert (first, last) == ("@misc{nibabel,", "}")
    assert "  doi       = {10.5281/zenodo.591597}" in fields


def test_images_of_another_dataset_are_told_by_its_place_or_its_name(tmp_path: Path) -> None:
    out, raw, other = (tmp_path / name for name in ("out", "raw", "other"))
    for root in (raw, other):
        put(root / "dataset_description.json", json.dumps({"Name": "A", "BIDSVersion": "1.8.0"}))
    write_dataset_files(out, bids_dir=raw)
    assert other_source(out, other) is None  # there is no image yet
    (out / "sub-01").mkdir()
    (tmp_path / "link").symlink_to(raw)
    for same in (raw, tmp_path / "other" / ".." / "raw", tmp_path / "link"):
        assert other_source(out, same) is None
        write_dataset_files(out, bids_dir=same)
    write_dataset_files(out, bids_dir=raw)
    said = f"images of another dataset (A at {raw.as_uri()}; now A at {other.as_uri()}): choose"
    assert said in (other_source(out, other) or "")
    # In a container each dataset is mounted at one place.
    put(raw / "dataset_description.json", json.dumps({"Name": "B", "BIDSVersion": "1.8.0"}))
    assert f"(A at {raw.as_uri()}; now B at {raw.as_uri()})" in (other_source(out, raw) or "")
    # Wherever it lies, a dataset with a DOI is the same.
    doi = {"Name": "A", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:10.18112/openneuro.ds1"}
    for root in (raw, other):
        put(root / "dataset_description.json", json.dumps(doi))
    bare = "10.18112/openneuro.ds1"
    expected = [{"DOI": bare, "URL": f"https://doi.org/{bare}", "Name": "A"}]
    assert description(raw)["SourceDatasets"] == expected
    write_dataset_files(out, bids_dir=raw)
    assert other_source(out, other) is None
    assert (out / "logs/CITATION.bib").read_text() == bibtex()
    put(out / "dataset_description.json", json.dumps({"SourceDatasets": "odd"}))
    assert other_source(out, raw) is None


def test_containers() -> None:
    inside = {"APPTAINER_CONTAINER": "/x/h2lo.sif", "SINGULARITY_CONTAINER": "/x/h2lo.sif"}
    assert container({}) is None
    assert container({"H2LO_CONTAINER": "h2lo:1"}) == {"Type": "docker", "Tag": "h2lo:1"}
    assert container(inside) == {"Type": "apptainer", "URI": "h2lo.sif"}


@pytest.mark.usefixtures("validator")
def test_real_layouts_are_valid(tmp_path: Path) -> None:
    assert find(ds005752(tmp_path / "a")).scans
    root = ds006557(tmp_path / "b")
    assert all(problem.error.exit_code == 66 for problem in find(root).problems)


@pytest.mark.usefixtures("validator")
def test_errors_are_listed_by_file(tmp_path: Path) -> None:
    images = {
        anat("01", None, "T1w"): {**HIGH, "EchoTime": "short"},
        anat("02", None, "T1w"): {**HIGH, "FlipAngle": "steep"},
    }
    root = write(tmp_path / "ds", images)
    with pytest.raises(InvalidBidsError) as caught:
        find(root)
    message = str(caught.value)
    assert "sub-01/anat/sub-01_T1w.json: JSON_SCHEMA_VALIDATION_ERROR EchoTime" in message
    assert "sub-02/anat/sub-02_T1w.json: JSON_SCHEMA_VALIDATION_ERROR FlipAngle" in message
    assert message.count("\n") == 2
    assert "--skip-bids-validation" in message
    assert len(find(root, skip_bids_validation=True).scans) == 2


@pytest.mark.usefixtures("validator")
def test_what_was_not_chosen_stops_nobody(tmp_path: Path) -> None:
    root = write(
        tmp_path / "ds",
        {
            anat("01", None, "T1w"): HIGH,
            anat("02", None, "T1w"): {"EchoTime": "short"},
            anat("03", None, "T1w"): HIGH,
            anat("04", None, "T1w"): "{broken",
            "sub-01/func/sub-01_bold.nii.gz": {"RepetitionTime": "wrong"},
        },
    )
    put(root / "participants.tsv", "participant_id\n99\n")
    annex(root / anat("03", None, "T1w"))
    found = find(root, participant_label=("01", "03", "04"))
    assert [scan.subject for scan in found.scans] == ["01"]
    assert sorted(problem.error.exit_code for problem in found.problems) == [65, 66]


def test_a_validator_that_is_absent_or_fails_is_skipped(tmp_path: Path, monkeypatch) -> None:
    root, program = ds005752(tmp_path / "ds"), tmp_path / "validator"
    assert any("not installed" in note for note in find(root).notes)
    program.touch(0o755)
    monkeypatch.setattr(dataset, "find_validator", lambda: program)
    for output in ("not json", "{}", "[]"):
        program.write_text(f"#!/bin/sh\nprintf '%s' '{output}'\n")
        assert "was skipped" in (dataset.require_valid(root, root.rglob("*.nii.gz")) or "")
    program.write_text("#!/bin/sh\nsleep 5\n")
    note = dataset.require_valid(root, root.rglob("*.nii.gz"), seconds=0.01)
    assert "given up" in (note or "")
