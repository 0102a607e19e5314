"""What a search passes over is named, with the nearest right thing, and counts."""

from __future__ import annotations

from pathlib import Path

from skeletons import HIGH, LOW, anat, asking, find, find_low, put, reasons, write

from h2lo_bids.bids.index import ignored, list_subjects
from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.errors import NoMatchError


def problems(found: object) -> list[tuple[str, int]]:
    return [(p.message, p.error.exit_code) for p in found.problems]  # type: ignore[attr-defined]


def test_folders_that_look_like_participants_are_one_problem(tmp_path: Path) -> None:
    meant = {"sub_02": "sub-02", "SUBJ A_3": "sub-A3", "HC12": "sub-HC12"}
    folders = (*(f"{name}/ses-1" for name in meant), "derivatives/x", "subcortical/x")
    images = {f"{folder}/anat/x_T1w.nii.gz": None for folder in folders}
    root = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH, **images})
    found = find(root)
    assert [scan.subject for scan in found.scans] == ["01"]
    ((message, code),) = problems(found)
    assert code == 16
    assert "3 entries are no folders" in message
    assert all(f"{name} (did you mean {right}?)" in message for name, right in meant.items())
    assert message.count(str(root)) == 1


def test_links_and_paths_beside_participants_are_problems(tmp_path: Path, refused) -> None:
    images = {anat("01", None, "T1w"): HIGH, "sub_02/anat/x_T1w.nii.gz": None}
    root = write(tmp_path / "ds", images)
    (root / "sub-99").symlink_to("nowhere")
    (root / "sub-02\\anat\\sub-02_T1w.nii.gz").touch()
    (root / "sub-98").symlink_to("x" * 300)  # to look fails, as with a link into a closed folder
    assert list_subjects(root) == ("01",)
    (root / "sub-98").unlink()
    ((message, _),) = problems(find(root))
    assert ": 3 entries are no folders sub-<label>" in message
    assert "sub-99 (a file or a link to nothing)" in message
    assert "sub-02\\anat\\sub-02_T1w.nii.gz (a path of Windows; unpack it again)" in message
    (root / "sub-01").rename(tmp_path / "gone")
    assert "did you mean sub-02" in refused(NoMatchError, find, root)


def test_participants_without_folder_or_row(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat(f"{n:02d}", None, "T1w"): HIGH for n in range(1, 9)})
    rows = ["participant_id", "sub-1", *(f"sub-{n:02d}" for n in range(2, 5)), "sub-77"]
    put(root / "participants.tsv", "\n".join(rows) + "\n")
    lacking, extra = find(root).warnings
    assert "2 rows without a folder: sub-1 (did you mean sub-01?), sub-77" in lacking
    assert "5 folders of participants without a row: sub-01, sub-05, sub-06 and 2 more" in extra
    assert not find(root, participant_label=("02",)).warnings
    put(root / "participants.tsv", "subject,age\n01,30\n")
    assert "no column participant_id" in find(root).warnings[0]


NEAR = {
    "anat/SUB_T1w.NII.GZ": "rename it to SUB_T1w.nii.gz",
    "anat/SUB_T1w.mgz": "convert it to SUB_T1w.nii.gz",
    "anat/SUB_T1w.nii.gz.part": "not a whole NIfTI file",
    "anat/SUB_T1w.nii.bz2": "unpack SUB_T1w.nii.gz",
    "SUB_T1w.nii.gz": "lies outside anat",
    "Anat/SUB_T1w.nii.gz": "did you mean anat?",
    "ses_A/anat/SUB_T1w.nii.gz": "did you mean ses-A?",
    "Session01/anat/SUB_T1w.nii.gz": "did you mean ses-01?",
    "anat/SUB_T1W.nii.gz": "rename it to SUB_T1w.nii.gz",
    "anat/SUB_run-1_acq-x_T1w.nii.gz": "rename it to SUB_acq-x_run-1_T1w.nii.gz",
    "anat/SUB_T1wRMS.nii.gz": "rename it to SUB_T1w.nii.gz",
    "anat/SUB_T1w1.nii.gz": "rename it to SUB_T1w.nii.gz, with run-<index>",
    "anat/SUB_acq-x_T2wa.nii": "rename it to SUB_acq-x_T2w.nii, with run-<index>",
    "anat/SUB-T1w.nii.gz": "sub-<label>",
    "anat/T1.nii.gz": "sub-<label>",
    "anat/SUB_acq-0.8mm_T1w.nii.gz": "sub-<label>",
    "anat/SUB_T1w_brain.nii.gz": ".bidsignore if it is no input",
    "anat/sub-99_T1w.nii.gz": "not that of its folder",
    "anat/SUB_ses-1_T1w.nii.gz": "not that of its folder",
}
"""Names of files of a participant, who is called SUB, and what is said of them."""


