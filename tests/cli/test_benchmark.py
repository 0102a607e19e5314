"""The benchmark from end to end, as users run it, on small heads."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from heads import importable
from pairsets import BAD, write_pairs

pytestmark = pytest.mark.slow

# The method whose four numbers are fitted soonest.
FIT = ["--resolution", "8", "--steps", "4", "--folds", "2"]
FIT += ["--nprocs", "1", "--mem", "8", "--skull-strip", "skip"]
BLUR = """
import sys, nibabel as nib
image = nib.load(sys.argv[1])
nib.save(nib.Nifti1Image(image.get_fdata() ** 2, image.affine), sys.argv[2])
"""
TIMES = ("training_seconds", "seconds_per_volume", "peak_memory_gb")


def benchmark(bids: Path, out: Path, *words) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "h2lo_bids.cli.run", str(bids), str(out), "benchmark"]
    return subprocess.run(
        [*command, *FIT, *map(str, words)], env={**os.environ, **importable()}, text=True,
        capture_output=True, check=False, timeout=1800,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_pairs(folder / "bids")
    shutil.rmtree(folder / "bids" / f"sub-{BAD}")
    (folder / "blur.py").write_text(BLUR)
    return folder


@pytest.fixture(scope="module")
def arms(root) -> list[str]:
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(root / 'blur.py'))} "
    return ["--method", "arnold", "--external", f"square={command}{{input}} {{output}}"]


@pytest.fixture(scope="module")
def first(root, arms) -> Path:
    done = benchmark(root / "bids", root / "out", *arms)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "out"


def rows(out: Path) -> list[dict[str, str]]:
    """Read the table, without what the clock and the memory told."""
    with (out / "table1.tsv").open() as stream:
        found = list(csv.DictReader(stream, delimiter="\t"))
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def test_every_arm_stands_in_the_table_and_no_final_model_is_made(first):
    found = {row["method"]: row for row in rows(first)}
    assert list(found) == ["identity", "arnold", "square"]
    assert {row["folds"] for row in found.values()} == {"2"}
    assert found["arnold"]["parameters"] == "4"
    assert not (first / "models").exists()
    assert "<img" in (first / "table1.html").read_text()


def test_a_rerun_does_nothing_and_reports_alone_give_the_same(first, root, arms):
    files = [p for p in first.glob("folds/**/*") if p.is_file()]
    stamps = {p: p.stat().st_mtime_ns for p in files}
    table = (first / "table1.tsv").read_bytes()
    done = benchmark(root / "bids", first, *arms)
    assert done.returncode == 0, done.stderr
    assert "all 4 folds are done already" in done.stdout
    done = benchmark(root / "bids", first, *arms, "--reports-only")
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in files} == stamps
    assert (first / "table1.tsv").read_bytes() == table


def test_tasks_of_a_job_array_then_collecting_give_the_same_bytes(first, root, arms, tmp_path):
    out = tmp_path / "out"
    for folder in first.glob("sub-*"):
        shutil.copytree(folder, out / folder.name)
    done = benchmark(root / "bids", out, "--method", "arnold", "--fold", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (out / "table1.tsv").exists()
    done = benchmark(root / "bids", out, *arms)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(out) == rows(first)
    for path in first.glob("group_*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_dry_run_writes_nothing_and_names_every_fold(root, arms, tmp_path):
    done = benchmark(root / "bids", tmp_path / "out", *arms, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    assert "folds/T1w/square/fold-1" in done.stdout
    assert "table1.html" in done.stdout
    assert "models/" not in done.stdout
