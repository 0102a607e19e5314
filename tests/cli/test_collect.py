"""Which folds stand in one table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from h2lo_bids.cli.group import clean_workdir
from h2lo_bids.evaluation.scores import SCORED, Score, read_scores, write_scores
from h2lo_bids.evaluation.splits import Fold, write_splits
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import CollectTask
from h2lo_bids.training.experiments.crossvalidation import fold_folder
from h2lo_bids.training.experiments.results import collect

FOLDS = (Fold(0, ("03", "04"), ("05",), ("01", "02")), Fold(1, ("01", "02"), ("05",), ("03", "04")))


def put_fold(out: Path, method: str, fold: Fold, *, steps: int, level: float) -> None:
    folder = fold_folder(out, "T1w", method, fold.index)
    folder.mkdir(parents=True)
    record = {
        "contrast": "T1w",
        "method": method,
        "title": method.upper(),
        "fold": asdict(fold),
        "given": {"steps": steps},
        "pairs": dict.fromkeys("12345", "digest"),
        "seed": 42,
        "steps": steps,
    }
    (folder / "record.json").write_text(json.dumps(record))
    values = dict.fromkeys(SCORED, level)
    scores = [
        Score(subject, method, fold.index, region, values)
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
    collect(CollectTask(settings, ("T1w",)), said.append)
    found = {score.method for score in read_scores(tmp_path / "group_T1w_scores.tsv")}
    assert found == ({"h2lo", "h2lo-nograd"} if taken else {"h2lo"})
    warnings = [event["text"] for event in said if event.get("level") == "warning"]
    assert len(warnings) == (0 if taken else 2)
    assert all("h2lo-nograd" in text and "other pairs or options" in text for text in warnings)


@pytest.mark.parametrize("level", ["group", "evaluate"])
def test_cleaning_spares_the_fits_of_other_runs(tmp_path, level):
    own, other = (tmp_path / "training" / c / "h2lo" / "fold-0_x" for c in ("T1w", "T2w"))
    for folder in (own, other, tmp_path / "training" / "pairs", tmp_path / "sub_01_pairs_wf"):
        folder.mkdir(parents=True)
    settings = Settings(
        bids_dir=tmp_path, out_dir=tmp_path, level=level, work_dir=tmp_path, contrast=("T1w",)
    )
    clean_workdir(settings)
    assert own.exists() == (level == "evaluate")
    assert other.exists()
    assert not (tmp_path / "sub_01_pairs_wf").exists()
