"""The benchmarks run at a toy size on the CPU, go on where they stopped, and count right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import few_pairs
import gpu
import numpy as np
import pytest
import results
import scale
from heads import importable, make, rows_of, write_bundle
from problems import ball_pair, history
from training_pairs import TrainingPair


@pytest.mark.slow
def test_a_site_is_simulated_and_every_arm_is_scored_once_on_every_test_head(tmp_path, monkeypatch):
    def simulate(labels, *, seed, **how):
        pair = ball_pair("", seed, (40, 48, 44))
        return {"T1w": TrainingPair((pair.hf,), pair.lf, pair.mask)}

    def call(*words):
        few_pairs.main([*map(str, words)])

    monkeypatch.setattr(few_pairs, "simulate_training_pairs", simulate)
    monkeypatch.setattr(few_pairs, "PARTS", {"train": 2, "validation": 1, "test": 2})
    for name in "abc":
        make(tmp_path / "labels" / f"{name}.nii.gz")
    site, out = tmp_path / "sites/phantom", tmp_path / "out"
    call("make", site.parent, "--labels", tmp_path / "labels")
    shutil.copy(site / "test-02.npz", site / "test-real-x.npz")
    words = ("run", site, "--out", out, "--steps", 1, "--seeds", 1, "--counts", 2)
    words += ("--arms", "adapted", "paper")
    call(*words)
    rows = rows_of(out / "few_pairs.tsv")
    arms = ("input", "0", "0"), ("model", "0", "0"), ("adapted", "2", "1"), ("paper", "2", "1")
    keys = [(r["arm"], r["pairs"], r["seed"], r["subject"]) for r in rows]
    assert keys == [(*arm, f"test-{name}") for arm in arms for name in ("01", "02", "real-x")]
    # The first row of the page is the high-field image's mean over the simulated heads.
    mean = np.mean([float(row["psnr"]) for row in rows[:2]])
    lines = (out / "few_pairs.md").read_text().splitlines()
    assert lines[4].startswith(f"| phantom, simulated | HF image | - | {mean:.2f} |")
    before = (out / "few_pairs.tsv").read_text().splitlines(True)
    (out / "few_pairs.tsv").write_text("".join(before[:-3]))  # as if stopped before the last
    call(*words)
    after = (out / "few_pairs.tsv").read_text().splitlines(True)
    assert (after[:-3], len(after)) == (before[:-3], len(before))
    # Neither resolutions nor contrasts are mixed.
    for more, text in (
        (("--resolution", 2), "few_pairs.md: is of T1w at 4 mm, not of T1w at 2 mm"),
        (("--contrast", "T2w", "--out", tmp_path / "new"), "test-01.npz: is of T1w, not T2w"),
    ):
        with pytest.raises(SystemExit, match=text):
            call(*words, *more)


def run(part: str, out: Path, *more: str) -> dict[str, Any]:
    gpu.main([part, str(out), "--device", "cpu", "--scale", "0.1", *more])
    record: dict[str, Any] = json.loads((out / f"{part}.json").read_text())
    assert (record["part"], record["device"]) == (part, "CPU")
    return record


@pytest.mark.slow
def test_every_part_for_a_gpu_can_be_rehearsed_without_one(tmp_path):
    record = run("engine", tmp_path, "--scale", "0.06")
    assert record["cpu fp32"]["largest_error"] == 0
    assert 60 < record["cpu bf16"]["psnr"] < 120
    assert run("training", tmp_path, "--steps", "1")["cpu"]["steps"] == 1
    # The paper's protocol ends in time, and goes on.
    record = run("paper", tmp_path, "--minutes", "0.002")
    assert (record["done"], record["of"]) == (False, 2000)  # 500 epochs of four pairs
    record = run("paper", tmp_path, "--steps", "2")
    assert (record["done"], record["steps"]) == (True, 2)
    assert [row["step"] for row in history(tmp_path / "paper")] == ["1", "2"]


def test_the_page_of_results_takes_its_tables_from_a_benchmark(tmp_path, monkeypatch):
    out, page = tmp_path / "out", tmp_path / "docs/results.md"
    fold = out / "folds/T1w/h2lo/fold-0"
    for folder in (page.parent / "gallery", fold, fold.with_name("fold-1")):
        folder.mkdir(parents=True)

    def write(path, *rows):
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))

    metrics = [f"{m}_{word}" for m in results.HEADINGS for word in ("mean", "std", "place")]
    head = ["method", *metrics, "folds", "participants", "steps"]
    usual = [0.5, 0.25, "n/a"] * 7
    best = ["h2lo", *[24.1234, 0.5678, 1] * 7, 5, 23, 900]
    rows = ["identity", *usual, 5, 23, 0], ["inr", *usual, 4, 20, 0], best
    paper = [*head, "paper (ds006557) psnr_mean"], *([*row, 28.98] for row in rows)
    write(out / "table1_T1w.tsv", *paper)
    more = ["detail_3mm", "detail_2mm", "epochs_pretrain", "epochs_real"]
    arm = ["pfsr-h2lo", *usual, 5, 23, 9, 1, 0, 18, 5]
    baseline = [*rows[0], 0.25, 0.5, "n/a", "n/a"]
    write(out / "table2_T1w.tsv", [*head, *more], baseline, arm)
    write(out / "splits.tsv", ["contrast", "fold"], ["T1w", 0])
    figures = ["image", "own_3mm", "own_2mm", "noise"]
    own = ["h2lo", 0.5, 0.1, 0.01], ["n/a", 0.4, 0.2, 0.02]
    write(fold / "realism.tsv", figures, *own)
    # Of another division: not of this table.
    write(fold.with_name("fold-1") / "realism.tsv", figures, ["h2lo", 9, 9, 9])
    shapes = {"hf": (3, 8, 8), "lf": (3, 8, 8), "predicted": (3, 8, 8), "histograms": (3, 4)}
    shown, empty = ({f"{k}/{kind}": n + np.zeros(shape) for kind, shape in shapes.items()}
                    for n, k in ((1, "02"), (0, "01")))  # fmt: skip
    np.savez(fold / "pictures.npz", **shown)
    (other := out / "folds/T1w/inr/fold-0").mkdir(parents=True)
    np.savez(other / "pictures.npz", **shown, **empty)  # of a subject that H2LO lacks
    names = ("table1_T1w", "table1_T2w", "detail_T1w", "table2_T1w")
    page.write_text("\n".join(f"<!-- {name} -->\nas it was\n<!-- end -->" for name in names))
    monkeypatch.setattr(sys, "argv", ["results.py", str(out), str(page)])
    results.main()
    text = page.read_text()
    for line in (
        "| HF image | .50±.25 (28.98) | .50±.25 | .500±.250 |",
        "| H2LO | **24.12±.57** (28.98) | **24.12±.57** | **24.123±.568** |",
        "<!-- table1_T2w -->\nas it was\n",
        "| Conditional INR † | .50±.25 (28.98) |",
        "| 900 |\n\nRows marked † lack folds or participants and are not ranked.\n<",
        "| .250 | .500 |  |  |",
        "| 1.000 | .000 | 18 + 5 | 9 |",
        "| 64 mT | 0.40 | 0.20 | 0.0200 |\n| H2LO | 0.50 | 0.10 |",
    ):
        assert line in text
    assert text.count("†") == 2
    drawn = {path.name for path in (page.parent / "gallery").iterdir()}
    assert drawn == {"results_T1w.png", "results_T1w_histograms.png"}
    results.main()
    assert page.read_text() == text


@pytest.mark.slow
def test_the_rehearsal_of_a_large_run_synthesizes_one_participant(tmp_path):
    model = write_bundle(tmp_path / "model", "T1w")
    cases = ["schedule"]
    assert set(scale.rehearse(tmp_path / "run", 2, model, cases)) == set(cases)
    one, two = (
        (tmp_path / f"run/out/sub-0000{n}/anat/sub-0000{n}_desc-lowfield_T1w.nii.gz").read_bytes()
        for n in (1, 2)
    )
    assert one == two  # with the name of the first in its header
    made = (tmp_path / "run/out/logs").rglob("sub-00002.log")
    assert not next(made).read_text()  # as no step ran


@pytest.mark.slow
def test_the_rehearsal_finds_the_samples_of_the_tests_by_itself():
    script = Path(__file__).parents[2] / "benchmarks" / "scale.py"
    words = [sys.executable, script, "--subjects", "5", "--cases", "group"]
    subprocess.run(words, env={**os.environ, **importable()}, check=True, capture_output=True)
