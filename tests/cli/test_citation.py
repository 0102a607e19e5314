"""The text about a training names what was fitted, each with its paper."""

from __future__ import annotations

import json
import re
from pathlib import Path

from h2lo_bids.reports.methods import works
from h2lo_bids.training.experiments.results import training_text


def record(out: Path, method: str, title: str, fold: int, steps: int, **more: object) -> None:
    folder = out / "folds" / "T1w" / method / f"fold-{fold}"
    folder.mkdir(parents=True)
    told = {
        "contrast": "T1w", "method": method, "title": title, "steps": steps, "seed": 42,
        "fold": {"index": fold}, **more,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(told))


def test_the_model_that_a_fit_started_from_is_named(tmp_path: Path) -> None:
    for fold, steps in enumerate((7, 9, 8)):
        record(tmp_path, "h2lo", "H2LO", fold, steps, initial={"name": "my_model"})
    assert "H2LO (7 to 9 steps from the weights of my_model) in 3 folds" in training_text(tmp_path)


def test_each_method_is_cited_with_its_steps(tmp_path: Path) -> None:
    assert training_text(tmp_path) == ""
    for fold in (0, 1):
        record(tmp_path, "pix2pix", "Pix2Pix", fold, 600)
        record(tmp_path, "arnold", "Arnold et al.", fold, 900 + fold)
        record(tmp_path, "identity", "HF image", fold, 0)
    text = training_text(tmp_path)
    assert (
        "the simulator of Arnold et al. [@arnold] and the Pix2Pix network in 3D [@pix2pix]" in text
    )
    assert "Pix2Pix (600 steps)" in text
    assert "Arnold et al. (900 to 901 steps)" in text
    assert "HF image (nothing to fit), Pix2Pix (600 steps) in 2 folds" in text
    assert "operator" not in text
    assert "Adam" not in text
    assert set(re.findall(r"\[@(\w+)\]", text)) <= works().keys()
