"""A made-up output folder of a training: balls for heads, scores from a generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from heads import write_bundle
from prepared_pairs import write_pair
from problems import ball_pair
from samples import made_up

from h2lo_bids.evaluation.benchmark import benchmark_table
from h2lo_bids.evaluation.scores import SCORED, Score, read_scores, write_scores
from h2lo_bids.evaluation.splits import Fold, write_splits
from h2lo_bids.evaluation.table import Table, tabulate, write_tables
from h2lo_bids.io import atomic_write_text, write_json
from h2lo_bids.reports.group import write_group_report
from h2lo_bids.training.experiments.heldout import pictures_of
from h2lo_bids.vocabulary import SYNTHESIZE

METHODS = {"h2lo": "H2LO", "h2lo-mlp": "H2LO w/o SIREN", "h2lo-nograd": "H2LO w/o L_grad"}


@dataclass(frozen=True)
class Sample:
    """What to make up."""

    subjects: tuple[str, ...] = tuple(f"P{k:02d}" for k in range(6))
    methods: tuple[str, ...] = tuple(METHODS)
    folds: int = 3
    title: str = ""
    reason: str = "brain masks overlap by Dice 0.61, at least 0.80 is expected"


def make_group(out: Path, sample: Sample | None = None) -> Path:
    """Write a whole cross-validation."""
    sample = sample or Sample()
    make_pairs(out, sample)
    scores = []
    for fold in range(sample.folds):
        for method in sample.methods:
            scores += make_fold(out, "T1w", method, fold, sample)
    if scores:
        write_tables(out / "group_T1w", scores, tabulate(scores, METHODS))
        folds = tuple(division(sample, fold) for fold in range(sample.folds))
        write_splits(out / "splits.tsv", {"T1w": folds})
    write_bundle(out / "models/h2lo_T1w", "T1w", card="# The card\n\nOf a model.\n")
    config = '[run]\nanalysis-level = "group"\ncommand = "h2lo bids out group"\n'
    atomic_write_text(out / "logs" / "20260101T000000_x" / "config.toml", config)
    return out


def division(sample: Sample, fold: int) -> Fold:
    """Divide the subjects of one fold."""
    test = sample.subjects[fold :: sample.folds]
    rest = tuple(name for name in sample.subjects if name not in test)
    return Fold(fold, rest[1:], rest[:1], test)


def make_fold(
    out: Path, contrast: str, method: str, fold: int, sample: Sample, *, done: bool = True
) -> list[Score]:
    """Write one fold of one method; not done, only its log."""
    folder = out / "folds" / contrast / method / f"fold-{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    write_history(folder / "history.csv", seed=fold, whole=done)
    if not done:
        (folder / "record.json").unlink(missing_ok=True)
        return []
    parts = division(sample, fold)
    record = {
        "contrast": contrast, "method": method, "title": sample.title or METHODS[method],
        "fold": parts.recorded, "options": {"learning_rate": 3e-4, "sampling": "patch"},
        "seed": 42, "steps": 400, "best_step": 360, "best_psnr": 28.0 + 0.2 * fold,
        "identity_psnr": 23.5, "seconds": 754.0, "parameters": 581_409, "simulated": True,
        "software": {"h2lo-bids": "0.2.0", "torch": "2.13.0"},
        "warnings": ["The validation PSNR was still rising."] if fold == 0 else [],
    }  # fmt: skip
    write_json(folder / "record.json", record)
    write_pictures(folder / "pictures.npz", parts.test, seed=list(METHODS).index(method))
    write_scores(folder / "scores.tsv", scores := make_scores(parts.test, method, fold))
    return scores


def make_evaluation(out: Path, models: tuple[str, ...] = ("site-a", "site-b"), **more) -> Path:
    """Write the evaluation of some models on the pairs of three subjects."""
    sample = Sample(subjects=("P00", "P01", "P02"), **more)
    make_pairs(out, sample)
    scores = []
    for number, model in enumerate(models):
        folder = out / "evaluation" / "T1w" / model
        told = {"name": f"{model} 1", "method": "h2lo", "sha256": "d" * 64}
        content = {"title": model, "model": told, "parameters": 581_409, "warnings": ["Too good."]}
        write_json(folder / "record.json", content)
        write_pictures(folder / "pictures.npz", sample.subjects, seed=number)
        scores += make_scores(sample.subjects, model, None)
    write_tables(out / "evaluation_T1w", scores, tabulate(scores))
    return out


def make_scores(subjects: tuple[str, ...], method: str, fold: int | None) -> list[Score]:
    """Draw scores: the method's, and the identity's, which do not depend on the method."""
    level = np.array([23.5, 90, 0.92, 0.12, 0.5, 0.2, 0.15, 0.3])
    gain = np.array([5, 5, 0.05, -0.08, 0.4, -0.17, -0.13, 0.2])
    scores = []
    for subject in subjects:
        for name, middle in (("identity", level), (method, level + gain)):
            rng = np.random.default_rng([sum(map(ord, name + subject)), (fold or 0) + 1])
            noisy = middle * (1 + 0.02 * rng.standard_normal(len(middle)))
            values = dict(zip(SCORED, noisy.tolist(), strict=True))
            scores += made_up(subject, name, fold, 0.0, **values)
    return scores


def write_history(path: Path, *, seed: int, whole: bool = True) -> None:
    """Write the log of 400 steps, or of the first ones, the last line cut short."""
    rng = np.random.default_rng(seed)
    lines = ["step,rate,loss,l1,gradient,psnr,seconds"]
    for step in range(1, 401 if whole else 151):
        l1 = 0.15 * np.exp(-step / 90) + 0.02 + 0.004 * rng.random()
        gradient = 0.004 * np.exp(-step / 200) + 1e-4 * rng.random()
        psnr = f"{28 - 6 * np.exp(-step / 60) + 0.2 * seed:.4f}" if step % 40 == 0 else ""
        lines.append(f"{step},1e-4,{l1 + 10 * gradient:.6f},{l1:.6f},{gradient:.6f},{psnr},{step}")
    path.write_text("\n".join(lines) + ("\n" if whole else "\n151,1e-4,0.0"))


def write_pictures(path: Path, subjects: tuple[str, ...], *, seed: int) -> None:
    """Write slices and histograms of some test subjects, as a fold does."""
    arrays: dict[str, np.ndarray] = {}
    for number, subject in enumerate(subjects):
        pair = ball_pair(subject, number)
        arrays |= pictures_of(pair, pair.lf + 0.01 * seed * pair.mask)
    np.savez_compressed(path, **arrays)


def make_pairs(out: Path, sample: Sample) -> None:
    """Write a prepared pair of each subject; the last one is flagged."""
    for number, subject in enumerate(sample.subjects):
        check = {"Flagged": False, "Reasons": [], "Figures": {"dice": 0.96, "translation_mm": 1.42}}
        if subject == sample.subjects[-1]:
            check |= {"Flagged": True, "Reasons": [sample.reason]}
        write_pair(out, subject, number, RegistrationCheck=check)


def sample_table(out: Path, more: str) -> Table:
    """Give a table of what a made-up training has left, with one more method of that name."""
    scores = read_scores(out / "group_T1w_scores.tsv")
    block = tabulate(scores, METHODS, contrast="T1w", reference="h2lo")
    rows = [replace(row, values={"training_seconds": 1.5}) for row in block.rows]
    rows.append(replace(rows[1], name=more, title=more, partial=True))
    block = replace(block, rows=tuple(rows), notes=(f"{more}: 1 of 3 folds.",))
    return benchmark_table(SYNTHESIZE, [block])


def page_of(out: Path, level: str = "group", failures=()) -> str:
    """Write the page of a level and return its HTML."""
    return write_group_report(out, level=level, failures=failures).read_text()
