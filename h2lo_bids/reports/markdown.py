"""The part of Markdown that model cards use, turned into HTML that cannot harm.

Everything is escaped before any tag is added, raw HTML is shown as text, and a
link leads only to a web page, a mail address or a place on the page itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

_INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|\[(?P<label>[^\[\]]+)\]\((?P<url>[^()\s]+)\)"
    r"|<(?P<auto>https?://[^<>\s]+)>"
    r"|\*\*(?P<strong>[^\n]+?)\*\*"
    r"|(?<![\w*])[*_](?P<em>[^\s*_](?:[^*_\n]*[^\s*_])?)[*_](?![\w*])"
)
_SAFE_URL = re.compile(r"(https?://|mailto:|#)", re.IGNORECASE)
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
_ITEM = re.compile(r"(\s*)([-*+]|\d{1,9}[.)])\s+(.*)")
_RULE = re.compile(r"\s*([-*_])\s*(\1\s*){2,}$")
_TABLE_LINE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")


def render(text: str, *, top: int = 3) -> str:
    """Turn Markdown into HTML.

    Headings, paragraphs, nested lists, tables, quotes, fenced code, rules,
    emphasis, code spans and links are understood; YAML front matter is
    dropped; everything else is text.

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
    lines = _without_front_matter(text.replace("\t", "    ").splitlines())
    parts: list[str] = []
    while lines:
        if not lines[0].strip():
            lines.pop(0)
            continue
        for block in (_fence, _heading, _rule, _table, _quote, _list):
            html = block(lines, top)
            if html is not None:
                parts.append(html)
                break
        else:
            parts.append(_paragraph(lines))
    return "\n".join(parts)


def inline(text: str) -> str:
    """Turn the marks within one paragraph into HTML."""
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        parts += [escape(text[end : match.start()]), _mark(match)]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _mark(match: re.Match[str]) -> str:
    if match["code"]:
        return f"<code>{escape(match['code'])}</code>"
    if match["strong"]:
        return f"<strong>{inline(match['strong'])}</strong>"
    if match["em"]:
        return f"<em>{inline(match['em'])}</em>"
    url, label = match["auto"] or match["url"], match["auto"] or match["label"]
    # A label is not searched for further links: they cannot be nested.
    if not _SAFE_URL.match(url):
        return escape(match[0])
    return f'<a href="{escape(url)}" rel="noopener noreferrer">{escape(label)}</a>'


def _without_front_matter(lines: list[str]) -> list[str]:
    if lines and lines[0].strip() == "---":
        for number, line in enumerate(lines[1:], start=1):
            if line.strip() == "---":
                return lines[number + 1 :]
    return list(lines)


def _fence(lines: list[str], top: int) -> str | None:
    if not lines[0].lstrip().startswith("```"):
        return None
    lines.pop(0)
    code = []
    while lines and not lines[0].lstrip().startswith("```"):
        code.append(lines.pop(0))
    if lines:
        lines.pop(0)
    return f"<pre><code>{escape(chr(10).join(code))}</code></pre>"


def _heading(lines: list[str], top: int) -> str | None:
    match = _HEADING.match(lines[0])
    if match is None:
        return None
    lines.pop(0)
    level = min(len(match[1]) + top - 1, 6)
    return f"<h{level}>{inline(match[2])}</h{level}>"


def _rule(lines: list[str], top: int) -> str | None:
    if not _RULE.match(lines[0]):
        return None
    lines.pop(0)
    return "<hr>"


def _table(lines: list[str], top: int) -> str | None:
    if len(lines) < 2 or "|" not in lines[0] or not _TABLE_LINE.match(lines[1]):
        return None
    head = _cells(lines.pop(0))
    lines.pop(0)
    rows = []
    while lines and "|" in lines[0]:
        cells = _cells(lines.pop(0))
        rows.append((cells + [""] * len(head))[: len(head)])
    header = "".join(f'<th scope="col">{inline(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{inline(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    # Wide tables scroll in their own box, which the keyboard must reach.
    box = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'
    return f"{box}<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _quote(lines: list[str], top: int) -> str | None:
    if not lines[0].lstrip().startswith(">"):
        return None
    inner = []
    while lines and lines[0].lstrip().startswith(">"):
        inner.append(lines.pop(0).lstrip()[1:].removeprefix(" "))
    return f"<blockquote>{render(chr(10).join(inner), top=top)}</blockquote>"


def _list(lines: list[str], top: int) -> str | None:
    first = _ITEM.match(lines[0])
    if first is None:
        return None
    tag, indent, items = ("ol" if first[2][0].isdigit() else "ul"), len(first[1]), []
    while lines:
        match = _ITEM.match(lines[0])
        if match and len(match[1]) == indent and match[2][0].isdigit() == (tag == "ol"):
            lines.pop(0)
            items.append(inline(_continued(match[3], lines)))
        elif match and len(match[1]) > indent and items:
            items[-1] += _list(lines, top) or ""
        else:
            break
    return f"<{tag}>" + "".join(f"<li>{item}</li>" for item in items) + f"</{tag}>"


def _paragraph(lines: list[str]) -> str:
    return f"<p>{inline(_continued(lines.pop(0).strip(), lines))}</p>"


def _continued(text: str, lines: list[str]) -> str:
    """Add the lines that follow until something else begins."""
    starts: tuple[Callable[[str], object], ...] = (_HEADING.match, _ITEM.match, _RULE.match)
    while lines and lines[0].strip():
        line = lines[0].lstrip()
        if line.startswith(("```", ">")) or any(start(lines[0]) for start in starts):
            break
        if "|" in line and len(lines) > 1 and _TABLE_LINE.match(lines[1]):
            break
        text += " " + lines.pop(0).strip()
    return text
