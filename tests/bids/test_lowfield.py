"""Which low-field scans are enhanced, together or alone, and what the result is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from skeletons import HIGH, LOW, anat, annex, ds006557, find_low, get, reasons, write

from h2lo_bids.bids.discover import Discovery
from h2lo_bids.errors import NoMatchError


def told(found: Discovery) -> dict[str, list[str]]:
    """Return by the outputs' stem the words that tell the scans apart."""
    return {
        source.scan.stem: [dict(part.entities).get("acq", "") for part in source.parts]
        for source in found.sources
    }


def test_ds006557_fuses_the_three_orientations_of_each_session(tmp_path: Path) -> None:
    root = ds006557(tmp_path / "ds")
    get(root, "")
    found = find_low(root, participant_label=("HYPE00",))
    three = ["axi", "cor", "sag"]
    visits = [f"sub-HYPE00_ses-{visit}" for visit in ("HFC", "HFE")]
    assert told(found) == {f"{v}_{suffix}": three for v in visits for suffix in ("T1w", "T2w")}
    assert {source.fusion for source in found.sources} == {"mrr"}
    assert "high field (3.0009 T by Imag" in reasons(found)["sub-HYPE00_ses-GE_T2w.nii.gz"]
    # A run's account goes by scans, each under its own path and the outputs' name.
    first = found.scans[0]
    assert first.stem == "sub-HYPE00_ses-HFC_T1w"
    assert first.relative_path.endswith("sub-HYPE00_ses-HFC_acq-axi_T1w.nii.gz")
    # HYPE06 lacks the sagittal T1w of HFC: one scan is taken, the isotropic one.
    other = told(find_low(root, participant_label=("HYPE06",), contrast=("T1w",)))
    assert other == {
        "sub-HYPE06_ses-HFC_acq-iso_T1w": ["iso"],
        "sub-HYPE06_ses-HFE_T1w": three,
    }


def test_fusion_words_and_all_scans_decide(tmp_path: Path) -> None:
    root = ds006557(tmp_path / "ds", ("HYPE00",))
    get(root, "")
    some = {"session_label": ("HFC",), "contrast": ("T1w",)}
    assert told(find_low(root, lf_fusion="none", **some)) == {
        "sub-HYPE00_ses-HFC_acq-iso_T1w": ["iso"]
    }
    assert told(find_low(root, lf=("acq-cor",), **some)) == {
        "sub-HYPE00_ses-HFC_acq-cor_T1w": ["cor"]
    }
    each = told(find_low(root, all_scans=True, **some))
    assert sorted(each.values()) == [["axi"], ["cor"], ["iso"], ["sag"]]
    with pytest.raises(NoMatchError, match=r"not three orthogonal scans to fuse \(found coronal\)"):
        find_low(root, lf_fusion="mrr", lf=("acq-cor",), **some)


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
