from __future__ import annotations

import math

import pytest

from h2lo_bids.bids.fieldstrength import field_strength

GE = {"Manufacturer": "GE MEDICAL SYSTEMS"}


@pytest.mark.parametrize(
    ("metadata", "tesla", "source"),
    [
        ({"MagneticFieldStrength": 3}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 1.5}, 1.5, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 0.55}, 0.55, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": "3"}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": "3T"}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": "64 mT"}, 0.064, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 64}, 0.064, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 3000}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 15000}, 1.5, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": [3, 3]}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 0.006}, 0.064, "MagneticFieldStrength"),
        # 2.703 MHz / 42.577 MHz/T
        ({"MagneticFieldStrength": 0.006, "ImagingFrequency": 2.703}, 0.0635, "ImagingFrequency"),
        ({"MagneticFieldStrength": 3, "ImagingFrequency": 127.7}, 2.9993, "ImagingFrequency"),
        ({"ImagingFrequency": "123.25"}, 2.8948, "ImagingFrequency"),
        ({"ImagingFrequency": 2703000.0}, 0.0635, "ImagingFrequency"),
        ({"MagneticFieldStrength": 3, "ImagingFrequency": 0}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 3, "ImagingFrequency": -1}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 3, "ImagingFrequency": math.nan}, 3.0, "MagneticFieldStrength"),
        ({"MagneticFieldStrength": 3, "ImagingFrequency": "fast"}, 3.0, "MagneticFieldStrength"),
        (
            {"MagneticFieldStrength": 7, "ImagingFrequency": 78.6, "ImagedNucleus": "23Na"},
            7.0,
            "MagneticFieldStrength",
        ),
    ],
)
def test_table(metadata: dict, tesla: float, source: str) -> None:
    found = field_strength({**GE, **metadata})
    assert found.tesla == pytest.approx(tesla, abs=1e-4)
    assert found.source == source
    assert found.low == (tesla < 1)


@pytest.mark.parametrize("value", [None, 0, -3, "", "strong", [], [3, 1.5], True, {}, math.inf])
def test_no_sense_means_high_field_with_a_note(value: object) -> None:
    found = field_strength({**GE, "MagneticFieldStrength": value})
    assert found.tesla is None
    assert found.source == "assumed"
    assert not found.low
    assert "assumed" in (found.note or "")


@pytest.mark.parametrize(
    "metadata",
    [
        {"Manufacturer": "Hyperfine, Inc."},
        {"ManufacturersModelName": "Swoop"},
        {"Manufacturer": "HYPERFINE", "MagneticFieldStrength": 0},
        {"Manufacturer": "Hyperfine", "MagneticFieldStrength": 3},
    ],
)
def test_a_swoop_is_low_field_whatever_is_missing(metadata: dict) -> None:
    found = field_strength(metadata)
    assert found.low
    assert found.note


@pytest.mark.parametrize("label", ["LF", "ULF", "64mT", "047mT", "lowfield", "Swoop", "LF02"])
def test_labels_tell_when_nothing_else_does(label: str) -> None:
    assert field_strength({}, [label]).low
    assert not field_strength({"MagneticFieldStrength": 3}, [label]).low


@pytest.mark.parametrize("label", ["HF", "GE", "MPRAGE", "01", "HFC", "flair", "wolf", "3T"])
def test_other_labels_tell_nothing(label: str) -> None:
    assert field_strength({}, [label]).tesla is None


def test_corrections_are_noted_and_agreement_is_not() -> None:
    wrong = field_strength({"MagneticFieldStrength": 0.006, "ImagingFrequency": 2.703})
    assert "0.006" in (wrong.note or "")
    assert field_strength({"MagneticFieldStrength": 3, "ImagingFrequency": 127.7}).note is None
    assert field_strength({"ImagingFrequency": 127.7}).note is None
    assert field_strength({"MagneticFieldStrength": 3, "ImagingFrequency": 2.7}).note
