"""Sidecars of one image, by BIDS inheritance, read only when asked for."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from h2lo_bids.bids.names import Name, parse_name
from h2lo_bids.errors import BadDataError
from h2lo_bids.io import check_content, read_json


class Sidecars:
    """Reads the JSON that applies to images of one dataset by BIDS inheritance, each file once."""

    def __init__(self, root: Path) -> None:
        self._root, self._named, self._content = root, cache(_named), cache(read_sidecar)

    def read(self, image: Path, name: Name) -> dict[str, Any]:
        """Merge the sidecars of an image."""
        merged: dict[str, Any] = {}
        for path in self.applicable(image, name):
            merged |= self._content(path)
        return merged

    def applicable(self, image: Path, name: Name) -> list[Path]:
        """List the sidecars of an image, from the root down, the more specific of a folder last."""
        # Its own stands alone in its folder, as for the validator: another's is of another scan.
        entities, parts = set(name.entities), image.parent.relative_to(self._root).parts
        found = []
        for depth in range(len(parts) + 1):
            here = [
                (len(json_name.entities), path)
                for path, json_name in self._named(self._root.joinpath(*parts[:depth]))
                if json_name.suffix == name.suffix and set(json_name.entities) <= entities
            ]
            own = [path for count, path in here if count == len(entities)]
            found += own or [path for _, path in sorted(here)]
        return found


def _named(folder: Path) -> list[tuple[Path, Name]]:
    names = (name for name in os.listdir(folder) if name.endswith(".json"))  # noqa: PTH208
    parsed = ((folder / name, parse_name(name)) for name in names)
    return [(path, name) for path, name in parsed if name is not None]


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read one sidecar alone, or raise an error that names it."""
    check_content(path)
    try:
        content = read_json(path)
    except ValueError as error:
        raise BadDataError(f"{path}: the sidecar is not valid JSON ({error}); repair it") from error
    if not isinstance(content, dict):
        raise BadDataError(f"{path}: the sidecar is not a JSON object; repair it")
    return content


PROTON_MHZ_PER_TESLA = 42.577
LOW_FIELD_BELOW = 1.0
SWOOP_TESLA = 0.064

_PLAUSIBLE = (0.01, 15.0)
_VENDOR_ERROR = (0.005, 0.01)
_UNITS = {"t": 1.0, "tesla": 1.0, "mt": 1e-3, "millitesla": 1e-3, "g": 1e-4, "gauss": 1e-4}
_UNITS |= {"": 1.0, "mhz": 1.0, "hz": 1e-6, "khz": 1e-3}
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")
_NOTHING: tuple[object, ...] = (None, "", [], {}, "n/a")
_LOW_WORD = re.compile(r"hyperfine|swoop|lowfield|ultralow", re.IGNORECASE)
_LOW_LETTERS = re.compile(
    r"(?i:^u?lf(?!ov))|(?<![A-Z])U?LF(?![A-Z]|ov)|0p0\d+T|(?<!\d)00\d+T(?!\d)"
)
"""LF before, after or within other words, but not in LFOV or HALF; 0.064 T without its point."""
_MILLITESLA = re.compile(r"(?<!\d)0*([1-9]\d{1,2})(?:mT|(?<=4[5-9]|5\d|6\d)(?i:mt))")
_HIGH = re.compile(r"(?<![\dp])(1p5|15|3|7)T(?![\da-z])")


@dataclass(frozen=True)
class FieldStrength:
    """Field strength of a scan."""

    tesla: float | None  # None when nothing gives it; taken as high field then
    source: str  # a key of the sidecar, "Manufacturer", "label" or "assumed"
    note: str | None = None  # what was corrected or derived
    warning: str | None = None  # what contradicts it, or that it was assumed


def field_strength(metadata: Mapping[str, Any], labels: Iterable[str] = ()) -> FieldStrength:
    """Find the field strength of a scan by what is trusted most, and warn of what differs."""
    # That is the proton's frequency, a field below 1 T, a Swoop's name, another field, a label;
    # without any it is high.
    found = (_from_frequency(metadata), _from_field(metadata), _from_name(metadata))
    unreadable = [quote for quote in found if isinstance(quote, str)]
    claims = [claim for claim in found if isinstance(claim, _Claim)]
    claims.sort(key=lambda c: c.source == "MagneticFieldStrength" and c.tesla >= LOW_FIELD_BELOW)
    if len(claims) > 1 and claims[1].exact and claims[1].note and not _contradicts(*claims[:2]):
        note = f"{claims[1].quote}, but {claims[0].quote}, which is used"
        claims[0] = replace(claims[0], note=note)
    labelled = (_from_label(label, compared=bool(claims)) for label in labels)
    claims += [claim for claim in labelled if claim]
    if unreadable and (not claims or claims[0].source == "label"):
        raise BadDataError(
            f"{' and '.join(unreadable)}, which is no field strength; "
            "write the number of tesla as MagneticFieldStrength into its sidecar"
        )
    if not claims:
        text = "no field strength in the sidecar: assumed to be high field (1 T or more)"
        return FieldStrength(None, "assumed", warning=text)
    best, *others = claims
    against = [other.quote for other in others if _contradicts(best, other)] + unreadable
    warning = None
    if against:
        warning = f"{' and '.join(against)}, but {best.quote}: taken as {best.tesla:.3g} T"
    return FieldStrength(round(best.tesla, 4), best.source, None if warning else best.note, warning)