def test_near_misses_of_images_are_problems_of_their_participants_alone(tmp_path: Path) -> None:
    told = {f"sub-{n:02d}": pair for n, pair in enumerate(NEAR.items(), start=10)}
    names = [f"{sub}/{name.replace('SUB', sub)}" for sub, (name, _) in told.items()]
    root = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH, **dict.fromkeys(names)})
    found = find(root)
    assert [scan.subject for scan in found.scans] == ["01"]
    assert len(found.problems) == len(NEAR)
    for problem in found.problems:
        sub = problem.path.relative_to(root).parts[0]
        assert told.pop(sub)[1].replace("SUB", sub) in problem.message
        assert problem.error.exit_code == 16
        assert problem.message.count(str(root)) == 1
    assert not find(root, participant_label=("01",)).problems
    assert not find(root, skip_bids_validation=True).problems


def test_what_bidsignore_names_is_no_problem(tmp_path: Path) -> None:
    old, again = "sub-01_old/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w__dup-01.nii.gz"
    root = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH, old: None, again: None})
    assert [problem.path.name for problem in find(root).problems] == ["ds", Path(again).name]
    for patterns, left in {
        "# ours\n*__dup-*\nsub-*_old/\n": [],
        "/sub-*_old\n**/*_T1w__dup*\n": [],
        "sub-01_old/\nsub-01/anat\n": [],
        "*__dup-*\n!sub-01_T1w__dup-01.nii.gz\nsub-01_old\n": [again],
        "anat/*__dup-*\n*_old/anat/\n": ["sub-01_old", again],
    }.items():
        put(root / ".bidsignore", patterns)
        assert [p for p in ("sub-01_old", again) if not ignored(root, root / p)] == left, patterns
    put(root / ".bidsignore", "*__dup-*\nsub-*_old/\n")
    found = find(root)
    assert ([scan.stem for scan in found.scans], found.problems) == (["sub-01_T1w"], ())


def test_what_stands_beside_an_image_costs_nothing(tmp_path: Path) -> None:
    beside = ("inv-1_part-mag_MP2RAGE.nii.gz", "acq-x_UNIT1.nii.gz", "T1w.mgz", "T1w.nii.gz.part")
    beside += ("T1w.txt", "T2w.png", "T1map.nii.gz", "T2star.nii.gz", "T2w.nii.json")
    beside += ("seg-x_space-T1w_dseg.nii.gz", "from-T2w_to-T1w_mode-image_xfm.nii.gz")
    beside += ("T2wFLAIR.nii.gz", "T1wGd.nii.gz", "T1wmask.nii.gz")
    names = [anat("01", None, "T1w"), *(f"sub-01/anat/sub-01_{end}" for end in beside)]
    names += ["sub-01/anat/old/sub-01_T1w.nii.gz", "sub-01/anat/._sub-01_T2w.nii.gz"]
    found = find(write(tmp_path / "ds", dict.fromkeys(names)))
    assert not found.problems
    told = reasons(found)
    uniform = told.pop("sub-01_acq-x_UNIT1.nii.gz")
    inversion = told.pop("sub-01_inv-1_part-mag_MP2RAGE.nii.gz")
    assert set(told) == {"sub-01_T1w.mgz", "sub-01_T1w.nii.gz.part", "old"}
    assert "did you mean T1w? To use it, copy it as sub-01_acq-x_T1w.nii.gz" in uniform
    # A T1w of this name would be refused.
    assert "UNIT1" in inversion
    assert "copy" not in inversion


BOTH = {anat(s, "HF", f"acq-{a}"): HIGH for s in "12" for a in ("MPRAGE_T1w", "CUBE_T2w")}


