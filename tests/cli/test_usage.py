"""The usage page against the parser it was written from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from heads import importable

from h2lo_bids.cli.parser import build_parser

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_up_to_date():
    command = [sys.executable, str(DOCS / "make_usage.py"), "--check"]
    env = {**os.environ, **importable()}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_and_code_is_on_the_page():
    page = (DOCS / "usage.md").read_text()
    for action in build_parser()._actions:
        for option in action.option_strings:
            if option not in ("-h", "--help") and action.help:
                assert f"`{option}" in page, option
    for code in (0, 1, 16, 17, 18, 64, 65, 66, 73, 74, 75, 130, 143):
        assert f"| {code} | " in page