@dataclass(frozen=True)
class _Claim:
    """What one source says; ``quote`` as it is there, ``exact`` if it is a measured number."""

    tesla: float
    source: str
    quote: str
    note: str | None = None
    exact: bool = True


def _contradicts(best: _Claim, other: _Claim) -> bool:
    if (best.tesla < LOW_FIELD_BELOW) != (other.tesla < LOW_FIELD_BELOW):
        return True
    return best.exact and other.exact and abs(best.tesla - other.tesla) > 0.1 * best.tesla


def _from_label(label: str, *, compared: bool) -> _Claim | None:
    """Read LF, 64mT and the like; 3T only where it is to be compared with something."""
    thousandths, strong = _MILLITESLA.search(label), _HIGH.search(label) if compared else None
    if thousandths:
        tesla = int(thousandths[1]) * 1e-3
    elif _LOW_WORD.search(label) or _LOW_LETTERS.search(label):
        tesla = SWOOP_TESLA
    elif strong:
        tesla = 1.5 if strong[1] in ("1p5", "15") else float(strong[1])
    else:
        return None
    kind = "low" if tesla < LOW_FIELD_BELOW else "high"
    quote = f"the label {label!r} means {kind} field"
    note = f"no field strength in the sidecar; {quote}: taken as {tesla:g} T"
    return _Claim(tesla, "label", quote, note, exact=False)


def _from_name(metadata: Mapping[str, Any]) -> _Claim | None:
    """Read the names of scanner and maker, if one is a Swoop's."""
    for key in ("Manufacturer", "ManufacturersModelName", "DeviceName"):
        name = str(metadata.get(key))
        if re.search(r"hyperfine|swoop|\b6[345] ?mT\b", name, re.IGNORECASE):
            quote = f"{key} reads {reprlib.repr(name)}"
            note = f"{quote}, without a plausible field strength: taken as {SWOOP_TESLA} T"
            return _Claim(SWOOP_TESLA, "Manufacturer", quote, note, exact=False)
    return None


def _from_frequency(metadata: Mapping[str, Any]) -> _Claim | str | None:
    """Read ``ImagingFrequency``; the quote alone if it makes no sense, None if it is absent."""
    stated = metadata.get("ImagingFrequency")
    nucleus = str(metadata.get("ImagedNucleus") or metadata.get("ResonantNucleus") or "1H").upper()
    if stated in _NOTHING or not ("1H" in nucleus or nucleus == "H1"):
        return None
    number, unit = _number(stated)
    if not unit and number > 1e4:  # a frequency in Hz, whatever BIDS says
        number *= 1e-6
    tesla, quote = number / PROTON_MHZ_PER_TESLA, f"ImagingFrequency reads {reprlib.repr(stated)}"
    if not _PLAUSIBLE[0] <= tesla <= _PLAUSIBLE[1]:
        return quote
    return _Claim(tesla, "ImagingFrequency", f"{quote}, which means {tesla:.3g} T")


def _from_field(metadata: Mapping[str, Any]) -> _Claim | str | None:
    """Read ``MagneticFieldStrength`` as `_from_frequency` does."""
    stated: object = metadata.get("MagneticFieldStrength")
    if stated in _NOTHING:
        return None
    number, unit = _number(stated)
    quote, tesla = f"MagneticFieldStrength reads {reprlib.repr(stated)}", number
    if not unit and number > _PLAUSIBLE[1]:  # no magnet: another unit
        tesla = number * (1e-3 if number <= 12000 else 1e-4)
    if _VENDOR_ERROR[0] <= tesla < _VENDOR_ERROR[1]:
        note = f"{quote}, a known vendor error for {SWOOP_TESLA} T"
        return _Claim(SWOOP_TESLA, "MagneticFieldStrength", quote, note)
    if not _PLAUSIBLE[0] <= tesla <= _PLAUSIBLE[1]:
        return quote
    odd = not math.isclose(tesla, number) or unit or "," in str(stated)
    text = f"{quote}: taken as {tesla:.4g} T"
    return _Claim(tesla, "MagneticFieldStrength", quote, text if odd else None)


def _number(value: object) -> tuple[float, str]:
    """Read a positive finite number and its unit, scaled to tesla or MHz; 0 if it is none."""
    if isinstance(value, list):
        value = value[0] if all(item == value[0] for item in value) else None
    text = str(value)
    match = _NUMBER.fullmatch(text.replace(",", ".") if text.count(",") == 1 else text)
    unit = match[2].lower() if match else ""
    number = float(match[1]) * _UNITS.get(unit, 0.0) if match else 0.0
    return (number, unit) if 0 < number < math.inf else (0.0, "")
