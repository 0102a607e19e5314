"""The benchmarks run at a toy size on the CPU, go on where they stopped, and count right."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from heads import make, rows_of, write_bundle
from problems import ball_pair
from training_pairs import TrainingPair

from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo, H2loArchitecture


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """Import the script that a test names."""
    monkeypatch.setattr(sys, "argv", [f"{request.param}.py"])
    return importlib.import_module(request.param)


@pytest.mark.parametrize("script", ["few_pairs"], indirect=True)
@pytest.mark.slow
def test_a_site_is_simulated_and_every_arm_is_scored_once_on_every_test_head(
    script, tmp_path, monkeypatch
):
    def simulate(labels, *, seed, **how):
        pair = ball_pair("", seed, (40, 48, 44))
        return {"T1w": TrainingPair((pair.hf,), pair.lf, pair.mask)}

    monkeypatch.setattr(script, "simulate_training_pairs", simulate)
    monkeypatch.setattr(script, "PARTS", {"train": 2, "validation": 1, "test": 2})
    for name in "abc":
        make(tmp_path / "labels" / f"{name}.nii.gz")
    site, heads = tmp_path / "sites/phantom", ["test-01", "test-02", "test-real-x"]
    script.main([*map(str, ("make", site.parent, "--labels", tmp_path / "labels"))])
    shutil.copy(site / "test-02.npz", site / "test-real-x.npz")
    model = H2lo(H2loArchitecture())
    bundle = save_bundle(
        tmp_path / "bundle", model, contrast="T1w", frame=Frame(), metadata={"scaling": "robust"},
        card="x\n",
    )  # fmt: skip
    words = ["run", site, "--out", tmp_path / "out", "--init", bundle.path]
    words += ["--resolution", 4, "--steps", 1, "--seeds", 1, "--counts", 2]
    script.main([*map(str, words)])
    table = tmp_path / "out" / "few_pairs.tsv"
    rows = rows_of(table)
    keys = [(r["arm"], r["pairs"], r["seed"], r["subject"]) for r in rows]
    arms = [("input", "0", "0"), ("model", "0", "0")]
    arms += [(arm, "2", "1") for arm in ("adapted", "default", "paper")]
    assert keys == [(*arm, name) for arm in arms for name in heads]
    # One step of the warm-up leaves the model almost as it was; from nothing is elsewhere.
    psnr = {key: float(row["psnr"]) for key, row in zip(keys, rows, strict=True)}
    for name in heads:
        before = psnr["model", "0", "0", name]
        moved = abs(psnr["adapted", "2", "1", name] - before)
        assert moved < 0.05
        assert abs(psnr["default", "2", "1", name] - before) > moved
    # The first row of the page is the high-field image's mean over the simulated heads.
    mean = np.mean([psnr["input", "0", "0", name] for name in heads[:2]])
    lines = (tmp_path / "out" / "few_pairs.md").read_text().splitlines()
    assert lines[4].startswith(f"| phantom, simulated | HF image | - | {mean:.2f} |")
    before = table.read_bytes()
    table.write_bytes(b"".join(before.splitlines(True)[:-3]))  # as if stopped before the last
    script.main([*map(str, words)])
    assert table.read_bytes().splitlines()[:-3] == before.splitlines()[:-3]
    assert len(table.read_bytes().splitlines()) == len(rows) + 1
    # Neither resolutions nor contrasts are mixed.
    for more, text in (
        (("--resolution", 2), "few_pairs.md: is of T1w at 4 mm, not of T1w at 2 mm"),
        (("--contrast", "T2w", "--out", tmp_path / "new"), "test-01.npz: is of T1w, not T2w"),
    ):
        with pytest.raises(SystemExit, match=text):
            script.main([*map(str, (*words, *more))])


def run(script: ModuleType, part: str, out: Path, *more: str) -> dict[str, Any]:
    script.main([part, str(out), "--device", "cpu", "--scale", "0.1", *more])
    record: dict[str, Any] = json.loads((out / f"{part}.json").read_text())
    assert (record["part"], record["device"]) == (part, "CPU")
    return record


@pytest.mark.parametrize("script", ["gpu"], indirect=True)
@pytest.mark.slow
def test_every_part_for_a_gpu_can_be_rehearsed_without_one(script, tmp_path):
    record = run(script, "engine", tmp_path, "--scale", "0.06")
    assert record["cpu fp32"]["largest_error"] == 0
    assert 60 < record["cpu bf16"]["psnr"] < 120
    assert run(script, "training", tmp_path, "--steps", "1")["cpu"]["steps"] == 1
    # The paper's protocol ends in time, and goes on.
    record = run(script, "paper", tmp_path, "--minutes", "0.002")
    assert (record["done"], record["of"]) == (False, 2000)  # 500 epochs of four pairs
    record = run(script, "paper", tmp_path, "--steps", "2")
    assert (record["done"], record["steps"]) == (True, 2)
    rows = (tmp_path / "paper" / "history.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["step", "1", "2"]


@pytest.mark.parametrize("script", ["results"], indirect=True)
def test_the_page_of_results_takes_its_tables_from_a_benchmark(script, tmp_path, monkeypatch):
    out, page = tmp_path / "out", tmp_path / "docs/results.md"
    (tmp_path / "docs/gallery").mkdir(parents=True)
    metrics = ("psnr", "ssim", "ncc", "wass", "hncc", "bhat", "js")
    columns = [f"{m}_{word}" for m in metrics for word in ("mean", "std", "place")]
    columns += ["folds", "participants"]
    rows = {"identity": [0.5, 0.25, "n/a"] * 7 + [5, 23]}
    rows |= {"inr": [0.5, 0.25, "n/a"] * 7 + [4, 20], "h2lo": [24.1234, 0.5678, 1] * 7 + [5, 23]}
    fold = out / "folds/T1w/h2lo/fold-0"
    fold.mkdir(parents=True)
    lines = ["\t".join(["method", *columns, "paper (ds006557) psnr_mean", "steps"])]
    lines += ["\t".join(map(str, [name, *row, 28.98, 0])) for name, row in rows.items()]
    (out / "table1_T1w.tsv").write_text("\n".join(lines) + "\n")
    (out / "splits.tsv").write_text("contrast\tfold\tparticipant_id\tpart\nT1w\t0\tsub-01\ttest\n")
    figures = "image\town_3mm\town_2mm\tnoise\n"
    (fold / "realism.tsv").write_text(f"{figures}h2lo\t.5\t.1\t.01\nn/a\t.4\t.2\t.02\n")
    (fold.parent / "fold-1").mkdir()  # of another division: not of this table
    (fold.parent / "fold-1/realism.tsv").write_text(f"{figures}h2lo\t9\t9\t9\n")
    square = np.ones((3, 8, 8), np.float16)
    kinds = {f"01/{kind}": square for kind in ("hf", "lf", "predicted")}
    np.savez(fold / "pictures.npz", **kinds, **{"01/histograms": np.ones((3, 4), np.float16)})
    ends = ("steps", "detail_3mm", "detail_2mm", "epochs_pretrain", "epochs_real")
    lines = ["\t".join(["method", *columns, *ends])]
    for name, end in {
        "identity": ["n/a", 0.25, 0.5, "n/a", "n/a"],
        "pfsr-h2lo": [9, 1, 0, 18, 5],
    }.items():
        lines.append("\t".join(map(str, [name, *rows["identity"], *end])))
    (out / "table2_T1w.tsv").write_text("\n".join(lines) + "\n")
    names = ("table1_T1w", "table1_T2w", "detail_T1w", "table2_T1w")
    page.write_text("\n".join(f"<!-- {name} -->\nas it was\n<!-- end -->" for name in names))
    monkeypatch.setattr(sys, "argv", ["results.py", str(out), str(page)])
    script.main()
    text = page.read_text()
    assert "| HF image | .50±.25 (28.98) | .50±.25 | .500±.250 |" in text
    assert "| H2LO | **24.12±.57** (28.98) | **24.12±.57** | **24.123±.568** |" in text
    assert "<!-- table1_T2w -->\nas it was\n" in text
    assert text.count("†") == 2
    assert "| Conditional INR † | .50±.25 (28.98) |" in text
    assert "|  |\n\nRows marked † lack folds or participants and are not ranked.\n<" in text
    assert "| LF image | .50±.25 |" in text
    assert "| .250 | .500 |  |  |" in text
    assert "| 1.000 | .000 | 18 + 5 | 9 |" in text
    assert text.index("| 64 mT | 0.40 | 0.20 | 0.0200 |") < text.index("| H2LO | 0.50 | 0.10 |")
    drawn = {path.name for path in (tmp_path / "docs/gallery").iterdir()}
    assert drawn == {"results_T1w.png", "results_T1w_histograms.png"}
    script.main()
    assert page.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("script", ["scale"], indirect=True)
def test_the_rehearsal_of_a_large_run_synthesizes_one_participant(script, tmp_path):
    model = write_bundle(tmp_path / "model", "T1w")
    cases = ["index", "schedule", "reports", "divide", "group"]
    assert set(script.rehearse(tmp_path / "run", 2, model, cases)) == set(cases)
    one, two = (
        (tmp_path / f"run/out/sub-0000{n}/anat/sub-0000{n}_desc-lowfield_T1w.nii.gz").read_bytes()
        for n in (1, 2)
    )
    assert one == two  # with the name of the first in its header
    made = (tmp_path / "run/out/logs").rglob("sub-00002.log")
    assert not next(made).read_text()  # as no step ran
