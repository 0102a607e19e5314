from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from skeletons import (
    HIGH,
    LOW,
    anat,
    annex,
    ds006557,
    find,
    find_low,
    get,
    put,
    reasons,
    write,
)

from h2lo_bids.bids.discover import Discovery
from h2lo_bids.errors import InvalidBidsError, MissingInputError, NoMatchError


def stems(found: Discovery) -> list[str]:
    return [scan.stem for scan in found.scans]


@pytest.fixture(scope="module")
def hype(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two participants of ds006557, with content; to be read only."""
    root = ds006557(tmp_path_factory.mktemp("hype") / "ds")
    get(root, "")
    return root


def test_ds006557_takes_the_high_field_session_only(hype: Path) -> None:
    found = find(hype)
    names = ("HYPE00_ses-GE_acq-MPRAGE_T1w", "HYPE00_ses-GE_T2w")
    names += ("HYPE06_ses-GE_acq-MPRAGE_T1w", "HYPE06_ses-GE_T2w")
    assert stems(found) == [f"sub-{name}" for name in names]
    assert not found.problems
    # 2 sessions x 4 orientations x 2 contrasts, less the iso T2w of HFE; HYPE06 lacks one more.
    assert len(found.skipped) == 15 + 14
    assert all("0.0635 T by ImagingFrequency" in item.reason for item in found.skipped)
    assert found.scans[0].field_strength == pytest.approx(3.0, abs=0.01)


def test_before_datalad_get_of_images_and_given_masks(tmp_path: Path) -> None:
    root = ds006557(tmp_path / "ds")
    get(root, "sub-HYPE00_ses-GE_T2w")
    pointer = root / anat("HYPE06", "GE", "T2w")
    pointer.unlink()
    pointer.write_text("/annex/objects/MD5E-s12--abc.nii.gz\n")  # an unlocked one
    assert "datalad get" in find(root, participant_label=("HYPE06",)).problems[-1].message
    found = find(root, participant_label=("HYPE00",))
    assert stems(found) == ["sub-HYPE00_ses-GE_T2w"]
    (problem,) = found.problems
    assert problem.error.exit_code == 66
    assert f"content not present, run: datalad get {problem.path}" in problem.message
    assert problem.path.name == "sub-HYPE00_ses-GE_acq-MPRAGE_T1w.nii.gz"
    # A mask is not computed instead of the given one.
    annex(mask := tmp_path / "m" / anat("HYPE00", "GE", "space-T2w_desc-brain_mask"))
    options = {"participant_label": ("HYPE00",), "derivatives": (("m", tmp_path / "m"),)}
    found = find(root, contrast=("T2w",), **options)
    assert not found.scans
    (problem,) = found.problems
    assert (problem.path.name, problem.error.exit_code) == ("sub-HYPE00_ses-GE_T2w.nii.gz", 66)
    assert f"content not present, run: datalad get {mask}" in problem.message


def test_ds005752_takes_one_by_the_documented_preference(tmp_path: Path) -> None:
    names = ("acq-MPRAGE_run-01_T1w", "acq-MPRAGE_rec-SCIC_run-01_T1w", "acq-CUBE_T2w")
    names += ("acq-MPRAGE_rec-SCIC_run-02_T1w", "acq-FSPGR_rec-SCIC_run-01_T1w")
    names += ("acq-CUBE_rec-SCIC_T2w",)
    root = write(tmp_path / "ds", {anat("ON01802", "01", name): HIGH for name in names})
    found = find(root)
    assert stems(found) == [
        "sub-ON01802_ses-01_acq-MPRAGE_rec-SCIC_run-01_T1w",
        "sub-ON01802_ses-01_acq-CUBE_rec-SCIC_T2w",
    ]
    assert len(found.skipped) == 4
    assert all("--all-scans" in item.reason for item in found.skipped)
    assert len(find(root, all_scans=True).scans) == 6
    plain = find(root, filter=("rec=",))
    assert stems(plain) == [
        "sub-ON01802_ses-01_acq-MPRAGE_run-01_T1w",
        "sub-ON01802_ses-01_acq-CUBE_T2w",
    ]
    second = find(root, filter=("run=2",), contrast=("T1w",))
    assert stems(second) == ["sub-ON01802_ses-01_acq-MPRAGE_rec-SCIC_run-02_T1w"]
    for key in ("t1w", "hf_t1w"):
        filtered = find(root, filters={key: {"acquisition": "FSPGR"}}, contrast=("T1w",))
        assert stems(filtered) == ["sub-ON01802_ses-01_acq-FSPGR_rec-SCIC_run-01_T1w"]
    # One that is not there is not replaced silently.
    annex(root / anat("ON01802", "01", "acq-MPRAGE_rec-SCIC_run-01_T1w"))
    found = find(root, contrast=("T1w",))
    assert not found.scans
    assert [problem.error.exit_code for problem in found.problems] == [66]


def test_both_forms_of_one_scan_and_what_is_no_magnitude_head(tmp_path: Path) -> None:
    names = ("T1w.nii", "T1w.nii.gz", "echo-1_T1w.nii.gz", "mod-T1w_defacemask.nii.gz")
    root = write(tmp_path / "ds", {f"sub-01/anat/sub-01_{name}": HIGH for name in names})
    found = find(root)
    assert [scan.path.name for scan in found.scans] == ["sub-01_T1w.nii.gz"]
    assert set(reasons(found)) == {"sub-01_T1w.nii", "sub-01_echo-1_T1w.nii.gz"}
    assert "--filter echo=1" in reasons(found)["sub-01_echo-1_T1w.nii.gz"]
    assert stems(find(root, filter=("echo=1",))) == ["sub-01_echo-1_T1w"]
    annex(root / anat("01", None, "T1w"))
    assert [scan.path.name for scan in find(root).scans] == ["sub-01_T1w.nii"]


def test_low_field_only_is_no_match_and_says_why(tmp_path: Path, refused) -> None:
    root = write(tmp_path / "ds", {anat("01", "64mTpre", "T1w"): {"Modality": "MR"}})
    told = refused(NoMatchError, find, root)
    assert re.search(r"0\.064 T by a label.* write MagneticFieldStrength", told)


def test_an_asked_subject_that_is_absent_or_empty_is_a_problem_for_it_alone(tmp_path, refused):
    root = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH, anat("02", None, "T1w"): LOW})
    put(root / "participants.tsv", "participant_id\nsub-01\nsub-09\n")
    (root / "sub-03").mkdir()
    assert not find(root).problems
    found = find(root, participant_label=("01", "02", "03", "09"))
    assert stems(found) == ["sub-01_T1w"]
    told = {problem.path.name: problem.message for problem in found.problems}
    assert set(told) == {"sub-02", "sub-03", "sub-09"}
    assert {problem.error.exit_code for problem in found.problems} == {18}
    assert "only in participants.tsv" in told["sub-09"]
    line = refused(NoMatchError, find, root, participant_label=("1",))
    assert "sub-1: no such folder; did you mean 01" in line


@pytest.mark.parametrize(("search", "field"), [(find, HIGH), (find_low, LOW)])
def test_a_broken_sidecar_concerns_its_scan_alone(tmp_path: Path, search, field) -> None:
    odd = {"MagneticFieldStrength": "ultra-low"}
    broken = {anat(str(n), None, "T1w"): text for n, text in enumerate(("{oops", "[1, 2]", odd))}
    found = search(write(tmp_path / "ds", {**broken, anat("0", None, "T2w"): field}))
    assert stems(found) == ["sub-0_T2w"]
    told = ("sub-0_T1w.json", "sub-1_T1w.json", "MagneticFieldStrength reads 'ultra-low'")
    for n, (problem, text) in enumerate(zip(found.problems, told, strict=True)):
        assert (problem.path.name, problem.error.exit_code) == (f"sub-{n}_T1w.nii.gz", 65)
        assert text in problem.message


def test_a_closed_folder_or_a_link_into_one_stops_its_subject_alone(tmp_path: Path) -> None:
    names = [anat(sub, ses, "T1w") for sub in "1234" for ses in (None, "A")]
    names += [anat("6", None, "T2w"), anat("7", None, "T1w")]
    root, masks = write(tmp_path / "ds", dict.fromkeys(names, HIGH)), tmp_path / "masks"
    put(root / "sub-1" / "ses-notes.txt", "a file is no closed folder")
    closed = [root / name for name in ("sub-2", "sub-3/anat", "sub-4/ses-A")]
    links = [root / name for name in ("sub-5/ses-A", anat("6", None, "T1w"))]
    others = away, mask, _ = tmp_path / "away", masks / "sub-7", root / "code"
    for folder in (*others, root / "sub-5"):
        folder.mkdir(parents=True)
    for folder in (*closed, *others):
        folder.chmod(0)
    try:
        if os.access(closed[0], os.R_OK):
            pytest.skip("this user may read everything")
        more = {"derivatives": (("m", masks),)}
        kept = find(root, bids_database_dir=tmp_path / "db", **more)
        for link in (*links, root / "sourcedata", root / "sub-1/anat/old"):
            link.symlink_to(away / "x")
        found, new = find(root, **more), find(root, bids_database_dir=tmp_path / "new", **more)
    finally:
        for folder in (*closed, *others):
            folder.chmod(0o755)
    used = ["sub-1_T1w", "sub-1_ses-A_T1w", "sub-6_T2w"]
    assert stems(found) == stems(kept) == stems(new) == used
    refused = [*closed, *links, mask / "anat/sub-7_desc-brain_mask.nii.gz"]
    for path, problem in zip(refused, found.problems, strict=True):
        assert problem.error.exit_code == 66
        assert f"{path}: cannot be read" in problem.message


def test_broken_descriptions(tmp_path: Path, refused) -> None:
    whole = {"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    for description, word in (
        ("{", "JSON"), ('{"a": ' * 600 + "1" + "}" * 600, "nested too deeply"),
        ({"Name": "x"}, "has no BIDSVersion; add it"), (whole, "derivative"),
        ({"Name": "x", "BIDSversion": "1.8.0"}, "rename BIDSversion"),
    ):  # fmt: skip
        root = write(tmp_path, {anat("01", None, "T1w"): HIGH}, description=description)
        assert word in refused(InvalidBidsError, find, root)
        assert stems(find(root, skip_bids_validation=True)) == ["sub-01_T1w"]


def test_what_is_no_dataset_is_told_with_its_remedy(tmp_path: Path, refused) -> None:
    root = write(tmp_path / "a" / "ds", {anat("01", None, "T1w"): HIGH})
    for given in (root / "sub-01", root.parent):
        assert f"{root}; give that as bids_dir" in refused(InvalidBidsError, find, given)
    (root / "dataset_description.json").write_text("[" * 100_000 + "]" * 100_000)
    for database in (None, tmp_path / "db"):
        more = {"skip_bids_validation": True, "bids_database_dir": database}
        assert "remove it" in refused(InvalidBidsError, find, root, **more)
    (root / "dataset_description.json").unlink()
    assert "--skip-bids-validation" in refused(InvalidBidsError, find, root)
    annex(root / "dataset_description.json")
    line = refused(MissingInputError, find, root)
    assert f"datalad get {root / 'dataset_description.json'}" in line
    assert "no such folder" in refused(MissingInputError, find, tmp_path / "absent")
    assert "sub-<label>" in refused(NoMatchError, find, write(tmp_path / "empty", {}))


def test_only_the_dataset_itself_is_searched_and_never_written(tmp_path: Path) -> None:
    """Neither a parent folder's name nor nested datasets are mistaken for subjects."""
    root = write(
        tmp_path / "sub-99" / "ses-x" / "anat" / "ds",
        {
            anat("01", None, "T1w"): HIGH,
            "derivatives/other/" + anat("01", None, "T1w"): HIGH,
            "sourcedata/" + anat("02", None, "T1w"): HIGH,
            "sub-01/anat/old/sub-01_T2w.nii.gz": HIGH,
            "sub-01/func/sub-01_T2w.nii.gz": HIGH,
        },
    )
    (root / "sub-01").rename(tmp_path / "elsewhere")
    (root / "sub-01").symlink_to(tmp_path / "elsewhere")
    before = sorted((path, path.stat().st_mtime_ns) for path in [root, *root.rglob("*")])
    (scan,) = find(root, bids_database_dir=tmp_path / "database").scans
    assert (scan.stem, scan.relative_path) == ("sub-01_T1w", "sub-01/anat/sub-01_T1w.nii.gz")
    assert scan.root == root
    assert sorted((path, path.stat().st_mtime_ns) for path in [root, *root.rglob("*")]) == before


# Which low-field scans are enhanced, together or alone, and what the result is called.


def told(found: Discovery) -> dict[str, list[str]]:
    """Return by the outputs' stem the words that tell the scans apart."""
    return {
        source.scan.stem: [dict(part.entities).get("acq", "") for part in source.parts]
        for source in found.sources
    }


def test_ds006557_fuses_the_three_orientations_of_each_session(hype: Path) -> None:
    found = find_low(hype, participant_label=("HYPE00",))
    three = ["axi", "cor", "sag"]
    visits = [f"sub-HYPE00_ses-{visit}" for visit in ("HFC", "HFE")]
    assert told(found) == {f"{v}_{suffix}": three for v in visits for suffix in ("T1w", "T2w")}
    assert "high field (3.0009 T by Imag" in reasons(found)["sub-HYPE00_ses-GE_T2w.nii.gz"]
    # A run's account goes by scans, each under its own path and the outputs' name.
    first = found.scans[0]
    assert first.stem == "sub-HYPE00_ses-HFC_T1w"
    assert first.relative_path.endswith("sub-HYPE00_ses-HFC_acq-axi_T1w.nii.gz")
    # HYPE06 lacks the sagittal T1w of HFC: one scan is taken, the isotropic one.
    other = told(find_low(hype, participant_label=("HYPE06",), contrast=("T1w",)))
    visits = ["sub-HYPE06_ses-HFC_acq-iso_T1w", "sub-HYPE06_ses-HFE_T1w"]
    assert other == dict(zip(visits, (["iso"], three), strict=True))


def test_fusion_words_and_all_scans_decide(hype: Path, refused) -> None:
    some = {"session_label": ("HFC",), "contrast": ("T1w",), "participant_label": ("HYPE00",)}
    for words, ways in (
        ({"lf_fusion": "none"}, ["iso"]), ({"lf": ("acq-cor",)}, ["cor"]),
        ({"all_scans": True}, ["axi", "cor", "sag", "iso"]),
    ):  # fmt: skip
        found = told(find_low(hype, **words, **some))
        assert found == {f"sub-HYPE00_ses-HFC_acq-{way}_T1w": [way] for way in ways}
    line = refused(NoMatchError, find_low, hype, lf_fusion="mrr", lf=("acq-cor",), **some)
    assert "not three orthogonal scans to fuse (found coronal)" in line


def test_an_absent_orientation_leaves_the_others_and_their_name(tmp_path: Path) -> None:
    root = ds006557(tmp_path / "ds", ("HYPE00",))
    for way in ("cor", "sag"):
        get(root, f"ses-HFC_acq-{way}_T1w")
    found = find_low(root, session_label=("HFC",), contrast=("T1w",))
    assert told(found) == {"sub-HYPE00_ses-HFC_T1w": ["cor", "sag"]}
    (problem,) = found.problems
    assert problem.path.name == "sub-HYPE00_ses-HFC_acq-axi_T1w.nii.gz"
    assert "datalad get" in problem.message


def test_without_field_strength_only_words_make_it_low(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat("01", "a", "T1w"): {}, anat("01", "b", "T1w"): HIGH})
    with pytest.raises(NoMatchError, match=r"assumed to be high field .* take it with --lf"):
        find_low(root)
    found = find_low(root, lf=("ses-a",))
    assert told(found) == {"sub-01_ses-a_T1w": [""]}
    assert any("chosen with --lf" in note for note in found.notes)


@pytest.mark.parametrize("entity", ["acq", "rec"])  # ds006557, UNITY
def test_a_name_that_is_taken_is_not_given_to_the_fused_image(tmp_path: Path, entity: str) -> None:
    images = {anat("01", None, f"{entity}-{way}_T2w"): LOW for way in ("axi", "cor", "sag")}
    root = write(tmp_path / "ds", {**images, anat("01", None, "T2w"): HIGH})
    for _ in range(2):
        found = find_low(root)
        assert list(told(found)) == ["sub-01_acq-mrr_T2w"]
        assert found.sources[0].scan.entities == (("sub", "01"), ("acq", "mrr"))
        annex(root / anat("01", None, "T2w"))
