"""How fits share processors, and what they tell."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prepared_pairs import fit_first, plan_of, write_pair, write_pairs

from h2lo_bids.cli.parser import read_settings
from h2lo_bids.cli.resources import fit_threads
from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation.splits import Fold, write_splits
from h2lo_bids.models.bundle import Bundle, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo, H2loArchitecture
from h2lo_bids.settings import Settings
from h2lo_bids.training import options as fitoptions
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.training.experiments import FitTask, Plan, fits
from h2lo_bids.training.experiments.leaks import brain_of, encode
from h2lo_bids.training.options import find_start, fit_options
from h2lo_bids.training.pairs import find_prepared, training_frame
from pipelines.pairs import PairOptions

SETTINGS = Settings(Path("/bids"), Path("/out"), "group", nprocs=8)


def test_folds_and_devices_share_the_processors():
    assert fit_threads(replace(SETTINGS, n_folds_parallel=3)) == 2
    assert fit_threads(replace(SETTINGS, n_folds_parallel=2, devices=2)) == 2
    assert fit_threads(replace(SETTINGS, n_folds_parallel=20)) == 1
    assert fit_threads(replace(SETTINGS, omp_nthreads=5)) == 5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"folds": "2", "fold": (9,)}, "--fold 9"),
        ({"device": "cuda:99"}, "cuda:99: this machine offers cpu"),
        ({"folds": "2", "precision": "fp16", "device": "cpu"}, "fp16"),
    ],
)
def test_what_no_fit_can_follow_is_refused_before_pairs_are_prepared(words, text):
    people = {"T1w": ["01", "02", "03", "04"]}
    fits.check_ahead(replace(SETTINGS, folds="2"), people)
    with pytest.raises(UsageError, match=text):
        fits.check_ahead(replace(SETTINGS, **words), people)


def test_who_is_in_no_fold_of_a_table_is_named(tmp_path):
    folds = (Fold(0, ("01",), ("02",), ("03",)), Fold(1, ("01",), ("03",), ("02",)))
    table, said = write_splits(tmp_path / "folds.tsv", {"T1w": folds}), []
    given = replace(SETTINGS, folds=str(table))
    fits.divide_subjects(given, "T1w", ["01", "02", "03"], send=said.append)
    assert not said
    fits.divide_subjects(given, "T1w", ["01", "02", "03", "04", "05"], send=said.append)
    assert [event["text"] for event in said] == [f"T1w: in no fold of {table}: sub-04, sub-05"]


def test_the_papers_pairs_serve_both_tasks():
    for task, sampling in (("synthesize", "volume"), ("enhance", "patch")):
        words = ["/bids", "/out", "benchmark", "--task", task, "--protocol", "paper"]
        settings = read_settings(words)
        assert PairOptions(settings, Frame()).own_masks
        # A varied patch would be cut by the high-field mask, which is not that of its image.
        options = fit_options(settings, 13)
        assert (options.augmentation, options.sampling) == (Augmentation(), sampling)


def save(folder: Path, **changes: Any) -> Bundle:
    """Save a model of the default's sizes, scaling and frame, but for some changes."""
    model = H2lo(changes.pop("architecture", H2loArchitecture()))
    values = {"contrast": "T1w", "frame": Frame(), "metadata": {"scaling": "robust"}, **changes}
    return save_bundle(folder, model, card="x\n", **values)


def test_fits_start_from_the_model_that_is_named(tmp_path, monkeypatch):
    bundle = save(tmp_path / "m")
    given = replace(SETTINGS, init=(("T1w", bundle.path), ("T2w", "none")))
    found, words = find_start(given, "T1w", "h2lo")
    assert found == bundle
    assert words == f"starts from the weights of m (SHA-256 {bundle.sha256})"
    options, usual = fit_options(given, 3, found), fit_options(given, 3)
    assert (options.starts_from, usual.starts_from) == (bundle.sha256, None)
    assert options.learning_rate < usual.learning_rate
    assert fit_options(replace(given, learning_rate=0.5), 3, found).learning_rate == 0.5
    assert find_start(given, "T2w", "h2lo") == (None, "starts from random weights")
    assert find_start(given, "T1w", "h2lo-nograd") == (None, "")
    # A folder of models serves the contrasts that it has.
    folder = replace(given, init=(("", bundle.path.parent),))
    assert find_start(folder, "T1w", "h2lo")[0] == bundle
    with pytest.raises(UsageError, match="holds no h2lo model for T2w"):
        find_start(folder, "T2w", "h2lo")
    monkeypatch.setattr(fitoptions, "default_bundle", lambda contrast: bundle)
    embedded = replace(given, init=(("", "embedded"),))
    assert find_start(embedded, "T1w", "h2lo")[0] == bundle


@pytest.mark.parametrize(
    ("model", "words", "text"),
    [
        ({"contrast": "T2w"}, {}, "is a model of T2w"),
        ({"method": "h2lo-mlp", "architecture": H2loArchitecture(trunk="mlp")}, {}, "of h2lo-mlp"),
        ({"architecture": H2loArchitecture(width=8)}, {}, r"other sizes \(width 8, not 256\)"),
        ({}, {"protocol": "paper"}, "takes an input of robust scaling, not max"),
        ({"frame": Frame((200, 256, 256))}, {}, "sees positions on another grid, of 1 mm voxels"),
        ({}, {"resolution": 4.0}, "sees positions on another grid, of 1 mm voxels"),
    ],
)
def test_a_model_that_no_fit_can_start_from_is_one_line(tmp_path, model, words, text, refused):
    bundle = save(tmp_path / "m", **model)
    given = replace(SETTINGS, init=(("", bundle.path),), **words)
    line = refused(UsageError, find_start, given, "T1w", "h2lo")
    assert re.fullmatch(rf"--init {bundle.path}: the T1w fits .*{text}", line)


