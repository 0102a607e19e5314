"""How strong the magnet was, in spite of what sidecars say.

Swoop sidecars in the wild read 0.006 T (ds006557) or nothing; the proton's
frequency, where it is given, tells the truth: 42.577 MHz per tesla.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PROTON_MHZ_PER_TESLA = 42.577
LOW_FIELD_BELOW = 1.0
SWOOP_TESLA = 0.064

_PLAUSIBLE = (0.01, 15.0)
_VENDOR_ERROR = (0.005, 0.01)
_UNITS = {"t": 1.0, "tesla": 1.0, "mt": 1e-3, "g": 1e-4, "gauss": 1e-4}
_UNITS |= {"mhz": 1.0, "hz": 1e-6, "khz": 1e-3}
_NUMBER = re.compile(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")
_LOW_LABEL = re.compile(
    r"(u?lf|(ultra)?lowfield|hyperfine|swoop|0?(4[5-9]|5\d|6\d)mt)(\d*|[a-z]?)", re.IGNORECASE
)


@dataclass(frozen=True)
class FieldStrength:
    """Field strength of a scan.

    Attributes
    ----------
    tesla : float or None
        None when nothing tells; taken as high field then.
    source : str
        ``"ImagingFrequency"``, ``"MagneticFieldStrength"`` or ``"assumed"``.
    note : str or None
        What was corrected or assumed, for the log and the report.
    """

    tesla: float | None
    source: str
    note: str | None = None

    @property
    def low(self) -> bool:
        """Whether the scan is low-field, i.e. below 1 T."""
        return self.tesla is not None and self.tesla < LOW_FIELD_BELOW


def field_strength(metadata: Mapping[str, Any], labels: Iterable[str] = ()) -> FieldStrength:
    """Find the field strength of a scan.

    ``ImagingFrequency`` wins over ``MagneticFieldStrength`` where it is
    plausible. Values may be strings, one-element lists, or in mT, gauss or Hz.
    The vendor's 0.006 T is read as 0.064 T. With neither, a Hyperfine sidecar
    or a session or acquisition label such as ``LF`` means low field;
    everything else is assumed to be high field, with a note.

    Parameters
    ----------
    metadata : mapping
        The sidecar after inheritance.
    labels : iterable of str, optional
        Session and acquisition labels, looked at only when nothing else tells.

    Returns
    -------
    FieldStrength
    """
    by_frequency = _from_frequency(metadata)
    by_field, field_note = _from_field(metadata)
    if by_frequency is not None:
        note = None
        stated = metadata.get("MagneticFieldStrength")
        agrees = by_field is not None and abs(by_field - by_frequency) <= 0.1 * by_frequency
        if stated is not None and not (agrees and by_field == _number(stated)[0]):
            note = (
                f"MagneticFieldStrength reads {reprlib.repr(stated)}, but ImagingFrequency means "
                f"{by_frequency:.3g} T, which is used"
            )
        return FieldStrength(round(by_frequency, 4), "ImagingFrequency", note)
    if _is_swoop(metadata) and (by_field is None or by_field >= LOW_FIELD_BELOW):
        note = f"made by Hyperfine, without a plausible field strength: taken as {SWOOP_TESLA} T"
        return FieldStrength(SWOOP_TESLA, "assumed", note)
    if by_field is not None:
        return FieldStrength(round(by_field, 4), "MagneticFieldStrength", field_note)
    for label in labels:
        if _LOW_LABEL.fullmatch(label):
            note = f"no field strength in the sidecar; the label {label!r} means low field"
            return FieldStrength(SWOOP_TESLA, "assumed", note)
    note = "no field strength in the sidecar: assumed to be high field (1 T or more)"
    return FieldStrength(None, "assumed", note)


def _from_frequency(metadata: Mapping[str, Any]) -> float | None:
    nucleus = str(metadata.get("ImagedNucleus") or metadata.get("ResonantNucleus") or "1H")
    if "1H" not in nucleus.upper() and nucleus.upper() != "H1":
        return None
    number, unit = _number(metadata.get("ImagingFrequency"))
    if number is None:
        return None
    if not unit and number > 1e4:  # a frequency in Hz, whatever BIDS says
        number *= 1e-6
    tesla = number / PROTON_MHZ_PER_TESLA
    return tesla if _PLAUSIBLE[0] <= tesla <= _PLAUSIBLE[1] else None


def _from_field(metadata: Mapping[str, Any]) -> tuple[float | None, str | None]:
    stated = metadata.get("MagneticFieldStrength")
    number, unit = _number(stated)
    if number is None:
        return None, None
    tesla = number
    if not unit and number > _PLAUSIBLE[1]:  # no magnet: another unit
        tesla = number * (1e-3 if number <= 12000 else 1e-4)
    if _VENDOR_ERROR[0] <= tesla < _VENDOR_ERROR[1]:
        shown = reprlib.repr(stated)
        note = f"MagneticFieldStrength reads {shown}, a known vendor error for {SWOOP_TESLA} T"
        return SWOOP_TESLA, note
    if not _PLAUSIBLE[0] <= tesla <= _PLAUSIBLE[1]:
        return None, None
    if not math.isclose(tesla, number) or unit:
        return tesla, f"MagneticFieldStrength reads {reprlib.repr(stated)}: taken as {tesla:.4g} T"
    return tesla, None


def _number(value: object) -> tuple[float | None, str]:
    """Read a positive finite number and its unit, scaled to tesla or MHz."""
    if isinstance(value, list | tuple):
        value = value[0] if value and all(item == value[0] for item in value) else None
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        unit = match[2].lower() if match else ""
        if match is None or unit not in {"", *_UNITS}:
            return None, ""
        try:
            number = float(match[1]) * _UNITS.get(unit, 1.0)
        except ValueError:
            return None, ""
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number, unit = float(value), ""
        except OverflowError:  # JSON's integers have no bound
            return None, ""
    else:
        return None, ""
    return (number, unit) if math.isfinite(number) and number > 0 else (None, "")


def _is_swoop(metadata: Mapping[str, Any]) -> bool:
    keys = ("Manufacturer", "ManufacturersModelName", "DeviceName")
    text = " ".join(str(metadata.get(key, "")) for key in keys).lower()
    return "hyperfine" in text or "swoop" in text
