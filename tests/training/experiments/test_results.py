"""Which folds stand in one table, and the text about a training, with its papers."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from heads import make, rows_of

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


def put(out: Path, method: str, *contrasts: str, folds=FOLDS, told=None, **given: object) -> None:
    """Write both folds of a method that was given some options."""
    given = {"steps": 100, **given}
    same = {"given": given, "pairs": dict.fromkeys("12345", "digest"), **(told or {})}
    for fold, contrast in product(folds, contrasts or ("T1w",)):
        folder = record(out, method, method.upper(), asdict(fold), given["steps"], contrast, **same)
        scores = [
            Score(subject, name, fold.index, region, dict.fromkeys(SCORED, figure))
            for name, figure in (("identity", 0.25), (method, 0.5))
            for subject in fold.test
            for region in ("foreground", "whole")
        ]
        write_scores(folder / "scores.tsv", scores)


def collected(out: Path, *contrasts: str, **how: Any) -> dict[str, int]:
    """Collect what an output folder holds; return the methods that were left out, and why."""
    write_splits(out / "splits.tsv", dict.fromkeys(("T1w", "T2w"), FOLDS))
    said: list[dict] = []
    collect(Settings(bids_dir=out, out_dir=out, **how), contrasts, said.append)
    warned = [event["text"] for event in said if event.get("level") == "warning"]
    pattern = r".*/(\S+)/fold-\d: of (.*); not in the table"
    return Counter(re.fullmatch(pattern, text).groups() for text in warned)


def rows(table: Path) -> list[tuple[str, str]]:
    return sorted((row["contrast"], row["method"]) for row in rows_of(table))


def test_methods_of_other_options_stay_out_of_the_table(tmp_path):
    for method in ("h2lo", "h2lo-nograd"):
        put(tmp_path, method)
    put(tmp_path, "h2lo-mlp", max_seconds=60.0)
    left = collected(tmp_path, "T1w", level="group", method=("h2lo",))
    assert left == {("h2lo-mlp", "other pairs or options"): 2}
    scores = read_scores(tmp_path / "group_T1w_scores.tsv")
    # The identity's are in the folder of each method, and in the table once.
    found = Counter((s.method, s.subject, s.region) for s in scores)
    people, regions = ("01", "02", "03", "04"), ("foreground", "whole")
    assert found == Counter(product(("identity", "h2lo", "h2lo-nograd"), people, regions))


def test_reports_only_mixes_no_runs_though_every_method_is_asked_for(tmp_path):
    # Two kinds of processors, a method that starts from weights, and one with a crop of its own.
    own = {"precision": "bf16", "starts_from": "x"}
    put(tmp_path, "h2lo", crop=16, **own)
    put(tmp_path, "ulfsynth", told={"external": True}, **own)
    put(tmp_path, "pix2pix", told={"options": {"crop": 64}}, crop=24)
    others = [replace(fold, test=("05",), validation=("01",)) for fold in FOLDS]
    put(tmp_path, "inr", folds=others, crop=16)
    put(tmp_path, "h2lo-mlp", steps=5000, crop=16)
    methods = ("h2lo", "pix2pix", "inr", "h2lo-mlp")
    left = collected(tmp_path, level="benchmark", method=methods, reports_only=True)
    assert left == {
        ("inr", "another division of the subjects"): 2,
        ("h2lo-mlp", "other pairs or options"): 2,
    }
    # A tool of an earlier run is there, too.
    assert rows(tmp_path / "table1.tsv") == [
        ("T1w", name) for name in ("h2lo", "identity", "pix2pix", "ulfsynth")
    ]


def test_the_other_contrast_of_an_earlier_run_stays_in_the_table(tmp_path):
    for method in ("h2lo", "inr"):
        put(tmp_path, method, "T1w", "T2w")
    put(tmp_path, "pix2pix", "T1w", steps=5000)
    put(tmp_path, "pix2pix", "T2w")
    how = {"level": "benchmark", "method": ("h2lo", "inr", "pix2pix"), "contrast": ("T2w",)}
    # Of T1w, which this run has not fitted, unlike methods are not mixed.
    assert collected(tmp_path, "T2w", **how) == {("pix2pix", "other pairs or options"): 2}
    names = ("h2lo", "identity", "inr", "pix2pix")
    wanted = [(contrast, name) for contrast in ("T1w", "T2w") for name in names]
    wanted.remove(("T1w", "pix2pix"))
    assert rows(tmp_path / "table1.tsv") == wanted
    assert "not in the table" not in (tmp_path / "table1.md").read_text()


def test_the_rate_of_fine_tuning_keeps_pretrained_arms_alone_apart(tmp_path):
    for arm, rate in (("real", 2e-6), ("arnold", 2e-6), ("h2lo", 1e-4)):
        options: dict[str, object] = {"schedule": {**asdict(Schedule()), "finetune_rate": rate}}
        options |= {"steps": 100, "pretrain": None if arm == "real" else {"steps": 9}}
        put(tmp_path, f"pfsr-{arm}", told={"options": options})
    left = collected(tmp_path, level="benchmark", task="enhance", arm=("h2lo",))
    assert left == {("pfsr-arnold", "other pairs or options"): 2}
    assert rows(tmp_path / "table2.tsv") == [
        ("T1w", name) for name in ("identity", "pfsr-h2lo", "pfsr-real")
    ]


def test_each_method_is_cited_with_its_steps(tmp_path):
    assert training_text(tmp_path) == ""
    for number in (0, 1):
        fold = {"index": number}
        record(tmp_path, "pix2pix", "Pix2Pix", fold, 600)
        record(tmp_path, "arnold", "Arnold et al.", fold, 900 + number, initial={"name": "mine"})
        record(tmp_path, "identity", "HF image", fold, 0)
    # An arm is not told as the method that it is pretrained on.
    enhanced = {"task": "enhance", "pretrain_steps": 90}
    record(tmp_path, "pfsr-arnold", "Arnold et al.", {"index": 0}, 30, **enhanced)
    text = training_text(tmp_path)
    for told in (
        "a PF-SR-style enhancement network [@pfsr]",
        "the simulator of Arnold et al. [@arnold]",
        "the Pix2Pix network in 3D [@pix2pix]",
        "were registered rigidly to the high-field ones with ANTs [@ants];",
        "T1w: Arnold et al. (900 to 901 steps from the weights of mine), "
        "HF image (nothing to fit), Pix2Pix (600 steps) in 2 folds",
        "T1w enhancement: Arnold et al. (30 steps after pretraining on synthetic pairs) in 1 fold",
    ):
        assert told in text
    assert "operator" not in text
    assert set(re.findall(r"\[@(\w+)\]", text)) <= works().keys()


def test_the_methods_text_says_what_was_done_with_the_pairs(tmp_path):
    stems = [f"sub-0{number}_res-model_desc-pairLF_T1w" for number in range(3)]
    ways = ("ANTs, rigid", "none, registered already", "none, of a pair that is not used")
    for stem, way in zip(stems, ways, strict=True):
        path = tmp_path / stem[:6] / "anat" / f"{stem}.json"
        make(path, text=json.dumps({"RegistrationMethod": way}))
    for method, title, scaling in (("h2lo", "H2LO", "robust"), ("pix2pix", "Pix2Pix", "max")):
        how = {"pairs": dict.fromkeys(stems[:2], "digest"), "options": {"scaling": scaling}}
        record(tmp_path, method, title, {"index": 0}, 600, **how)
    text = training_text(tmp_path)
    assert "high-field ones with ANTs [@ants], or assumed to be already registered" in text
    assert "The input of H2LO was instead mapped to fixed levels" in text
    assert set(re.findall(r"\[@(\w+)\]", text)) <= works().keys()
