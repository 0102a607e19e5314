"""Markdown on the pages: headings in their place, and nothing that can harm."""

from __future__ import annotations

import re

import pytest
from targets import read_card

from h2lo_bids.reports.page import render_markdown


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# One", "<h3>One</h3>"),
        ("#### Four", "<h6>Four</h6>"),
        ("---\nlicense: mit\n---\ntext", "<p>text</p>"),
        ("[a](#b 'c')", '<p><a href="#b" rel="noopener noreferrer">a</a></p>'),
    ],
)
def test_blocks(text, html):
    assert re.sub(r"\s*(</?[^>]+>)\s*", r"\1", render_markdown(text)) == html


def test_a_table_scrolls_in_a_box_that_the_keyboard_reaches():
    html = render_markdown("| a | b |\n|---|:-:|\n| 1 | **2** |\n| 3 |")
    assert re.sub(r"\s*(</?[^>]+>)\s*", r"\1", html) == (
        '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table><thead><tr>'
        '<th scope="col">a</th><th scope="col">b</th></tr></thead><tbody>'
        "<tr><td>1</td><td><strong>2</strong></td></tr><tr><td>3</td><td></td></tr>"
        "</tbody></table></div>"
    )


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        '[x](https://e.org/"onmouseover="alert(1))',
        "![x](https://e.org/pixel.png)",
        "| <i> | b |\n|---|---|\n| <script> | </table> |",
        "[x][y]\n\n[y]: javascript:alert(1)",
        "[x](&#106;avascript:alert(1))",
        "<javascript:alert(1)>",
        "[x](//e.org)",
        '``` x" onclick="alert(1)\nx\n```',
    ],
)
def test_nothing_harmful_passes(text):
    read_card(text.encode())