def test_whom_the_first_weights_have_seen_neither_chooses_nor_is_tested(tmp_path):
    frame = training_frame(8.0)
    known = {p.subject: [encode(brain_of(p))] for p in write_pairs(tmp_path, 5, frame=frame)}
    given = replace(SETTINGS, out_dir=tmp_path, resolution=8.0, folds="0")
    (usual,) = plan_of(given).held
    for unseen, held in (("01", "01"), ("05", "05"), ("", usual)):  # nobody is left of all
        told = {label: texts for label, texts in known.items() if label != unseen}
        metadata = {"scaling": "robust", "training_data": {"fingerprints": told}}
        bundle = save(tmp_path / f"m{unseen}", frame=frame, metadata=metadata)
        begun, sent = replace(given, init=(("", bundle.path),)), []
        assert plan_of(begun, sent.append).held == (held,)
        line = f"starts from the weights of {bundle.path.name} (SHA-256 {bundle.sha256})"
        assert f"T1w h2lo: {line}" in [event.get("text") for event in sent]
    with pytest.raises(UsageError, match=r"was trained on sub-0\d, a test subject"):
        plan_of(replace(begun, folds="2"))


def test_one_fold_alone_has_no_spread_to_carry(tmp_path):
    pairs = write_pairs(tmp_path, 4)
    given = replace(SETTINGS, out_dir=tmp_path)
    people = ("01", "02"), ("03",), ("04",)
    for count in (1, 2):
        plan = Plan((), tuple(Fold(k, *people) for k in range(count)), (), frozenset())
        job = fits.final_job(FitTask(given, "T1w", "h2lo", plan, None, 1), pairs)
        assert (len(job.folds), job.carries) == (count, count > 1)


def test_a_contrast_of_too_few_sound_pairs_does_not_stop_the_other(tmp_path):
    write_pairs(tmp_path, 3)
    for subject in ("01", "02"):
        write_pair(tmp_path, subject, int(subject), contrast="T2w")
    sources = {
        contrast: tuple(pair.sources[0] for pair in find_prepared(tmp_path, contrast=contrast))
        for contrast in ("T1w", "T2w")
    }
    given, sent = replace(SETTINGS, out_dir=tmp_path, folds="3"), []
    assert [*fits.plan_folds(given, sources, sent.append)] == ["T1w"]
    (lost,) = (event["text"] for event in sent if event["event"] == "lost")
    assert lost.startswith("T2w: 2 subjects with pairs cannot make 3 folds")
    assert lost.endswith("or leave T2w out with --contrast")
    with pytest.raises(UsageError, match=r"^T2w: 2 subjects with pairs cannot make 3 folds"):
        fits.plan_folds(given, {"T2w": sources["T2w"]}, print)


def test_pairs_that_are_gone_are_not_called_flagged(tmp_path):
    check = {"Flagged": True, "Reasons": ["the overlap is 0.31"], "Figures": {}}
    (pair,) = write_pairs(tmp_path, 1, RegistrationCheck=check)
    settings, sources = Settings(tmp_path, tmp_path, "group"), {"T1w": pair.sources}
    with pytest.raises(BadDataError, match=r"flagged every pair; inspect them on the page"):
        fits.usable_pairs(settings, sources)
    kept = replace(settings, keep_flagged_pairs=True)
    assert fits.usable_pairs(kept, sources) == {"T1w": (pair,)}
    write_pair(tmp_path, "01", 1, contrast="T2w")
    (sound,) = find_prepared(tmp_path, contrast="T2w")
    both, sent = {**sources, "T2w": sound.sources}, []
    assert fits.usable_pairs(settings, both, sent.append) == {"T2w": (sound,)}
    (lost,) = (event["text"] for event in sent if event["event"] == "lost")
    assert lost.startswith("T1w: the registration check flagged every pair; inspect them")
    pair.record.write_text("{")
    for each in (settings, kept):
        with pytest.raises(BadDataError, match="prepared pairs are gone or damaged; run the same"):
            fits.usable_pairs(each, sources)


def test_folds_of_two_kinds_of_processors_are_not_mixed(tmp_path, monkeypatch):
    write_pairs(tmp_path / "out", 4)
    small = {"task": "enhance", "schedule_factor": 1e-3, "features": 2}
    settings = Settings(tmp_path, tmp_path / "out", "group", folds="2", device="cpu", **small)
    monkeypatch.setattr(fitoptions, "native_precision", lambda device: "fp32")
    fit_first(settings, "pfsr")
    monkeypatch.setattr(fitoptions, "native_precision", lambda device: "bf16")
    with pytest.raises(UsageError, match=r"option precision\); give .*--precision follows"):
        plan_of(settings)
    assert plan_of(replace(settings, precision="fp32")).done == {("pfsr", 0)}
