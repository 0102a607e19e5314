"""Model cards, Markdown, and what the metadata of all bundles say of a fit."""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from h2lo_bids import __version__
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment


def start_of(bundle: Bundle | None) -> dict[str, Any] | None:
    """Return what records and metadata say of the model that a fit started from."""
    if bundle is None:
        return None
    kind = (bundle.metadata.get("training_data") or {}).get("kind", "unknown")
    name = bundle.metadata.get("name", bundle.path.name)
    return {"name": name, "sha256": bundle.sha256, "pairs": kind}


def render_card(template: str, **values: Any) -> str:
    """Fill in a template of ``data/cards``, Markdown, and wrap its paragraphs of text."""
    text = _templates().get_template(f"{template}.jinja").render(values)
    return "\n\n".join(map(_wrapped, re.split(r"\n\s*\n", text.strip()))) + "\n"


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Markdown
        loader=PackageLoader("h2lo_bids", "data/cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    return environment


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("#", "|", "```")):
        return paragraph
    text = " ".join(paragraph.split())
    return textwrap.fill(text, 92, break_long_words=False, break_on_hyphens=False)


def varied(ranges: Mapping[str, Any]) -> Augmentation | None:
    """Return how pairs were varied in training, or None if they were not."""
    augmentation = Augmentation(**ranges)
    return None if augmentation == Augmentation() else augmentation


def software() -> dict[str, str]:
    """Return the versions that a fit depends on."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy")}
    return {"h2lo-bids": __version__, "python": platform.python_version(), **packages}
