"""What the pages share: their templates, their style and their policy."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from h2lo_bids.reports.markdown import render

if TYPE_CHECKING:
    from jinja2 import Environment

KINDS = {
    "simulated": "simulated pairs",
    "real": "acquired pairs",
    "unknown": "not described by the checkpoint",
    "none": "nothing",
}
"""What a model was trained on, in words."""


def environment() -> Environment:
    """Give the templates, which escape every value unless it is marked as ours."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    found = Environment(
        loader=PackageLoader("h2lo_bids.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "tesla": _tesla,
        "clock": _clock,
        "short": "{:.3g}".format,
        "markdown": _markdown(Markup),
    }
    found.globals |= {"kinds": KINDS}
    return found


def asset(name: str) -> str:
    """Read a file of this package."""
    return (files("h2lo_bids.reports") / name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """Forbid every request, and every style and script but the page's own."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")

    return (
        "default-src 'none'; img-src data:; "
        f"style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _tesla(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value * 1000:.3g} mT" if value < 0.5 else f"{value:.3g} T"


def _clock(seconds: float) -> str:
    if not 0 <= seconds < math.inf:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _markdown(markup: type) -> Callable[[str], Any]:
    return lambda text: markup(render(text, top=4))
