from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from skeletons import HIGH, anat, annex, find, put, scan_at, write

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


def test_simulated_data_noise_deviations_and_thick_slices_are_said_in_the_sidecar(tmp_path):
    scan = scan_at(Path("/raw") / anat("01", None, "T1w"), field_strength=3.0)
    own = default_bundle("T1w")

    def made(changed: dict[str, Any], **words: Any) -> dict[str, dict[str, Any]]:
        model = replace(own, metadata={**own.metadata, **changed})
        settings = Settings(
            Path("/raw"), tmp_path, random_seed=7, lf_grid=((1.6, 1.6, 5.0),), **words
        )
        kinds = ("noise01", "noise02", "std")
        return output_sidecars(scan, model, settings, grids_of(settings), kinds)

    files = dict.fromkeys(("members/0.safetensors", "members/1.safetensors", "other"), "")
    real = made({"training_data": {"kind": "real"}, "files": files}, slice_thickness=4.0)
    assert "ModelWarning" not in real["lowfield_native"]
    assert real["lowfield_lf_1p6x1p6x5"]["SimulatedSliceThickness"] == 4.0
    found = made({"files": files}, noise_scale=1.5)
    native = found["lowfield_native"]
    assert "simulated" in native["ModelWarning"]
    assert "SimulatedSliceProfile" not in native
    assert native.items() >= {
        "ModelTrainingDataKind": "simulated", "SimulatedMagneticFieldStrength": 0.064,
        "InputMagneticFieldStrength": 3.0, "ModelSha256": own.sha256, "RandomSeed": 7,
    }.items()  # fmt: skip
    thick = {"SimulatedSliceProfile": "box", "SimulatedSliceThickness": 5.0}
    noise = hashlib.sha256(json.dumps(own.metadata["noise"], sort_keys=True).encode()).hexdigest()
    for number in (1, 2):
        noisy = {"NoiseScale": 1.5, "Realisation": number, "NoiseModelSha256": noise}
        assert found[f"noise0{number}_lf_1p6x1p6x5"].items() >= (noisy | thick).items()
    assert "bids::sub-01/anat/sub-01_desc-lowfield_T1w.nii.gz" in found["noise01_native"]["Sources"]
    std = found["std_lf_1p6x1p6x5"]
    assert std.items() >= {"NumberOfModels": 2, **thick}.items()
    assert not {"ValueRange", "NoiseScale"} & set(std)


def test_the_bibliography_is_bibtex() -> None:
    assert bibtex().count("{") == bibtex().count("}")
    first, *fields, last = bibtex(["nibabel", "absent"]).splitlines()
    assert (first, last) == ("@misc{nibabel,", "}")
    assert "  doi       = {10.5281/zenodo.591597}" in fields


def test_images_of_another_dataset_are_told_by_its_place_or_its_name(tmp_path: Path) -> None:
    out, raw, other = (tmp_path / name for name in ("out", "raw", "other"))

    def describe(root: Path, **content: str) -> None:
        put(root / "dataset_description.json", {"Name": "A", "BIDSVersion": "1.8.0", **content})

    for root in (raw, other):
        describe(root)
    write_dataset_files(out, bids_dir=raw)
    assert other_source(out, other) is None  # there is no image yet
    (out / "sub-01").mkdir()
    (tmp_path / "link").symlink_to(raw)
    for same in (raw, tmp_path / "other" / ".." / "raw", tmp_path / "link", raw):
        assert other_source(out, same) is None
        write_dataset_files(out, bids_dir=same)
    said = f"images of another dataset (A at {raw.as_uri()}; now A at {other.as_uri()}): choose"
    assert said in (other_source(out, other) or "")
    # In a container each dataset is mounted at one place.
    describe(raw, Name="B")
    assert f"(A at {raw.as_uri()}; now B at {raw.as_uri()})" in (other_source(out, raw) or "")
    # Wherever it lies, a dataset with a DOI is the same.
    bare = "10.18112/openneuro.ds1"
    for root in (raw, other):
        describe(root, DatasetDOI=f"doi:{bare}")
    expected = [{"DOI": bare, "URL": f"https://doi.org/{bare}", "Name": "A"}]
    assert description(raw)["SourceDatasets"] == expected
    write_dataset_files(out, bids_dir=raw)
    assert other_source(out, other) is None
    assert (out / "logs/CITATION.bib").read_text() == bibtex()
    describe(raw, DatasetDOI="as of v10.2")  # which is none
    assert description(raw)["SourceDatasets"] == [{"URL": raw.as_uri(), "Name": "A"}]
    put(out / "dataset_description.json", {"SourceDatasets": "odd"})
    assert other_source(out, raw) is None


