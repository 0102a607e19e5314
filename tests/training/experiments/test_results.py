"""Which folds stand in one table, and the text about a training, with its papers."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from h2lo_bids.evaluation.scores import SCORED, Score, read_scores, write_scores
from h2lo_bids.evaluation.splits import Fold, write_splits
from h2lo_bids.reports.methods import works
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.arms import Schedule
from h2lo_bids.training.experiments.results import collect, training_text

FOLDS = (Fold(0, ("03", "04"), ("05",), ("01", "02")), Fold(1, ("01", "02"), ("05",), ("03", "04")))


def record(
    out: Path, method: str, title: str, fold: dict, steps: int, contrast: str = "T1w",
    **more: object,
) -> Path:  # fmt: skip
    """Write the record of a fold and return its folder."""
    folder = out / "folds" / contrast / method / f"fold-{fold['index']}"
    folder.mkdir(parents=True)
    content = {
        "contrast": contrast, "method": method, "title": title, "steps": steps, "seed": 42,
        "fold": fold, **more,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(content))
    return folder


def put_fold(
    out: Path, method: str, fold: Fold, *, steps: int, level: float,
    told: dict[str, object] | None = None, **own: object,
) -> None:  # fmt: skip
    same = {"given": {"steps": steps, **own}, "pairs": dict.fromkeys("12345", "digest")}
    folder = record(out, method, method.upper(), asdict(fold), steps, **same, **(told or {}))
    scores = [
        Score(subject, name, fold.index, region, dict.fromkeys(SCORED, figure))
        for name, figure in (("identity", 0.25), (method, level))
        for subject in fold.test
        for region in ("foreground", "whole")
    ]
    write_scores(folder / "scores.tsv", scores)


def collected(out: Path, *contrasts: str, **how: Any) -> list[str]:
    """Collect what an output folder holds; return the warnings."""
    said: list[dict] = []
    collect(Settings(bids_dir=out, out_dir=out, **how), contrasts, said.append)
    return [event["text"] for event in said if event.get("level") == "warning"]


@pytest.mark.parametrize(
    ("other", "taken"), [({}, True), ({"steps": 5000}, False), ({"max_seconds": 60.0}, False)]
)
def test_methods_of_other_options_stay_out_of_the_table(tmp_path, other, taken):
    write_splits(tmp_path / "splits.tsv", {"T1w": FOLDS})
    for fold in FOLDS:
        put_fold(tmp_path, "h2lo", fold, steps=100, level=0.5)
        put_fold(tmp_path, "h2lo-nograd", fold, level=0.6, **{"steps": 100, **other})
    warnings = collected(tmp_path, "T1w", level="group", method=("h2lo",))
    scores = read_scores(tmp_path / "group_T1w_scores.tsv")
    # The identity's are in the folder of each method, and in the table once.
    rows = Counter((s.method, s.subject, s.region) for s in scores)
    methods = {"identity", "h2lo", "h2lo-nograd"} if taken else {"identity", "h2lo"}
    people = ("01", "02", "03", "04")
    assert rows == Counter(product(methods, people, ("foreground", "whole")))
    assert len(warnings) == (0 if taken else 2)
    assert all("h2lo-nograd" in text and "other pairs or options" in text for text in warnings)


@pytest.mark.parametrize("fault", ["", "division", "steps"])
def test_reports_only_mixes_no_runs_though_every_method_is_asked_for(tmp_path, fault):
    write_splits(tmp_path / "splits.tsv", {"T1w": FOLDS})
    # Two kinds of processors, a method that starts from weights, and one with a crop of its own.
    own = {"steps": 100, "precision": "bf16", "starts_from": "x"}
    for fold in FOLDS:
        put_fold(tmp_path, "h2lo", fold, level=0.5, crop=16, **own)
        put_fold(tmp_path, "ulfsynth", fold, level=0.6, told={"external": True}, **own)
        other = replace(fold, test=("05",), validation=("01",)) if fault == "division" else fold
        steps, patch = 5000 if fault == "steps" else 100, {"options": {"crop": 64}}
        put_fold(tmp_path, "pix2pix", other, steps=steps, crop=24, told=patch, level=0.6)
    how = {"level": "benchmark", "method": ("h2lo", "pix2pix"), "reports_only": True}
    assert len(collected(tmp_path, **how)) == 2 * bool(fault)
    table = (tmp_path / "table1.tsv").read_text()
    assert ("pix2pix" in table) == (not fault)
    assert "ulfsynth" in table  # a tool of an earlier run


@pytest.mark.parametrize("steps", [100, 5000])
def test_the_other_contrast_of_an_earlier_run_stays_in_the_table(tmp_path, steps):
    write_splits(tmp_path / "splits.tsv", dict.fromkeys(("T1w", "T2w"), FOLDS))
    for fold, contrast in product(FOLDS, ("T1w", "T2w")):
        put_fold(tmp_path, "h2lo", fold, steps=100, level=0.5, told={"contrast": contrast})
        own = {"steps": steps if contrast == "T1w" else 100, "told": {"contrast": contrast}}
        put_fold(tmp_path, "inr", fold, level=0.6, **own)
    how = {"level": "benchmark", "method": ("h2lo", "inr"), "contrast": ("T2w",)}
    assert len(collected(tmp_path, "T2w", **how)) == 2 * (steps == 5000)
    rows = [line.split("\t")[:2] for line in (tmp_path / "table1.tsv").read_text().splitlines()]
    # Of T1w, which this run has not fitted, unlike methods are not mixed.
    first = ["identity", "h2lo", *["inr"] * (steps == 100)]
    wanted = [["T1w", name] for name in first] + [["T2w", n] for n in ("identity", "inr", "h2lo")]
    assert sorted(rows[1:]) == sorted(wanted)
    assert "not in the table" not in (tmp_path / "table1.md").read_text()


@pytest.mark.parametrize(("earlier", "taken"), [("real", True), ("arnold", False)])
def test_the_rate_of_fine_tuning_keeps_pretrained_arms_alone_apart(tmp_path, earlier, taken):
    write_splits(tmp_path / "splits.tsv", {"T1w": FOLDS})
    for fold, (arm, rate) in product(FOLDS, ((earlier, 2e-6), ("h2lo", 1e-4))):
        options: dict[str, object] = {"schedule": {**asdict(Schedule()), "finetune_rate": rate}}
        options |= {"steps": 100, "pretrain": None if arm == "real" else {"steps": 9}}
        put_fold(tmp_path, f"pfsr-{arm}", fold, steps=100, level=0.5, told={"options": options})
    how = {"level": "benchmark", "task": "enhance", "arm": ("h2lo",)}
    assert len(collected(tmp_path, **how)) == 2 * (not taken)
    assert (f"pfsr-{earlier}" in (tmp_path / "table2.tsv").read_text()) == taken


def test_each_method_is_cited_with_its_steps(tmp_path):
    assert training_text(tmp_path) == ""
    for number in (0, 1):
        fold = {"index": number}
        record(tmp_path, "pix2pix", "Pix2Pix", fold, 600)
        record(tmp_path, "arnold", "Arnold et al.", fold, 900 + number, initial={"name": "mine"})
        record(tmp_path, "identity", "HF image", fold, 0)
    text = training_text(tmp_path)
    assert (
        "the simulator of Arnold et al. [@arnold] and the Pix2Pix network in 3D [@pix2pix]" in text
    )
    assert "Pix2Pix (600 steps)" in text
    assert "Arnold et al. (900 to 901 steps from the weights of mine)" in text
    assert "HF image (nothing to fit), Pix2Pix (600 steps) in 2 folds" in text
    assert "operator" not in text
    assert "Adam" not in text
    assert set(re.findall(r"\[@(\w+)\]", text)) <= works().keys()


def test_an_arm_is_not_told_as_the_method_that_it_is_pretrained_on(tmp_path):
    record(tmp_path, "h2lo", "H2LO", {"index": 0}, 5000)
    enhanced = {"task": "enhance", "pretrain_steps": 90}
    record(tmp_path, "pfsr-h2lo", "H2LO", {"index": 0}, 30, **enhanced)
    text = training_text(tmp_path)
    assert "T1w: H2LO (5000 steps) in 1 fold" in text
    arm = "H2LO (30 steps after pretraining on synthetic pairs) in 1 fold"
    assert f"T1w enhancement: {arm}" in text
    assert "neural operator [@h2lo] and a PF-SR-style enhancement network [@pfsr]" in text


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        (("ANTs, rigid",), "were registered rigidly to the high-field ones with ANTs [@ants];"),
        (
            ("ANTs, rigid", "none, registered already"),
            "ANTs [@ants], or assumed to be already registered",
        ),
    ],
)
def test_the_methods_text_says_what_was_done_with_the_pairs(tmp_path, ways, said):
    pairs = {}
    for number, way in enumerate([*ways, "none, of a pair that is not used"]):
        stem = f"sub-0{number}_res-model_desc-pairLF_T1w"
        pairs |= {stem: "digest"} if number < len(ways) else {}
        (tmp_path / f"sub-0{number}/anat").mkdir(parents=True)
        content = json.dumps({"RegistrationMethod": way})
        (tmp_path / f"sub-0{number}/anat/{stem}.json").write_text(content)
    for method, title, scaling in (("h2lo", "H2LO", "robust"), ("pix2pix", "Pix2Pix", "max")):
        how = {"pairs": pairs, "options": {"scaling": scaling}}
        record(tmp_path, method, title, {"index": 0}, 600, **how)
    text = training_text(tmp_path)
    assert said in text
    assert "The input of H2LO was instead mapped to fixed levels" in text
    assert set(re.findall(r"\[@(\w+)\]", text)) <= works().keys()
