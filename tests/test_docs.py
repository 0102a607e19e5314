"""The documentation's examples and notebook run, its pages lead somewhere and find their data."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from heads import write_bundle
from page_commands import PAGES, ROOT, blocks, make_data, run_page
from skeletons import HYPE, ds006557, get, scan_at

from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.outputs import enhanced_sidecars, extras_of, grids_of, output_sidecars
from h2lo_bids.training.options import frame_of
from pipelines.pairs import PairOptions, pair_fingerprint

OTHERS = """
    --user --scope
    --build-arg --gpus --nv --secret --shm-size --ignore-fakeroot-command --containall
    --nice --gres --signal --ntasks --cpus-per-task --session-id --use-subcohort
    --processing-level --job-test --network --pwd --cleanenv --env --index-url
"""
"""Options of other programs that the pages name; docs/usage.md is written from the parser."""
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            place = page.parent / target
            # The site renders the notebook under the name of a page.
            assert place.exists() or place.with_suffix(".ipynb").exists(), f"{page.name}: {target}"


def test_pages_name_options_that_there_are() -> None:
    from h2lo_bids.cli import parser, phantom, slurm

    known = set(OTHERS.split())
    for module in (parser, phantom, slurm):
        known |= set(re.findall(r"--[a-z-]+", module.build_parser().format_help()))
    for script in ROOT.glob("benchmarks/*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))
            assert page.name == "usage.md" or named <= known, f"{page.name}: {named - known}"


def test_the_map_of_the_house_names_files_that_there_are() -> None:
    named = re.findall(r"`([\w.]+/[\w./-]*)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_of_outputs_names_every_field_of_an_image() -> None:
    scan = scan_at(Path("/d/sub-01/anat/sub-01_T1w.nii.gz"))
    words = ["/d", "/o", "participant", "--lf-grid", "2x2x5", "--noise", "calibrated"]
    settings, bundle = read_settings([*words, "--uncertainty"]), default_bundle("T1w")
    bundle = replace(bundle, metadata={**bundle.metadata, "files": {"members/0": ""}})
    how = {"Precision": "fp32", "Device": "cpu"}
    made = output_sidecars(
        scan, bundle, settings, grids_of(settings), extras_of(settings), **how, SynthesisSeed=1
    )
    made |= enhanced_sidecars(scan, (scan, scan), bundle, settings, **how)
    fields = {field for sidecar in made.values() for field in sidecar}
    bids = {"Description", "Sources", "SpatialReference", "Resolution", "Type", "Units"}
    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    assert fields - bids - set(re.findall(r"`(\w+)`", page)) == set()


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
        ("docker run -v BIDS:/data h2lo /date /out participant", "/date: is not bound"),
    ],
)
def test_a_command_that_is_wrong_or_unlisted_is_found(line, words, data, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n")
    with pytest.raises(SystemExit, match=words):
        run_page(page, data, tmp_path / "page")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """With a model of few weights, as the pages, and few voxels."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    small = write_bundle(tmp_path / "m", "T1w", frame=Frame((52, 64, 64), (4.0,) * 3))
    (cell,) = (cell for cell in book.cells if 'load_model("T1w")' in cell.source)
    cell.source = cell.source.replace('"T1w"', repr(str(small)))
    book.cells[1].source = book.cells[1].source.replace("resolution=2.0", "resolution=4.0")
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    shapes = next(c for c in book.cells if "thick.shape" in c.source).outputs[-1]["data"]
    assert shapes["text/plain"] == "((52, 64, 64), (52, 64, 64), (104, 128, 52))"


def test_examples() -> None:
    for path in (ROOT / "h2lo_bids").rglob("*.py"):
        if ">>>" in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found = doctest.testmod(importlib.import_module(name))
            assert found.attempted > found.failed == 0, name


REPRODUCE = ROOT / "docs" / "reproduce-ds006557.md"
H2LO = [
    line
    for language, text in blocks(REPRODUCE)
    for line in text.splitlines()
    if language == "bash" and line.startswith("h2lo ")
]


def words_of(line: str) -> list[str]:
    """Let the shell take a command apart, as in a task of a job array."""
    script = f"h2lo() {{ printf '%s\\n' \"$@\"; }}\nSLURM_ARRAY_TASK_ID=3\n{line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_command_finds_its_pairs_and_they_are_prepared_as_the_fits_take_them(tmp_path):
    """Each in what the page has told to fetch by then."""

    @cache
    def fetched(*names: str) -> Path:
        root = ds006557(tmp_path / "_".join(("got", *names)), HYPE, mrr=True)
        get(root, "ses-GE", "_mrr", *names)
        return root

    made: dict[Path, set[str]] = {}
    for line in H2LO:
        asked = read_settings(words_of(line))
        root = fetched(*(["ses-HFC"] if "--lf" in shlex.split(line) else []))
        given = tuple((n, root / p.relative_to(asked.bids_dir)) for n, p in asked.derivatives)
        asked = replace(asked, bids_dir=root, derivatives=given, skip_bids_validation=True)
        found = discover_pairs(asked)
        assert not found.problems, line
        counts = [sum(pair.contrast == c for pair in found.pairs) for c in ("T1w", "T2w")]
        assert counts == ([1, 1] if "--participant-label" in line else [22, 23]), line
        how = PairOptions(asked, frame_of(asked))
        digests = {pair_fingerprint(p, how) for p in found.pairs if p.subject == "HYPE03"}
        assert made.setdefault(asked.out_dir, digests) == digests, line
