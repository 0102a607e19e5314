"""The documentation's notebook runs, and its pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        place = page.parent / target
        # The site renders the notebook under the name of a page.
        assert place.exists() or place.with_suffix(".ipynb").exists(), f"{page.name}: {target}"


def test_the_map_of_the_house_names_files_that_there_are() -> None:
    named = re.findall(r"`([\w.]+/[\w./-]*)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    shapes = next(c for c in book.cells if "thick.shape" in c.source).outputs[-1]["data"]
    assert shapes["text/plain"] == "((104, 128, 128), (104, 128, 128), (104, 128, 52))"
