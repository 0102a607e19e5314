from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from skeletons import (
    CONTRASTS,
    HIGH,
    HYPE,
    LOW,
    anat,
    annex,
    asking,
    ds006557,
    get,
    in_one_session,
    write,
    write_grid,
)

from h2lo_bids.bids.pairs import PairDiscovery, discover_pairs
from h2lo_bids.errors import MissingInputError, NoMatchError, UsageError


def find(root: Path, **options: Any) -> PairDiscovery:
    return discover_pairs(asking(root, **options))


def names(found: PairDiscovery) -> dict[str, list[str]]:
    return {pair.name: [scan.stem for scan in pair.lf] for pair in found.pairs}


def lonely(found: PairDiscovery) -> list[str]:
    return [item.reason for item in found.skipped if not item.path.suffix]


def refused(root: Path, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        find(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_advised(root: Path, **options: object) -> PairDiscovery:
    """Find pairs with the words that a refusal advises."""
    (word,) = re.findall(r"for example with --lf (\S+)", refused(root, **options))
    return find(root, lf=(word,))


SOME = HYPE[:8]


@pytest.fixture(scope="module")
def hype(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Participants of ds006557, with content except for the last two; to be read only."""
    root = ds006557(tmp_path_factory.mktemp("hype") / "ds006557", SOME, mrr=True)
    get(root, *(f"sub-{subject}_" for subject in SOME[:-2]))
    return root


def test_ds006557_without_a_choice_is_ambiguous_and_one_scan_can_be_chosen(hype: Path) -> None:
    message = refused(hype)
    assert message.startswith("sub-HYPE00: 8 low-field T1w scans could be meant (ses-HFC_acq-axi")
    assert "8 subjects affected" in message
    assert "--lf ses=HFC" in message
    message = refused(hype, lf=("ses-HFC",), lf_fusion="none")
    assert '--lf "ses=HFC acq=iso"' in message
    assert "or fuse three with --lf-fusion mrr" in message
    # ses-HFE has no isotropic T2w.
    found = find(hype, lf=("ses-HFE", "acq=iso"), lf_fusion="none", participant_label=("HYPE03",))
    assert names(found) == {"sub-HYPE03_ses-GE_acq-MPRAGE_T1w": ["sub-HYPE03_ses-HFE_acq-iso_T1w"]}
    (reason,) = lonely(found)
    assert reason == "sub-HYPE03: no low-field T2w with ses=HFE acq=iso to go with ses-GE_T2w"


def test_ds006557_three_to_fuse(hype: Path) -> None:
    found = find(hype, lf=("ses-HFC",))
    assert found.pairs == find(hype, lf=("ses-HFC",), lf_fusion="mrr").pairs
    taken = {(pair.subject, pair.contrast) for pair in found.pairs}
    assert taken == {*product(SOME[:-2], CONTRASTS)} - {("HYPE06", "T1w")}
    assert {(pair.fusion, pair.registered) for pair in found.pairs} == {("mrr", False)}
    assert names(found)["sub-HYPE03_ses-GE_acq-MPRAGE_T1w"] == [
        f"sub-HYPE03_ses-HFC_acq-{way}_T1w" for way in ("axi", "cor", "sag")
    ]
    (reason,) = lonely(found)
    assert reason.startswith("sub-HYPE06: no sagittal T1w in ses-HFC (found axial, co")
    # Of those without content, a problem for each scan: a high-field and three low-field ones.
    assert {problem.error.exit_code for problem in found.problems} == {66}
    assert len(found.problems) == 2 * 4 + 4


def test_ds006557_fused_by_others(hype: Path) -> None:
    """Of two participants; `tests/test_docs.py` counts the pairs of all."""
    derivatives = (("mrr", hype / "derivatives" / "ants-mrr"),)
    found = find(hype, derivatives=derivatives, participant_label=("HYPE00", "HYPE06"))
    assert {(pair.fusion, pair.registered) for pair in found.pairs} == {("none", True)}
    (low,) = found.pairs[0].lf
    assert low.uri == "bids:mrr:sub-HYPE00/ses-HFC/sub-HYPE00_ses-HFC_T1w_mrr.nii.gz"
    assert low.path == hype / "derivatives/ants-mrr" / low.relative_path
    assert found.pairs[0].hf.uri.startswith("bids:raw:sub-HYPE00/ses-GE/anat/")
    assert lonely(found) == [
        "sub-HYPE06: no low-field T1w in --derivatives mrr to go with ses-GE_acq-MPRAGE_T1w"
    ]
    some = {"lf": ("ses-HFC",), "participant_label": ("HYPE00",)}
    asked = find(hype, derivatives=derivatives, lf_fusion="mrr", **some)
    assert {pair.registered for pair in asked.pairs} == {False}


def test_proper_derivatives_and_those_of_high_field(hype: Path, tmp_path: Path) -> None:
    prep = {
        anat("HYPE00", "GE", "acq-MPRAGE_desc-preproc_T1w"): None,
        anat("HYPE00", "HFC", "space-T1w_desc-high_T1w"): HIGH,
        anat("HYPE00", "HFC", "space-T1w_desc-fused_T1w"): None,
        anat("HYPE00", "HFC", "space-T1w_desc-other_T1w"): LOW,
    }
    options = {"derivatives": (("prep", write(tmp_path, prep)),), "contrast": ("T1w",)}
    message = refused(hype, **options)
    assert "2 low-field T1w scans could be meant" in message
    assert "--lf desc=fused" in message
    assert "1 subject affected" in message
    low = "sub-HYPE00_ses-HFC_space-T1w_desc-fused_T1w"
    found = find(hype, lf=("desc-fused",), **options)
    assert [scan.stem for pair in found.pairs for scan in pair.lf] == [low]


@pytest.mark.parametrize("words", [(), ("run=",)])
def test_what_fmriprep_made_is_no_low_field_partner(tmp_path, words) -> None:
    ours = {anat("01", "GE", "T1w"): HIGH, anat("01", "HFC", "acq-iso_T1w"): LOW}
    root, prep = write(tmp_path / "ds", ours), tmp_path / "prep"
    enhanced = anat("01", "HFC", "acq-iso_res-model_desc-enhanced_T1w")  # by us
    average = ("desc-preproc_T1w", "space-MNI152NLin2009cAsym_desc-preproc_T1w", "T1w")
    paths = [anat("01", None, rest) for rest in average]  # of all sessions, as fMRIPrep names it
    paths += [anat("01", "HFC", "acq-iso_desc-preproc_T1w"), enhanced]  # and each session's own
    write(prep, dict.fromkeys(paths, '{"SkullStripped": false}'))
    found = find(root, derivatives=(("fmriprep", prep),), lf=words)
    assert names(found) == {"sub-01_ses-GE_T1w": ["sub-01_ses-HFC_acq-iso_T1w"]}
    assert found.pairs[0].lf[0].path.is_relative_to(root)
    reasons = {item.path: item.reason for item in found.skipped}
    assert reasons.pop(prep / enhanced) == "an enhanced image: not low field"
    assert set(reasons) == {prep / path for path in paths[:-1]}
    assert all("--lf" in reason for reason in reasons.values())


def test_two_roots(tmp_path: Path) -> None:
    """High field without sessions, and low field without any field strength, as in Leiden's."""
    images = [*product(("01", "02", "03"), CONTRASTS)]
    high = write(tmp_path / "hf", {anat(sub, None, suffix): {} for sub, suffix in images})
    low = write(tmp_path / "lf", {anat(sub, "1", suffix): None for sub, suffix in images})
    write(high, {anat("01", None, "acq-low_T1w"): LOW})  # neither is taken
    write(low, {anat("01", "1", "acq-high_T1w"): HIGH})
    found = find(high, lf_dir=low)
    assert names(found) == {
        f"sub-{sub}_{suffix}": [f"sub-{sub}_ses-1_{suffix}"] for sub, suffix in images
    }
    (scan,) = found.pairs[0].lf
    assert scan.uri == "bids:lf:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"
    assert scan.path.is_relative_to(low)
    write(low, {anat("03", "2", "T1w"): None})
    message = refused(high, lf_dir=low)
    assert message.startswith("sub-03: 2 low-field T1w scans could be meant (ses-1_T1w, ses-2_T1w)")
    assert "--lf ses=1" in message
    (low / "sub-03").rename(low / "sub-04")
    found = find(high, lf_dir=low)
    assert [reason.split(" to go")[0] for reason in lonely(found)] == [
        f"sub-03: no low-field {suffix} in {low}" for suffix in CONTRASTS
    ]
    with pytest.raises(MissingInputError, match="no such folder"):
        find(high, lf_dir=tmp_path / "absent")


def test_sessions(tmp_path: Path) -> None:
    found = find(in_one_session(tmp_path / "one"))
    assert names(found) == {f"sub-01_acq-3T_{s}": [f"sub-01_acq-64mT_{s}"] for s in CONTRASTS}
    root = in_one_session(tmp_path / "ds", ("1", "2"))
    found = find(root, contrast=("T1w",))
    assert names(found) == {
        f"sub-01_ses-{ses}_acq-3T_T1w": [f"sub-01_ses-{ses}_acq-64mT_T1w"] for ses in "12"
    }
    write(root, {anat("01", "3", "acq-64mT_T1w"): LOW})
    found = find(root, contrast=("T1w",))
    assert {pair.hf.session for pair in found.pairs} == {"1", "2"}
    assert any("lacks a partner" in item.reason for item in found.skipped)
    images = {anat("01", str(ses), "T1w"): HIGH if ses < 3 else LOW for ses in range(1, 5)}
    message = refused(write(tmp_path / "apart", images), hf=("ses=1,2",))
    assert "2 high-field T1w scans could be meant (ses-1_T1w, ses-2_T1w)" in message
    assert "--hf ses=1, or run once per visit, as with --hf ses=1 --lf ses=3, " in message
    assert names(find(tmp_path / "apart", hf=("ses=1",), lf=("ses=3",)))


def test_who_lends_a_mask_does_not_depend_on_what_is_asked_for(tmp_path: Path) -> None:
    root = in_one_session(tmp_path / "d", ("1", "2", "3"))
    (root / anat("01", "2", "acq-64mT_T1w")).unlink()  # no T1w pair, yet a T1w scan
    (root / anat("01", "3", "acq-3T_T1w")).unlink()  # the low-field scan does not count
    t1w, t2w = ([p for p in find(root).pairs if p.contrast == c] for c in CONTRASTS)
    donors = {pair.hf.session: pair.donor and pair.donor.stem for pair in t2w}
    assert donors == {"1": "sub-01_ses-1_acq-3T_T1w", "2": "sub-01_ses-2_acq-3T_T1w", "3": None}
    assert [pair.donor for pair in t1w] == [None]
    only = {"contrast": ("T2w",)}
    assert [*find(root, **only).pairs] == t2w
    # Its mask of --derivatives is a link without content.
    mask = anat("01", "2", "acq-3T_desc-brain_mask")
    only["derivatives"] = (("prep", prep := write(tmp_path / "prep", {mask: None})),)
    annex(prep / mask)
    found = find(root, **only)
    (problem,) = found.problems
    assert "ses-2_acq-3T_T2w" in problem.scan
    assert f"datalad get {prep / mask}" in problem.message
    assert [pair.hf.session for pair in found.pairs] == ["1", "3"]
    # As in the paper, nobody lends a mask, so that none is missed.
    found = find(root, **only, protocol="paper")
    assert [(p.hf.session, p.donor) for p in found.pairs] == [("1", None), ("2", None), ("3", None)]


@pytest.mark.parametrize(
    "runs",  # of each subject, by that which is taken
    [
        ({"": ("", "_run-1", "_run-2"), "_run-1": ("_run-1", "_run-2")}),
        ({"_run-01": ("_run-01", "_run-02"), "_run-1": ("", "_run-1"), "": ("",)}),
    ],
)
def test_the_words_advised_for_one_subject_keep_the_others(tmp_path, runs) -> None:
    images, taken = {}, {}
    for sub, (run, labels) in enumerate(runs.items()):
        images |= {anat(f"{sub}", "LF", f"acq-iso{run}_T1w"): LOW for run in labels}
        images |= {anat(f"{sub}", "HF", "T1w"): HIGH}
        taken[f"sub-{sub}_ses-HF_T1w"] = [f"sub-{sub}_ses-LF_acq-iso{run}_T1w"]
    assert names(as_advised(write(tmp_path / "ds", images))) == taken


@pytest.mark.parametrize(
    ("labels", "again", "given"),
    [
        (("run-1", "run-2", "run-3"), "run-4", ()),
        (("acq-a", "acq-c", "acq-s"), "acq-aFast", ("acq=a,c,s,aFast",)),
        (("acq-a_run-1", "acq-c_run-1", "acq-s_run-1"), "acq-a_run-2", ()),
    ],
)
def test_the_words_advised_for_a_repeated_orientation_keep_the_others(
    tmp_path: Path, labels: tuple[str, ...], again: str, given: tuple[str, ...]
) -> None:
    ways = [(1.6, 1.6, 5.0), (1.6, 5.0, 1.6), (5.0, 1.6, 1.6)]
    root = write(tmp_path / "ds", {anat(sub, "HF", "T2w"): HIGH for sub in "12"})
    scans = [("1", *pair) for pair in zip(labels, ways, strict=True)]
    scans += [("2", *pair) for pair in zip(labels, ways, strict=True)] + [("2", again, ways[0])]
    for sub, label, sides in scans:
        path = anat(sub, "LF", f"{label}_T2w")
        write(root, {path: LOW})
        write_grid(root / path, sides)
    assert names(as_advised(root, lf=given)) == {
        f"sub-{sub}_ses-HF_T2w": [f"sub-{sub}_ses-LF_{label}_T2w" for label in labels]
        for sub in "12"
    }


def test_words_for_low_field_let_no_localizer_pass_for_a_head(tmp_path: Path) -> None:
    images = {anat("1", "HF", f"acq-{acq}_T2w"): HIGH for acq in ("FLAIR", "mrsLocAx", "TSE")}
    images |= {anat("1", "LF", f"acq-{acq}_T2w"): LOW for acq in ("axi", "FLAIR")}
    root = write(tmp_path / "ds", images)
    for words in ((), ("acq-axi",)):
        found = find(root, lf=words)
        assert names(found) == {"sub-1_ses-HF_acq-TSE_T2w": ["sub-1_ses-LF_acq-axi_T2w"]}
    taken = find(root, lf=("acq=FLAIR",))  # --filter is for high-field scans alone
    assert names(taken) == {"sub-1_ses-HF_acq-TSE_T2w": ["sub-1_ses-LF_acq-FLAIR_T2w"]}


def test_unknown_field_strengths_need_words(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat("01", ses, "T1w"): None for ses in ("GE", "HFC")})
    with pytest.raises(NoMatchError, match=r"those without a field strength are chosen with --lf"):
        find(root)
    pair = {"sub-01_ses-GE_T1w": ["sub-01_ses-HFC_T1w"]}
    found = find(root, lf=("ses-HFC",))
    assert names(found) == pair
    assert any("it was chosen with --lf" in note for note in found.notes)
    filters = {"lf_t1w": {"session": "HFC"}, "hf_t1w": {"session": "GE"}}
    assert names(find(root, filters=filters)) == pair


def test_a_scan_without_strength_does_not_pass_for_high_field(tmp_path: Path) -> None:
    images = {anat("01", "A", "T1w"): HIGH, anat("01", "B", "acq-a_T1w"): {}}
    found = find(write(tmp_path / "ds", {**images, anat("01", "B", "acq-b_T1w"): LOW}))
    assert names(found) == {"sub-01_ses-A_T1w": ["sub-01_ses-B_acq-b_T1w"]}
    assert any("no field strength, while other scans have" in i.reason for i in found.skipped)


def test_voxels_win_over_labels(tmp_path: Path) -> None:
    """Slice directions from the header; told apart by hand in the affines."""
    images = {anat("01", "HF", "T1w"): HIGH}
    images |= {anat("01", "LF", f"acq-axi_run-{run}_T1w"): LOW for run in "123"}
    root = write(tmp_path / "ds", images)
    write_grid(root / anat("01", "LF", "acq-axi_run-1_T1w"), (5.0, 1.6, 1.6), turn=True)
    write_grid(root / anat("01", "LF", "acq-axi_run-2_T1w"), (1.6, 1.6, 5.0))
    write_grid(root / anat("01", "LF", "acq-axi_run-3_T1w"), (1.6, 5.0, 1.6))
    for words in ((), ("run=1,2,3",)):
        (pair,) = find(root, lf=words).pairs
        assert [dict(scan.entities)["run"] for scan in pair.lf] == ["2", "3", "1"]
    write_grid(root / anat("01", "LF", "acq-axi_run-1_T1w"), (2.0, 2.0, 2.2))
    (root / anat("01", "LF", "acq-axi_run-3_T1w")).unlink()
    assert "2 low-field T1w scans" in refused(root, lf=("run=*",))
    (pair,) = find(root, lf=("run=2,1",)).pairs
    assert [scan.stem for scan in pair.lf] == ["sub-01_ses-LF_acq-axi_run-2_T1w"]


def test_a_single_scan_is_not_mixed_with_fused_ones(tmp_path: Path) -> None:
    root = ds006557(tmp_path / "ds", HYPE[:2])
    get(root, "sub-")
    for acq in ("cor", "sag", "iso"):
        (root / anat("HYPE01", "HFC", f"acq-{acq}_T1w")).unlink()
    found = find(root, lf=("ses-HFC",), contrast=("T1w",))
    assert list(names(found)) == ["sub-HYPE00_ses-GE_acq-MPRAGE_T1w"]
    (reason,) = lonely(found)
    assert re.search(r"only one \(the axial\) low-field T1w.* --lf-fusion none", reason)
