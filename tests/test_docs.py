"""The documentation's notebook runs, and its pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_commands import PAGES, blocks, make_data, run_page

ROOT = Path(__file__).parents[1]
OTHERS = """
    --user --scope
    --build-arg --gpus --nv --secret --shm-size --ignore-fakeroot-command --containall
    --nice --gres --signal --ntasks --cpus-per-task --session-id --use-subcohort
    --processing-level --job-test --network --pwd
"""
"""Options of other programs that the pages name; docs/usage.md is written from the parser."""
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        place = page.parent / target
        # The site renders the notebook under the name of a page.
        assert place.exists() or place.with_suffix(".ipynb").exists(), f"{page.name}: {target}"


def test_pages_name_options_that_there_are() -> None:
    from h2lo_bids.cli import parser, phantom, slurm

    known = set(OTHERS.split())
    for module in (parser, phantom, slurm):
        known |= set(re.findall(r"--[a-z-]+", module.build_parser().format_help()))
    for script in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("h2lo_bids/training/*.py")]:
        known |= set(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))
            assert page.name == "usage.md" or named <= known, f"{page.name}: {named - known}"


def test_the_map_of_the_house_names_files_that_there_are() -> None:
    named = re.findall(r"`([\w.]+/[\w./-]*)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda p: p.name)
def test_every_command_of_a_page_runs(page: Path, data: Path, tmp_path: Path) -> None:
    assert run_page(page, data, tmp_path / "page")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("frobnicate --fast", "frobnicate: command not found"),
        ("h2lo BIDS OUT participant --slopy", "did you mean --sloppy"),
        ("make dmeo", "no such target"),
        ("python benchmarks/gone.py", "no such file"),
        ("docker run -v BIDS:/data h2lo /date /out participant", "/date: is not bound"),
    ],
)
def test_a_command_that_is_wrong_or_unlisted_is_found(line, words, data, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n")
    with pytest.raises(SystemExit, match=words):
        run_page(page, data, tmp_path / "page")


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    shapes = next(c for c in book.cells if "thick.shape" in c.source).outputs[-1]["data"]
    assert shapes["text/plain"] == "((104, 128, 128), (104, 128, 128), (104, 128, 52))"
