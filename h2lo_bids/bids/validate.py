"""Whether a dataset is BIDS, as far as it matters here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import InvalidBidsError, MissingInputError
from h2lo_bids.io import read_json
from h2lo_bids.wording import summarise

VALIDATOR = "bids-validator-deno"
SECONDS = 60.0
_EXAMPLE = '{"Name": "My data", "BIDSVersion": "1.10.0"}'
_SKIP = "or pass --skip-bids-validation"
_LEFT_TO_THE_SCAN = {"EMPTY_FILE", "FILE_READ", "JSON_INVALID", "NIFTI_HEADER_UNREADABLE"}
_LEFT_TO_THE_SCAN |= {"SYMLINK_BROKEN", "NIFTI_UNIT", "NIFTI_TOO_SMALL"}
_LEFT_TO_THE_SCAN |= {"MagneticFieldStrength", "ImagingFrequency"}


def read_description(
    bids_dir: Path, *, skip: bool = False, doubt: Callable[[Path, str], None] | None = None
) -> None:
    """Check that a folder is a raw BIDS dataset; `skip` accepts any folder that can be read."""
    if not bids_dir.is_dir():
        raise MissingInputError(f"{bids_dir}: no such folder; give the root of a BIDS dataset")
    if not os.access(bids_dir, os.R_OK | os.X_OK):
        raise MissingInputError(f"{bids_dir}: cannot be read; check its permissions")
    if skip:
        return
    path = bids_dir / "dataset_description.json"
    try:
        content = read_json(path)
    except OSError as error:
        if elsewhere := _elsewhere(bids_dir):
            raise InvalidBidsError(f"{bids_dir}: {elsewhere}") from error
        raise InvalidBidsError(
            f"{path}: missing or unreadable ({error.strerror}); "
            f"write at least {_EXAMPLE} into it, {_SKIP}"
        ) from error
    except ValueError as error:
        raise InvalidBidsError(f"{path}: not valid JSON ({error}); repair it, {_SKIP}") from error
    content = content if isinstance(content, dict) else {}
    version = content.get("BIDSVersion")
    if not isinstance(version, str | int | float) or isinstance(version, bool):
        near = [key for key in content if re.sub(r"\W|_", "", key).lower() == "bidsversion"]
        remedy = f"rename {near[0]}" if near and version is None else f"add it, as in {_EXAMPLE}"
        raise InvalidBidsError(f"{path}: has no BIDSVersion; {remedy}, {_SKIP}")
    if content.get("DatasetType") == "derivative":
        raise InvalidBidsError(
            f"{bids_dir}: is a derivative dataset (DatasetType in {path.name}); "
            "give the raw dataset that it was made from"
        )
    if doubt is not None and not isinstance(version, str):
        doubt(path, f"BIDSVersion is the number {version}; put it in quotes, as BIDS wants a text")


def _elsewhere(folder: Path) -> str | None:
    """Name the folder that was probably meant: the dataset around this one, or inside it."""
    if any(path.is_dir() for path in folder.glob("sub-*")):
        return None
    for parent in list(folder.parents)[:3]:
        if (parent / "dataset_description.json").is_file():
            name = folder.relative_to(parent).parts[0]
            label = name.removeprefix("sub-")
            option = f" with --participant-label {label}" if label != name else ""
            return f"is inside the dataset {parent}; give that as bids_dir{option}"
    with contextlib.suppress(OSError):
        inside = sorted(p.parent for p in folder.glob("[!.]*/dataset_description.json"))
        if inside:
            more = f" (or one of {len(inside) - 1} more)" if len(inside) > 1 else ""
            return f"is no dataset, but holds {inside[0]}{more}; give that as bids_dir"
    return None


def find_validator() -> Path | None:
    """Find ``bids-validator-deno`` on the path or next to the Python in use."""
    found = shutil.which(VALIDATOR) or shutil.which(
        VALIDATOR, path=str(Path(sys.executable).parent)
    )
    return Path(found) if found else None


def run_validator(
    bids_dir: Path, images: Iterable[Path], *, seconds: float = SECONDS
) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Run the official validator on the chosen images' folders, where it is installed.

    A skeleton of ``dataset_description.json``, the sidecars and the chosen
    images' names is validated, so that a large dataset costs no more than its
    chosen part and another subject's error stops nobody. What concerns one
    file's content (broken JSON, empty or unreadable images, a field strength
    in words) is left to the scan itself, so that the other scans are finished.
    """
    program = find_validator()
    if program is None:
        return (), f"{VALIDATOR} is not installed: only names and the description were checked"
    try:
        with tempfile.TemporaryDirectory(prefix="h2lo-validate-") as folder:
            _skeleton(bids_dir, images, Path(folder))
            options = ("--format", "json", "--ignoreWarnings", "--ignoreNiftiHeaders")
            command = [str(program), folder, *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            issues = json.loads(done.stdout)["issues"]["issues"]
    except subprocess.TimeoutExpired:
        return (), f"{VALIDATOR} took more than {seconds:g} s and was given up"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (), f"{VALIDATOR} could not be run ({type(error).__name__}) and was skipped"
    errors = {
        (issue.get("location", "").lstrip("/") or "dataset", _explain(issue))
        for issue in issues
        if issue.get("severity") == "error"
        and not {issue.get("code"), issue.get("subCode")} & _LEFT_TO_THE_SCAN
    }
    return tuple(sorted(errors)), None


def require_valid(
    bids_dir: Path, images: Iterable[Path], *, seconds: float = SECONDS
) -> str | None:
    """Stop when the validator finds errors in the chosen images' part of a dataset."""
    errors, note = run_validator(bids_dir, images, seconds=seconds)
    if errors:
        by_file: dict[str, list[str]] = {}
        for name, what in errors:
            by_file.setdefault(name, []).append(what)
        lines = summarise(
            (Path(name), f"  {name}: {'; '.join(what)}") for name, what in by_file.items()
        )
        raise InvalidBidsError(
            f"{bids_dir}: BIDS errors in {len(by_file)} of the chosen files; "
            f"repair them, {_SKIP}:\n" + "\n".join(lines)
        )
    return note


def _explain(issue: dict[str, Any]) -> str:
    message = (issue.get("issueMessage") or "").partition("Field description:")[0]
    words = (issue.get("code"), issue.get("subCode"), message)
    return " ".join(" ".join(str(word).split()) for word in words if word)


def _skeleton(bids_dir: Path, images: Iterable[Path], folder: Path) -> None:
    """Copy the names and sidecars that concern the images into an empty dataset.

    The images themselves become empty files: their content is not looked at.
    """
    wanted = {bids_dir / name for name in ("dataset_description.json", "README", "README.md")}
    sidecars = Sidecars(bids_dir)
    for image in images:
        place = folder / image.relative_to(bids_dir)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        name = parse_name(image.name)
        wanted.update(sidecars.applicable(image, name) if name else ())
    for path in wanted:
        with contextlib.suppress(OSError):  # absent or unreadable: reported elsewhere
            shutil.copyfile(path, folder / path.relative_to(bids_dir))
    copied = folder / "dataset_description.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = read_json(copied)
        # A number was warned of, and is no reason to stop.
        content["BIDSVersion"] = str(content["BIDSVersion"])
        copied.write_text(json.dumps(content))