def test_a_filter_for_one_contrast_that_fits_nothing_is_a_problem(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", BOTH)
    for asked, told in (("MPARGE", "did you mean acq=MPRAGE?"), ("FSPGR", "acq=FSPGR")):
        found = find(root, filters={"t1w": {"acquisition": asked}})
        assert {scan.suffix for scan in found.scans} == {"T2w"}
        ((message, code),) = problems(found)
        assert (code, told in message) == (18, True)
        assert "no T1w image matches the filter acq=" in message
    # For both contrasts: that it fits one may be meant, but is told.
    found = find(root, filter=("acq=MPRAGE",))
    assert not found.problems
    assert any("no T2w image matches the filter acq=MPRAGE" in line for line in found.warnings)


def test_selection_words_in_other_case(tmp_path: Path, refused) -> None:
    images = {anat("01", "HF", "T1w"): HIGH, anat("01", "LF", "acq-AXI_T1w"): LOW}
    root = write(tmp_path / "ds", images)
    found = discover_pairs(asking(root, hf=("ses-hf",)))
    ((message, code),) = problems(found)
    assert (code, "did you mean ses=HF?" in message) == (18, True)
    assert "did you mean acq=AXI?" in refused(NoMatchError, find_low, root, lf=("acq-axi",))
    write(root, {anat("01", "LF", "acq-B_T2w"): LOW})
    for words, option in (({"lf": ("acq-B",)}, "--lf"), ({"filter": ("acq=B",)}, "the filter")):
        (line,) = find_low(root, **words).warnings
        assert f"no T1w image matches {option} acq=B" in line


def test_the_second_root_is_compared_too(tmp_path: Path, refused) -> None:
    high = write(tmp_path / "hf", {anat(n, None, "T1w"): HIGH for n in ("1", "2")})
    low = {anat("1", None, "acq-3T_T1w"): LOW, anat("9", None, "T1w"): LOW}
    low |= {"sub_2/anat/sub_2_T1w.nii.gz": LOW}
    found = discover_pairs(asking(high, lf_dir=write(tmp_path / "lf", low)))
    assert [pair.subject for pair in found.pairs] == ["1"]
    for text in ("1 participant not in the first dataset: sub-9", "did you mean sub-2?", "'3T'"):
        (line,) = [line for line in found.warnings if text in line]
        assert line.count(str(tmp_path)) == 1
    other = write(tmp_path / "padded", {anat(n, None, "T1w"): LOW for n in ("01", "02")})
    line = refused(NoMatchError, discover_pairs, asking(high, lf_dir=other))
    assert "2 participants not in the first dataset: sub-01" in line


def test_a_session_in_other_case(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {**BOTH, anat("1", "LF", "T1w"): LOW})
    found = find(root, session_label=("hf", "HF", "HF2"))
    assert len(found.scans) == 4
    # One that is absent may be of another participant of an array.
    assert any("no chosen subject has a session HF2" in line for line in found.warnings)
    ((message, code),) = problems(found)
    assert (code, "did you mean HF?" in message) == (18, True)


def test_queries_for_other_programs_and_a_version_without_quotes_are_told(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", BOTH, description={"Name": "x", "BIDSVersion": 1.8})
    filters = {  # fMRIPrep 25's own filter file has such queries
        "bold": {"datatype": "func", "suffix": "bold", "colour": {"a": 1}},
        "flair": {"datatype": "anat", "suffix": "FLAIR"},
        "t1w": {"datatype": "anat", "extension": "nii.gz", "suffix": "T1w"},
    }
    found = find(root, filters=filters)
    (note,) = [line for line in found.notes if "not used" in line]
    assert ("bold, flair" in note, found.problems, len(found.scans)) == (True, (), 4)
    (warning,) = found.warnings
    assert "BIDSVersion is the number 1.8; put it in quotes" in warning


def test_contradictions_are_warned_of_also_where_a_scan_is_not_used(tmp_path: Path) -> None:
    images = {anat("1", "LF", "acq-64mT_T1w"): HIGH, anat("1", "HF", "acq-3T_T1w"): LOW}
    root = write(tmp_path / "ds", images)
    found = find(root)
    assert [scan.session for scan in found.scans] == ["LF"]
    told = " ".join(found.warnings)
    for quoted in ("'LF'", "'64mT'", "127.77", "'3T'", "2.703"):
        assert quoted in told
    assert len(found.warnings) == 2
    low = find_low(root)
    assert [scan.session for scan in low.scans] == ["HF"]
    assert set(low.warnings) == set(found.warnings)
