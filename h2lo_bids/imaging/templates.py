"""Finding template images in a TemplateFlow folder, without a network unless asked.

TemplateFlow's client writes to the home folder when it is imported, stands in for
files that it has not fetched with empty ones, and answers an unknown template with
nothing. The layout of its folder is simple enough to be read directly, so the
client is imported only to fetch what is missing, where the user allows that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import MissingInputError, UsageError

_SPACE = re.compile(r"[A-Za-z0-9]+")
_MODIFIERS = {"res": "res", "resolution": "res", "cohort": "cohort"}


@dataclass(frozen=True)
class OutputSpace:
    """A space that a user asked for, such as ``MNI152NLin2009cAsym:res-1``.

    Parameters
    ----------
    name
        TemplateFlow's name, without ``tpl-``.
    resolution
        TemplateFlow's index of the resolution, or None for its first.
    cohort
        TemplateFlow's cohort, or None.
    """

    name: str
    resolution: int | None = None
    cohort: str | None = None


@dataclass(frozen=True)
class Template:
    """The files of a template at one resolution.

    Parameters
    ----------
    space
        The space, with the resolution that was chosen.
    image
        The head or brain.
    mask
        Its brain mask, where there is one.
    """

    space: OutputSpace
    image: Path
    mask: Path | None = None


def parse_space(text: str) -> OutputSpace:
    """Read ``NAME[:res-N][:cohort-C]``."""
    name, *modifiers = text.strip().split(":")
    values: dict[str, str] = {}
    for modifier in modifiers:
        key, _, value = modifier.partition("-")
        if key not in _MODIFIERS or not _SPACE.fullmatch(value) or _MODIFIERS[key] in values:
            raise UsageError(f"output space {text!r}: {modifier!r} is not res-N or cohort-C")
        values[_MODIFIERS[key]] = value
    if not _SPACE.fullmatch(name) or name.startswith("tpl-"):
        raise UsageError(
            f"output space {text!r}: write it as NAME[:res-N], for example"
            " MNI152NLin2009cAsym:res-1"
        )
    res = values.get("res")
    if res is not None and not res.isdigit():
        raise UsageError(f"output space {text!r}: res-{res} is not TemplateFlow's number, as res-1")
    return OutputSpace(name, None if res is None else int(res), values.get("cohort"))


def templateflow_home() -> Path:
    """Return the folder in which templates are looked for."""
    given = os.environ.get("TEMPLATEFLOW_HOME")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache" / "templateflow"
    except RuntimeError:  # no HOME, and a user id without a name
        return Path("/nonexistent/.cache/templateflow")


def find_template(
    space: str | OutputSpace,
    *,
    suffix: str = "T1w",
    home: str | os.PathLike[str] | None = None,
    fetch: bool = False,
) -> Template:
    """Find a template's image and brain mask.

    Parameters
    ----------
    space
        What `parse_space` reads or returns.
    suffix
        ``"T1w"`` or ``"T2w"``; a template without the latter gives its T1w,
        which mutual information can use.
    home
        TemplateFlow folder, in place of `templateflow_home`.
    fetch
        Fetch what is missing with TemplateFlow's client, over the network.

    Returns
    -------
    Template
        Existing files that are not empty.

    Raises
    ------
    MissingInputError
        If the image is not there or could not be fetched; names the variable
        and the file.
    """
    wanted = parse_space(space) if isinstance(space, str) else space
    root = Path(home) if home is not None else templateflow_home()
    for kind in dict.fromkeys((suffix, "T1w")):
        found = _lookup(root, wanted, kind)
        if found is None and fetch:
            _fetch(root, wanted, kind)
            found = _lookup(root, wanted, kind)
        if found is not None:
            return found
    missing = _file(root, wanted, wanted.resolution or 1, "T1w")
    raise MissingInputError(
        f"{missing}: template not there (or an empty stand-in); set TEMPLATEFLOW_HOME to a"
        " TemplateFlow folder that has it, or give --template-file or --fetch-templates"
    )


def template_from_file(
    image: str | os.PathLike[str],
    name: str,
    *,
    mask: str | os.PathLike[str] | None = None,
) -> Template:
    """Use a user's own image as a template."""
    if not _SPACE.fullmatch(name):
        raise UsageError(f"template name {name!r}: use letters and digits only")
    for file in (image, mask):
        if file is not None and not _has_content(Path(file)):
            raise MissingInputError(f"{file}: no template there; check the path")
    return Template(OutputSpace(name), Path(image), None if mask is None else Path(mask))


def _lookup(root: Path, space: OutputSpace, suffix: str) -> Template | None:
    """Look for an image of exactly this space, and its mask."""
    choices = (
        [space.resolution] if space.resolution is not None else [None, *_resolutions(root, space)]
    )
    for resolution in choices:
        image = _present(root, space, resolution, suffix)
        if image is not None:
            mask = _present(root, space, resolution, "desc-brain_mask")
            return Template(OutputSpace(space.name, resolution, space.cohort), image, mask)
    return None


def _resolutions(root: Path, space: OutputSpace) -> list[int]:
    """Return the resolutions that a template's folder mentions, first to last."""
    folder = _file(root, space, None, "T1w").parent
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError:
        return []
    return sorted({int(n) for name in names for n in re.findall(r"_res-(\d+)_", name)})


def _present(root: Path, space: OutputSpace, resolution: int | None, ending: str) -> Path | None:
    """Return a file that has content, with its resolution written as 01 or as 1."""
    for width in (2, 1):
        file = _file(root, space, resolution, ending, width=width)
        if _has_content(file):
            return file
    return None


def _file(
    root: Path, space: OutputSpace, resolution: int | None, ending: str, *, width: int = 2
) -> Path:
    """Return the path that TemplateFlow's layout gives an image."""
    folder, stem = root / f"tpl-{space.name}", f"tpl-{space.name}"
    if space.cohort is not None:
        folder, stem = folder / f"cohort-{space.cohort}", f"{stem}_cohort-{space.cohort}"
    res = "" if resolution is None else f"_res-{resolution:0{width}d}"
    return folder / f"{stem}{res}_{ending}.nii.gz"


def _has_content(file: Path) -> bool:
    """Tell a file from TemplateFlow's empty stand-in."""
    try:
        return file.is_file() and file.stat().st_size > 0
    except OSError:
        return False


def _fetch(root: Path, space: OutputSpace, suffix: str) -> None:
    """Let TemplateFlow's client fetch an image and its mask, if it can."""
    os.environ["TEMPLATEFLOW_HOME"] = str(root)  # read once, when the client is imported
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "off")
    try:
        from templateflow import api

        query = {"resolution": space.resolution or 1, "cohort": space.cohort}
        api.get(space.name, suffix=suffix, desc=None, raise_empty=True, **query)
        api.get(space.name, suffix="mask", desc="brain", **query)
    except Exception as err:  # the client raises whatever its transport does
        raise MissingInputError(
            f"{_file(root, space, space.resolution or 1, suffix)}: template could not be fetched"
            f" ({type(err).__name__}); set TEMPLATEFLOW_HOME or give --template-file"
        ) from err
