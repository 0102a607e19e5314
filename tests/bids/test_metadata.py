from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from bids import BIDSLayout
from skeletons import anat, annex, name_of, put, write

from h2lo_bids.bids.metadata import Sidecars, field_strength
from h2lo_bids.errors import BadDataError, MissingInputError


def read(root: Path, relative: str) -> dict:
    return Sidecars(root).read(root / relative, name_of(Path(relative).name))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with a sidecar on every level that inheritance knows."""
    root = write(
        tmp_path / "ds",
        {
            anat("01", "A", "acq-x_run-1_T1w"): {"EchoTime": 5},
            anat("01", "A", "T2w"): None,
            anat("02", "A", "acq-x_T1w"): None,
        },
    )
    put(root / "T1w.json", {"Manufacturer": "root", "RepetitionTime": 1, "EchoTime": 1})
    put(root / "acq-x_T1w.json", {"RepetitionTime": 2, "FlipAngle": 2})
    put(root / "acq-y_T1w.json", {"FlipAngle": 99})
    put(root / "sub-01" / "sub-01_T1w.json", {"FlipAngle": 3, "InversionTime": 3})
    put(root / "sub-01" / "ses-A" / "sub-01_ses-A_T1w.json", {"InversionTime": 4})
    put(root / "sub-01" / "ses-A" / "sub-01_ses-B_T1w.json", {"InversionTime": 98})
    return root


def test_nearer_and_more_specific_wins(root: Path) -> None:
    sibling = {"FlipAngle": 97, "ImagingFrequency": 127.7}  # of another image in this folder
    put(root / anat("01", "A", "acq-x_T1w", ".json"), sibling)
    assert read(root, anat("01", "A", "acq-x_run-1_T1w")) == {
        "Manufacturer": "root",
        "RepetitionTime": 2,
        "FlipAngle": 3,
        "InversionTime": 4,
        "EchoTime": 5,
    }


def test_agrees_with_pybids(root: Path) -> None:
    # PyBIDS's order within one folder is not defined, so one file per folder here.
    (root / "acq-x_T1w.json").unlink()
    layout = BIDSLayout(root, validate=False)
    files = layout.get(suffix=["T1w", "T2w"], extension=".nii.gz")
    assert len(files) == 3
    for file in files:
        assert read(root, str(Path(file.path).relative_to(root))) == file.get_metadata()


def test_broken_sidecars_matter_where_they_apply_and_a_byte_order_mark_does_not(root, refused):
    put(root / "acq-y_T1w.json", "{broken")
    put(root / "task-x_bold.json", "{broken")
    (root / "T1w.json").write_bytes(b'\xef\xbb\xbf{"Manufacturer": "bom"}')
    image = anat("01", "A", "acq-x_run-1_T1w")
    assert read(root, image)["Manufacturer"] == "bom"
    put(root / "T1w.json", "{broken")
    assert re.search(r"T1w\.json.*repair", refused(BadDataError, read, root, image))
    put(root / "T1w.json", "{}")
    annex(root / image.replace(".nii.gz", ".json"))
    assert "datalad get" in refused(MissingInputError, read, root, image)


GE = {"Manufacturer": "GE MEDICAL SYSTEMS"}
FIELDS = {3: 3.0, "64 mT": 0.064, "0,064": 0.064, 64: 0.064, 3000: 3.0, 15000: 1.5, 0.006: 0.064}
FREQUENCIES = {2.703: 0.0635, "123.25": 2.8948, 2703000.0: 0.0635}  # 42.577 MHz/T


def test_fields_and_frequencies_in_any_unit_are_tesla() -> None:
    both = {"MagneticFieldStrength": 0.006, "ImagingFrequency": 2.703}
    sodium = {"MagneticFieldStrength": 7, "ImagingFrequency": 78.6, "ImagedNucleus": "23Na"}
    for metadata, tesla in (
        *(({"MagneticFieldStrength": stated}, tesla) for stated, tesla in FIELDS.items()),
        *(({"ImagingFrequency": stated}, tesla) for stated, tesla in FREQUENCIES.items()),
        ({"MagneticFieldStrength": [3, 3]}, 3.0), (both, 0.0635), (sodium, 7.0),
    ):  # fmt: skip
        found = field_strength({**GE, **metadata})
        assert found.tesla == pytest.approx(tesla, abs=1e-4), metadata
        source = "MagneticFieldStrength" if metadata is sodium else [*metadata][-1]
        assert (found.source, found.warning) == (source, None)


def test_nothing_means_high_field_with_a_warning() -> None:
    for value in (None, "", [], "n/a"):
        found = field_strength({**GE, "MagneticFieldStrength": value})
        assert (found.tesla, found.source) == (None, "assumed")
        assert "assumed to be high field" in (found.warning or "")


@pytest.mark.parametrize("value", ["ultra-low", 0, -3, [3, 1.5], True, math.inf, "0,0,6", 1e9])
def test_what_cannot_be_read_is_quoted_and_never_called_absent(value, refused):
    fields = {"MagneticFieldStrength": 3, "ImagingFrequency": 127}
    for key in fields:
        for labels in ([], ["LF"]):
            told = refused(BadDataError, field_strength, {**GE, key: value}, labels)
            assert f"{key} reads {value!r}" in told
        found = field_strength({**GE, **fields, key: value})
        assert found.tesla == pytest.approx(3, abs=0.1)
        for name in (f"{key} reads {value!r}", *({*fields} - {key})):
            assert name in (found.warning or "")


def test_a_swoop_is_low_field_whatever_is_missing() -> None:
    for metadata in (
        {"ManufacturersModelName": "Swoop"},
        {"ManufacturersModelName": "pMRI 64 mT"},
        {"Manufacturer": "HYPERFINE, Inc.", "MagneticFieldStrength": 0},
    ):
        found = field_strength(metadata)
        assert (found.tesla, found.source) == (0.064, "Manufacturer")
        assert found.note or found.warning


LOW_LABELS = "LF ULF 64mT 047mT lowfield Swoop LF02 baselineLF LFbaseline LF1month 64mTpre"
LOW_LABELS += " Hyperfine24mo swoopV1 0064T 0p064T LFaxial 64mTaxi hyperfineAXI lowfieldIso T1LF"
HIGH_LABELS = "HF GE MPRAGE 01 HFC flair wolf 3T HALF LFOV halfFOV WOLFpack self 3000mT 2MT 15T"


def test_labels_tell_when_nothing_else_does() -> None:
    for label in LOW_LABELS.split():
        found = field_strength({}, [label])
        assert (found.source, found.tesla < 1) == ("label", True), label
        trusted = field_strength({"MagneticFieldStrength": 3}, [label])
        assert trusted.tesla == 3
        for quoted in (repr(label), "MagneticFieldStrength reads 3"):
            assert quoted in (trusted.warning or "")
    for label in HIGH_LABELS.split():
        assert field_strength({}, [label]).tesla is None, label
        assert field_strength({"MagneticFieldStrength": 3}, [label]).warning is None


@pytest.mark.parametrize(
    ("metadata", "label", "tesla", "quoted"),
    [
        ({"MagneticFieldStrength": 3, "ImagingFrequency": 2.7}, "x", 0.0634, "Field.*3.*Freq.*2.7"),
        ({"MagneticFieldStrength": 3, "ImagingFrequency": 63.9}, "x", 1.5008, "Field.*3.*63.9"),
        ({"Manufacturer": "Hyperfine", "ImagingFrequency": 127.7}, "x", 2.9993, "Hyperf.*127.7"),
        ({"Manufacturer": "Hyperfine", "MagneticFieldStrength": 3}, "x", 0.064, "Field.*3.*Hyperf"),
        ({"MagneticFieldStrength": 0.064}, "3T", 0.064, "3T.*0.064"),
        ({"ImagingFrequency": 2.703}, "acq15T", 0.0635, "15T.*2.703"),
    ],
)
def test_contradictions_quote_both(metadata: dict, label: str, tesla: float, quoted: str) -> None:
    found = field_strength(metadata, [label])
    assert found.tesla == pytest.approx(tesla, abs=1e-4)
    assert re.search(quoted, found.warning or "")
    assert found.note is None
