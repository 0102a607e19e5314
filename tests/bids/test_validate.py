from __future__ import annotations

from pathlib import Path

import pytest
from skeletons import HIGH, anat, annex, ds005752, ds006557, put, write

from h2lo_bids.bids import dataset
from h2lo_bids.bids.discover import discover
from h2lo_bids.bids.query import Query
from h2lo_bids.errors import InvalidBidsError


@pytest.fixture
def needs_validator() -> None:
    if dataset.find_validator() is None:
        pytest.skip("bids-validator-deno is not installed")


@pytest.mark.usefixtures("needs_validator")
def test_real_layouts_are_valid(tmp_path: Path) -> None:
    assert discover(Query(ds005752(tmp_path / "a"))).scans
    root = ds006557(tmp_path / "b")
    assert all(problem.exit_code == 66 for problem in discover(Query(root)).problems)


@pytest.mark.usefixtures("needs_validator")
def test_errors_are_listed_by_file(tmp_path: Path) -> None:
    images = {
        anat("01", None, "T1w"): {**HIGH, "EchoTime": "short"},
        anat("02", None, "T1w"): {**HIGH, "FlipAngle": "steep"},
    }
    root = write(tmp_path / "ds", images)
    with pytest.raises(InvalidBidsError) as caught:
        discover(Query(root))
    message = str(caught.value)
    assert caught.value.exit_code == 16
    assert "sub-01/anat/sub-01_T1w.json: JSON_SCHEMA_VALIDATION_ERROR EchoTime" in message
    assert "sub-02/anat/sub-02_T1w.json: JSON_SCHEMA_VALIDATION_ERROR FlipAngle" in message
    assert message.count("\n") == 2
    assert "--skip-bids-validation" in message
    assert len(discover(Query(root, skip_bids_validation=True)).scans) == 2


@pytest.mark.usefixtures("needs_validator")
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
    found = discover(Query(root, participant_labels=("01", "03", "04")))
    assert [scan.subject for scan in found.scans] == ["01"]
    assert sorted(problem.exit_code for problem in found.problems) == [65, 66]


def test_without_the_validator_there_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "find_validator", lambda: None)
    found = discover(Query(ds005752(tmp_path / "ds")))
    assert any("not installed" in note for note in found.notes)


@pytest.mark.parametrize("output", ["not json", "{}", "[]"])
def test_a_validator_that_fails_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    program = tmp_path / "validator"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{output}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(dataset, "find_validator", lambda: program)
    root = ds005752(tmp_path / "ds")
    assert "was skipped" in (dataset.require_valid(root, root.rglob("*.nii.gz")) or "")
    program.write_text("#!/bin/sh\nsleep 5\n")
    note = dataset.require_valid(root, root.rglob("*.nii.gz"), seconds=0.01)
    assert "given up" in (note or "")
