"""What the pages share: their templates, their style and their policy."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from h2lo_bids.evaluation.catalogue import chance
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_PLACES = ("reports", "data/cards", "data")
"""Folders with templates."""
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)
_SAFE_URL = re.compile(r"https?://|mailto:|#", re.IGNORECASE)
# Wide tables scroll in their own box, which the keyboard must reach.
_BOX = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'


def render(template: str, *, rules: str = "", script: str = "", **values: Any) -> str:
    """Fill in a page, which escapes every value but `Markup` and forbids every request."""
    sheets = ["style.css"] if template == "report.html.jinja" else ["style.css", "group.css"]
    style = "".join(map(_asset, sheets)) + rules
    script = _asset(script) if script else ""
    return template_of(template).render(
        style=Markup(style),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours
        policy=_policy(style, script),
        **values,
    )


def template_of(name: str) -> Template:
    """Return a template, of a page, card or script; what is undefined is an error."""
    return _templates().get_template(name)


@cache
def _templates() -> Environment:
    """Return all templates, each compiled at its first use; pages escape values."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

    found = Environment(
        loader=ChoiceLoader([PackageLoader("h2lo_bids", place) for place in _PLACES]),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "tesla": _tesla,
        "clock": _clock,
        "short": "{:.3g}".format,
        "ratio": lambda value: str(int(value)) if 100 <= value < math.inf else f"{value:.3g}",
        "chance": chance,
        "markdown": lambda text: Markup(render_markdown(text, top=4)),  # noqa: S704
        "quote": lambda word: shlex.quote(str(word)),  # for a shell
    }
    found.filters |= filters
    found.globals["counted"] = counted
    return found


def _asset(name: str) -> str:
    return (files("h2lo_bids.reports") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Forbid every request, and every style and script but those of the page."""
    styles, scripts = (
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        for text in (style, script)
    )
    return (
        "default-src 'none'; img-src data:; "
        f"style-src 'sha256-{styles}'; script-src 'sha256-{scripts}'; "
        "base-uri 'none'; form-action 'none'"
    )


def render_markdown(text: str, *, top: int = 3) -> str:
    """Turn CommonMark with tables into HTML that loads nothing; `top` is its highest heading."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False})
    parser.enable("table").disable("image")
    parser.validateLink = lambda url: bool(_SAFE_URL.match(url))  # type: ignore[method-assign]
    tokens = parser.parse(_FRONT_MATTER.sub("", text))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + top - 1, 6)}"
        elif token.type == "fence":
            token.info = ""
        elif token.type in ("th_open", "td_open"):
            # The page's policy refuses style attributes, which columns are aligned with.
            token.attrs = {"scope": "col"} if token.type == "th_open" else {}
        for child in token.children or ():
            if child.type == "link_open":
                child.attrs = {"href": child.attrs["href"], "rel": "noopener noreferrer"}
    html: str = parser.renderer.render(tokens, parser.options, {})
    return html.replace("<table>", f"{_BOX}<table>").replace("</table>", "</table></div>")


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
