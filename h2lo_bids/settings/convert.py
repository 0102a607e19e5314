"""From the words of a command line to values.

Each function raises `argparse.ArgumentTypeError` with what was expected.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import MissingInputError
from h2lo_bids.io import read_text
from h2lo_bids.vocabulary import CONTRASTS

STARTS = EMBEDDED, NONE = "embedded", "none"
"""Words of ``--init`` that are no path."""
MOST = 10**9
"""The largest whole number that makes sense where nothing else is said."""
_SPACE = r"(?!.*:res.*:res|.*:coh.*:coh)[A-Za-z0-9]+(:res(olution)?-[0-9]+|:cohort-[A-Za-z0-9]+)*"


def _match(pattern: str, text: str, meant: str) -> re.Match[str]:
    """Return how a text has a form, or raise what was expected."""
    if found := re.fullmatch(pattern, text, re.DOTALL):
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is not {meant}")


def path(text: str) -> Path:
    """Return an absolute path, as the user knows it: links are not resolved."""
    if not text:
        raise argparse.ArgumentTypeError("a path cannot be empty")
    try:
        found = Path(text).expanduser().absolute()
        str(found).encode()  # it has to stand in JSON, TOML and HTML
        # A container has the folder alone, not those through which ../ leads to it.
        plain = Path(os.path.normpath(found))
        if ".." in found.parts and plain.resolve() == found.resolve():
            found = plain
    except (RuntimeError, FileNotFoundError) as err:
        raise argparse.ArgumentTypeError(
            f"{text}: there is no home folder, or the current one was deleted; give a full path"
        ) from err
    except UnicodeEncodeError as err:
        raise argparse.ArgumentTypeError(
            f"{text!a}: is not valid UTF-8; use a UTF-8 locale, or a link with an ASCII name"
        ) from err
    return found


place = functools.partial(path)
"""Reads the path of what need not be there yet; another reader, which `Settings.inputs` skips."""


def label(text: str, prefix: str = "ses") -> str:
    """Read a BIDS label, of a session or with another prefix, and drop the prefix."""
    return _match(rf"(?:{prefix}-)?([A-Za-z0-9+]+)", text, "a label of letters and digits")[1]


def participants(text: str) -> list[str]:
    """Read a label, or with ``@FILE`` one from the first column of each line of a file."""
    if not text.startswith("@"):
        # Unlike pathlib's, this one takes a list of labels that is too long for a name for none.
        plain = text.removeprefix("sub-").replace("+", "").isalnum()
        if not plain and os.path.isfile(text):  # noqa: PTH113
            raise argparse.ArgumentTypeError(f"{text} is a file; write @{text} to read it")
        return [label(text, "sub")]
    file = path(text[1:])
    try:
        rows = [re.split(r"[\s,]", line.strip())[0] for line in read_text(file).splitlines()]
    except OSError as err:
        raise MissingInputError(f"--participant-label {text}: {err.strerror}; check it") from err
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{file}: is not a text file: {err}") from err
    if rows[:1] in (["participant_id"], ["sub_id"]):  # of a participants.tsv, of BABS
        rows = rows[1:]
    labels = [label(row, "sub") for row in rows if row and not row.startswith("#")]
    if not labels:
        raise argparse.ArgumentTypeError(f"{file}: names no participant")
    return labels


def named_path(text: str) -> tuple[str, Path]:
    """Read ``NAME=PATH``."""
    found = _match(r"(\w[\w.-]*)=(.+)", text, "NAME=PATH")
    return found[1], path(found[2])


def condition(text: str) -> str:
    """Read a word of a condition; its model's path becomes absolute, as that of `path`."""
    key, _, value = text.partition("=")
    return f"{key}={path(value)}" if key == "model" else text


def external(text: str) -> tuple[str, str]:
    """Read ``NAME=COMMAND``; the name becomes a folder."""
    found = _match(r"(\w[\w.+-]*)=(.*\S.*)", text, "NAME='program {input} {output}'")
    return found[1], found[2]


def model(text: str) -> tuple[str, Path]:
    """Read ``[T1w=|T2w=]PATH``; without a contrast the name is empty."""
    for contrast in CONTRASTS:
        if text.startswith(f"{contrast}="):
            return contrast, path(text.removeprefix(f"{contrast}="))
    return "", path(text)


def reference(text: str) -> tuple[str, Path]:
    """Read ``[T1w=|T2w=]IMAGE``; without a contrast the file's name says it."""
    contrast, image = model(text)
    meant = "named _T1w.nii.gz or _T2w.nii.gz; write T1w=IMAGE or T2w=IMAGE"
    if not contrast:
        contrast = _match(r".*_(T[12])w?\.nii(\.gz)?", image.name, meant)[1] + "w"
    return contrast, image


def start(text: str) -> tuple[str, str | Path]:
    """Read ``[T1w=|T2w=]embedded``, ``none`` or a path; without a contrast the name is empty."""
    contrast, found = model(text)
    word = text.removeprefix(f"{contrast}=")
    return contrast, word if word in STARTS else found


@dataclass(frozen=True)
class number:  # noqa: N801 - used like the functions here
    """A reader of numbers that are neither too small nor beyond all sense."""

    least: float
    most: float = MOST
    kind: type[int] | type[float] = float

    def __call__(self, text: str) -> float:
        """Read one."""
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.least <= value <= self.most:
            what = "a whole number" if self.kind is int else "a number"
            bounds = f"from {self.least:.10g} to {self.most:.10g}"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what} {bounds}")
        return value


integer = functools.partial(number, kind=int)


def entities(text: str) -> list[str]:
    """Check words such as ``ses-GE`` or ``acq=axi,cor``, one or several in a string."""
    words = text.split()
    for word in words or [""]:
        _match(r"[A-Za-z]+(-.+|=.*)", word, "like ses-GE or acq=axi,cor,sag")
    return words


def folds(text: str) -> str:
    """Read a number of folds, the name of known ones, or the path of a table."""
    if re.fullmatch(r"\d+", text):
        return str(int(text))
    return text if text == "ds006557" else str(path(text))


def memory(text: str) -> float:
    """Read an amount of memory in GB; thousands without a unit are the MB of other programs."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or float(match.group(1)) == 0 or re.fullmatch(r"\d{4,}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory such as 8 or 8000M")
    power = {"k": -2, "m": -1, "g": 0, "": 0, "t": 1}[match.group(2)]
    return float(match.group(1)) * 1000.0**power


def device(text: str) -> str:
    """Check the name of a device."""
    return _match(r"auto|cpu|cuda(:\d+)?", text, "auto, cpu, cuda or cuda:NUMBER")[0]


def grid(text: str) -> tuple[float, float, float]:
    """Read three voxel sides in mm."""
    try:
        # As many digits as the label of the grid has.
        x, y, z = (float(f"{float(side):g}") for side in text.lower().split("x"))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r} is not XxYxZ in mm, as 1.6x1.6x5") from err
    if not all(0.1 <= side <= 20 for side in (x, y, z)):
        raise argparse.ArgumentTypeError(f"{text!r}: voxel sides go from 0.1 to 20 mm")
    return x, y, z


def space(text: str) -> str:
    """Check the form of an output space: ``NAME[:res-N][:cohort-C]``."""
    return _match(_SPACE, text, "a space such as native or MNI152NLin2009cAsym:res-1")[0]
