"""Fits divided into tasks: pairs, folds, and the one that collects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from heads import make, record, write_pairs
from prepared_pairs import write_pair

from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.cli.outputs import expected_outputs
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.cli.slurm_tasks import Stage, stages_of
from h2lo_bids.errors import UsageError

COLLECTED = 1000.0
"""When the last task ended."""
EXTERNAL = {"group": (), "benchmark": ("--external", "theirs=cp {input} {output}")}
COLLECT = {
    "group": ("group.html", "group_T1w_scores.tsv", "models/h2lo_T1w/weights.safetensors"),
    "benchmark": ("table1.html", "table1_T1w.md", "folds/T1w/theirs/fold-1/record.json"),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("raw") / "bids")


@pytest.fixture
def asking(raw, tmp_path):
    """Return a function that reads a command line on pairs that a test may change."""
    bids, out = shutil.copytree(raw, tmp_path / "bids"), tmp_path / "out"
    quick = [str(bids), str(out), "--skip-bids-validation"]
    return lambda *words: read_settings([*quick, *words])


@pytest.fixture
def stages(asking, tmp_path, monkeypatch):
    """Return a function that divides a command line, with pairs that are all prepared."""
    monkeypatch.setattr("h2lo_bids.cli.pairs.find_missing", lambda settings, pairs, send: ())

    def divide(*words: str, ended: str = "") -> dict[str, Stage]:
        asked = asking(*words)
        if ended:
            record(tmp_path / "run", "collect", "collect", f"{ended} 9_0", COLLECTED)
        return {stage.name: stage for stage in stages_of(asked, tmp_path / "run")}

    return divide


@pytest.mark.parametrize("level", ["group", "benchmark"])
def test_the_last_task_runs_again_when_something_it_made_is_gone_or_a_fold_is_newer(
    stages, asking, tmp_path, level
):
    words = (level, "--folds", "2", "--method", "h2lo", *EXTERNAL[level])
    out = tmp_path / "out"

    def collected(ended: str = "0") -> bool:
        return stages(*words, ended=ended)["collect"].tasks[0].done

    asked = asking(*words)
    made = [item.path for item in expected_outputs(asked, discover_pairs(asked))]
    own = [path for path in made if path.is_relative_to(out / "folds/T1w/h2lo")]
    for path in own:
        if "fold-0" in path.parts:
            make(path, 900.0)
    assert [task.done for task in stages(*words)["folds"].tasks] == [True, False]
    for path in made:
        make(path, 950.0)
    assert not collected("75")
    assert collected()
    for name in COLLECT[level]:
        (out / name).rename(out / "gone")
        assert not collected(), name
        (out / "gone").rename(out / name)
    assert collected()
    os.utime(out / "folds/T1w/h2lo/fold-1/record.json", (1001.0, 1001.0))
    assert not collected()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("group",), "--method h2lo"),
        (("group", "--task", "enhance"), ""),
        (("benchmark", "--method", "arnold", "identity"), "--method arnold"),
        (("benchmark", "--task", "enhance", "--arm", "flip-rotate", "real"), "--arm flip-rotate"),
    ],
)
def test_each_fold_is_a_task_and_the_last_fits_none(stages, words, named):
    found = stages(*words, "--folds", "2")
    first = found["folds"].tasks[0]
    assert list(found) == ["pairs", "folds", "collect"]
    assert " ".join(first.words) == " ".join(f"--contrast T1w {named} --fold 0".split())
    assert len(found["folds"].tasks) == (4 if words[0] == "benchmark" else 2)
    assert len({task.name for task in found["folds"].tasks}) == len(found["folds"].tasks)
    assert found["collect"].settings.collect
    assert not found["folds"].settings.collect


def test_a_rerun_while_some_pairs_are_prepared_submits_the_same_folds(stages, tmp_path):
    """Also where no GPU is, as on a login node."""
    words = ("benchmark", "--method", "arnold", "--folds", "2", "--device", "cuda")
    before = stages(*words)["folds"].tasks
    high = "bids:raw:sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz"
    write_pair(tmp_path / "out", "01", 1, SourceScans=[high])
    assert stages(*words)["folds"].tasks == before


def test_arms_without_their_synthesis_models_are_refused_before_anything_is_submitted(
    stages, tmp_path
):
    (tmp_path / "cohort").mkdir()
    words = ("benchmark", "--task", "enhance", "--folds", "2")
    words += ("--pretrain-derivatives", str(tmp_path / "cohort"))
    with pytest.raises(UsageError, match=r"benchmark .*--method arnold --folds 2"):
        stages(*words, "--arm", "real", "arnold")
    assert stages(*words, "--arm", "real", "flip-rotate")["folds"]


def test_pairs_that_no_task_prepares_are_named(stages, tmp_path, capsys):
    for label, broken in (("01", "HF"), ("02", "LF")):
        path = tmp_path / f"bids/sub-{label}/ses-{broken}/anat/sub-{label}_ses-{broken}_T1w.json"
        path.write_text("{")
    (tmp_path / "bids/sub-03/ses-LF/anat/sub-03_ses-LF_T1w.nii.gz").unlink()
    found = stages("participant", "--pairs")
    assert [task.name for task in found["pairs"].tasks] == ["sub-04", "sub-05"]
    said = capsys.readouterr().err.splitlines()
    for text in ("sub-01", "sub-02", "sub-03: no low-field T1w to go with ses-HF_T1w"):
        assert len([line for line in said if text in line]) == 1
