"""Markdown of model cards and methods texts, turned into HTML that cannot harm."""

from __future__ import annotations

import re

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)
_SAFE_URL = re.compile(r"https?://|mailto:|#", re.IGNORECASE)
# Wide tables scroll in their own box, which the keyboard must reach.
_BOX = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'


def render(text: str, *, top: int = 3) -> str:
    """Turn CommonMark with tables into HTML; YAML front matter is dropped.

    Raw HTML is shown as text, images are not embedded, and a link leads only to
    a web page, a mail address or a place on the page itself.

    Parameters
    ----------
    text : str
        Markdown from anywhere.
    top : int, optional
        Level that a first-level heading gets on the page.

    Returns
    -------
    str
        Safe HTML.
    """
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
