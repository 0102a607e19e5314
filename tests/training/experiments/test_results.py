"""Which folds stand in one table, and the text about a training, with its papers."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pytest

from h2lo_bids.evaluation.scores import SCORED, Score, read_scores, write_scores
from h2lo_bids.evaluation.splits import Fold, write_splits
from h2lo_bids.reports.methods import works
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.results import collect, training_text

FOLDS = (Fold(0, ("03", "04"), ("05",), ("01", "02")), Fold(1, ("01", "02"), ("05",), ("03", "04")))


def record(out: Path, method: str, title: str, fold: dict, steps: int, **more: object) -> Path:
    """Write the record of a fold and return its folder."""
    folder = out / "folds" / "T1w" / method / f"fold-{fold['index']}"
    folder.mkdir(parents=True)
    content = {
        "contrast": "T1w", "method": method, "title": title, "steps": steps, "seed": 42,
        "fold": fold, **more,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(content))
    return folder


def put_fold(
    out: Path, method: str, fold: Fold, *, steps: int, level: float, **own: object
) -> None:
    same = {"given": {"steps": steps, **own}, "pairs": dict.fromkeys("12345", "digest")}
    folder = record(out, method, method.upper(), asdict(fold), steps, **same)
    scores = [
        Score(subject, name, fold.index, region, dict.fromkeys(SCORED, figure))
        for name, figure in (("identity", 0.25), (method, level))
        for subject in fold.test
        for region in ("foreground", "whole")
    ]
    write_scores(folder / "scores.tsv", scores)


@pytest.mark.parametrize(("steps", "taken"), [(100, True), (5000, False)])
def test_methods_of_other_options_stay_out_of_the_table(tmp_path, steps, taken):
    write_splits(tmp_path / "splits.tsv", {"T1w": FOLDS})
    for fold in FOLDS:
        put_fold(tmp_path, "h2lo", fold, steps=100, level=0.5)
        put_fold(tmp_path, "h2lo-nograd", fold, steps=steps, level=0.6)
    said = []
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path, level="group", method=("h2lo",))
    collect(settings, ("T1w",), said.append)
    scores = read_scores(tmp_path / "group_T1w_scores.tsv")
    # The identity's are in the folder of each method, and in the table once.
    rows = Counter((s.method, s.subject, s.region) for s in scores)
    methods = {"identity", "h2lo", "h2lo-nograd"} if taken else {"identity", "h2lo"}
    people = ("01", "02", "03", "04")
    assert rows == Counter(product(methods, people, ("foreground", "whole")))
    warnings = [event["text"] for event in said if event.get("level") == "warning"]
    assert len(warnings) == (0 if taken else 2)
    assert all("h2lo-nograd" in text and "other pairs or options" in text for text in warnings)


@pytest.mark.parametrize("fault", ["", "division", "steps"])
def test_reports_only_mixes_no_runs_though_every_method_is_asked_for(tmp_path, fault):
    write_splits(tmp_path / "splits.tsv", {"T1w": FOLDS})
    for fold in FOLDS:
        # A cluster of two kinds of processors, and a method that starts from weights.
        put_fold(tmp_path, "h2lo", fold, steps=100, level=0.5, precision="bf16", starts_from="x")
        other = replace(fold, test=("05",), validation=("01",)) if fault == "division" else fold
        put_fold(tmp_path, "pix2pix", other, steps=5000 if fault == "steps" else 100, level=0.6)
    said = []
    how = {"level": "benchmark", "method": ("h2lo", "pix2pix"), "reports_only": True}
    collect(Settings(bids_dir=tmp_path, out_dir=tmp_path, **how), (), said.append)
    table = (tmp_path / "table1.tsv").read_text()
    assert ("pix2pix" in table) == (not fault)
    assert len([event for event in said if event.get("level") == "warning"]) == 2 * bool(fault)


def test_each_method_is_cited_with_its_steps(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        (("ANTs, rigid",), "were registered rigidly to the high-field ones with ANTs [@ants];"),
        (("none, registered already",), "were taken as registered to the high-field ones before;"),
        (("ANTs, rigid", "none, registered already"), "ANTs [@ants], or taken as registered"),
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
    assert "The input of H2LO was brought to fixed levels" in text
    assert set(re.findall(r"\[@(\w+)\]", text)) <= works().keys()