def test_lines_that_a_user_added_stay_in_the_files_of_the_dataset(tmp_path: Path) -> None:
    for times in (0, 1, 1):
        write_dataset_files(tmp_path / "out", bids_dir=tmp_path)
        for name in (".bidsignore", "descriptions.tsv"):
            file, own = tmp_path / "out" / name, f"own\tof {name}"
            lines = file.read_text().splitlines()
            assert (len(lines), lines.count(own)) == (len({*lines}), times)
            file.write_text("\n".join([*lines, own]))


def test_containers() -> None:
    inside = {"APPTAINER_CONTAINER": "/x/h2lo.sif", "SINGULARITY_CONTAINER": "/x/h2lo.sif"}
    assert container({}) is None
    assert container({"H2LO_CONTAINER": "h2lo:1"}) == {"Type": "docker", "Tag": "h2lo:1"}
    assert container(inside) == {"Type": "apptainer", "URI": "h2lo.sif"}


@pytest.mark.usefixtures("validator")
def test_errors_of_the_chosen_images_are_listed_by_file_and_others_stop_nobody(tmp_path) -> None:
    root = write(
        tmp_path / "ds",
        {
            anat("01", None, "acq-MPRAGE_rec-SCIC_run-01_T1w"): HIGH,
            anat("02", None, "T1w"): {**HIGH, "EchoTime": "short"},
            anat("03", None, "T1w"): HIGH,
            anat("04", None, "T1w"): "{broken",
            anat("05", None, "T1w"): {**HIGH, "FlipAngle": "steep"},
            "sub-01/func/sub-01_bold.nii.gz": {"RepetitionTime": "wrong"},
        },
    )
    put(root / "participants.tsv", "participant_id\n99\n")
    annex(root / anat("03", None, "T1w"))
    found = find(root, participant_label=("01", "03", "04"))
    assert [scan.subject for scan in found.scans] == ["01"]
    assert sorted(problem.error.exit_code for problem in found.problems) == [65, 66]
    with pytest.raises(InvalidBidsError) as caught:
        find(root)
    first, *lines = str(caught.value).splitlines()
    assert "--skip-bids-validation" in first
    for line, (sub, field) in zip(lines, (("02", "EchoTime"), ("05", "FlipAngle")), strict=True):
        place = f"sub-{sub}/anat/sub-{sub}_T1w.json"
        assert line.startswith(f"  {place}: JSON_SCHEMA_VALIDATION_ERROR {field}")
    assert len(find(root, skip_bids_validation=True).scans) == 3


def test_a_validator_that_is_absent_or_fails_is_skipped(tmp_path: Path, monkeypatch) -> None:
    root, program = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH}), tmp_path / "validator"
    assert any("not installed" in note for note in find(root).notes)
    program.touch(0o755)
    monkeypatch.setattr(dataset, "find_validator", lambda: program)
    for output in ("not json", "{}", "[]"):
        program.write_text(f"#!/bin/sh\nprintf '%s' '{output}'\n")
        assert "was skipped" in (dataset.require_valid(root, root.rglob("*.nii.gz")) or "")
    program.write_text("#!/bin/sh\nsleep 5\n")
    note = dataset.require_valid(root, root.rglob("*.nii.gz"), seconds=0.01)
    assert "given up" in (note or "")
