"""Finding template images in a TemplateFlow folder, without a network unless asked.

TemplateFlow's client writes to the home folder when it is imported, stands in for
files that it has not fetched with empty ones, and answers an unknown template with
nothing. The layout of its folder is simple enough to be read directly, so the
client is imported only to fetch what is missing, where the user allows that.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import MissingInputError

TemplateFiles = tuple[Path, Path | None]
"""A template's image, a head or a brain, and its brain mask where there is one."""


@dataclass(frozen=True)
class OutputSpace:
    """A space that a user asked for, such as ``MNI152NLin2009cAsym:res-1``."""

    name: str  # TemplateFlow's, without ``tpl-``
    resolution: int | None = None  # TemplateFlow's index, or None for its first
    cohort: str | None = None

    def file(self, ending: str) -> Path:
        """Return the path of an image below a TemplateFlow folder; of resolution 1 by default."""
        folder, stem = self.place
        return folder / f"{stem}_res-{self.resolution or 1:02d}_{ending}.nii.gz"

    @property
    def label(self) -> str:
        """What outputs are named after: ``MNIPediatricAsym+1``, as in fMRIPrep's transforms."""
        return self.name if self.cohort is None else f"{self.name}+{self.cohort}"

    @property
    def place(self) -> tuple[Path, str]:
        """The folder of the template's images, and what their names begin with."""
        parts = [f"tpl-{self.name}", *([f"cohort-{self.cohort}"] if self.cohort else [])]
        return Path(*parts), "_".join(parts)


def parse_space(text: str) -> OutputSpace:
    """Take apart ``NAME[:res-N][:cohort-C]``, whose form `h2lo_bids.settings.convert` checks."""
    name, *modifiers = text.split(":")
    values = {key[:3]: value for key, _, value in (part.partition("-") for part in modifiers)}
    return OutputSpace(name, int(values["res"]) if "res" in values else None, values.get("coh"))


def templateflow_home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which templates are looked for: given, or where the client keeps it."""
    if given := env.get("TEMPLATEFLOW_HOME"):
        return Path(given).absolute()  # steps run in folders of their own
    home = env.get("HOME", "/nonexistent")  # of a user id without a name
    caches = [Path(cache) for cache in (env.get("XDG_CACHE_HOME"), f"{home}/.cache") if cache]
    # Unlike pathlib's, this one takes a folder that may not be entered for none.
    there = [cache for cache in caches if os.path.isdir(cache / "templateflow")]  # noqa: PTH112
    return (there or caches)[0] / "templateflow"


def find_template(space: str, *, suffix: str = "T1w", fetch: bool = False) -> TemplateFiles:
    """Find a template's image and brain mask: existing files that are not empty.

    A template without a T2w image gives its T1w, which mutual information can use. What is
    missing is fetched with TemplateFlow's client if `fetch` allows the network.
    """
    wanted, root = parse_space(space), templateflow_home()
    for kind in dict.fromkeys((suffix, "T1w")):
        if fetch and _lookup(root, wanted, kind) is None:
            _fetch(root, wanted, kind)
        if found := _lookup(root, wanted, kind):
            return found
    raise MissingInputError(
        f"{root / wanted.file('T1w')}: template not there (or an empty stand-in); set"
        " TEMPLATEFLOW_HOME to a TemplateFlow folder that has it, or give --template-file or"
        " --fetch-templates"
    )


def _lookup(root: Path, space: OutputSpace, suffix: str) -> TemplateFiles | None:
    """Look for an image of exactly this space, and its mask."""
    images, masks = _files(root, space, suffix), _files(root, space, "desc-brain_mask")
    res = min(images, default=None) if space.resolution is None else space.resolution
    return None if res not in images else (images[res], masks.get(res))


def _files(root: Path, space: OutputSpace, ending: str) -> dict[int, Path]:
    """Return files by resolution, 0 for none; ``res-01`` is taken before ``res-1``."""
    folder, stem = space.place
    pattern = re.compile(rf"{stem}(?:_res-(\d+))?_{ending}\.nii\.gz")
    by_resolution: dict[int, Path] = {}
    with contextlib.suppress(OSError):
        for file in sorted((root / folder).iterdir()):
            match = pattern.fullmatch(file.name)
            with contextlib.suppress(OSError):  # one that cannot be read hides no other
                # TemplateFlow's stand-ins are empty.
                if match and file.is_file() and file.stat().st_size > 0:
                    by_resolution.setdefault(int(match[1] or 0), file)
    return by_resolution


def _fetch(root: Path, space: OutputSpace, suffix: str) -> None:
    """Let TemplateFlow's client fetch an image and its mask, if it can."""
    os.environ["TEMPLATEFLOW_HOME"] = str(root)  # read once, when the client is imported
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "off")
    try:
        from templateflow import api

        query = {"resolution": space.resolution or 1, "cohort": space.cohort}
        last = suffix == "T1w"  # which serves where there is no other
        api.get(space.name, suffix=suffix, desc=None, raise_empty=last, **query)
        api.get(space.name, suffix="mask", desc="brain", **query)
    except Exception as err:  # the client raises whatever its transport does
        raise MissingInputError(
            f"{root / space.file(suffix)}: template could not be fetched"
            f" ({type(err).__name__}); set TEMPLATEFLOW_HOME or give --template-file"
        ) from err
