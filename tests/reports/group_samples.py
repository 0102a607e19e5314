"""A made-up output folder of a training: balls for heads, scores from a generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from heads import write_bundle
from prepared_pairs import write_pair
from problems import ball_pair

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
    contrasts: tuple[str, ...] = ("T1w",)
    title: str = ""
    reason: str = "brain masks overlap by Dice 0.61, at least 0.80 is expected"


def make_group(out: Path, sample: Sample | None = None) -> Path:
    """Write a whole cross-validation."""
    sample = sample or Sample()
    for contrast in sample.contrasts:
        make_pairs(out, contrast, sample)
        scores = [
            score
            for fold in range(sample.folds)
            for method in sample.methods
            for score in make_fold(out, contrast, method, fold, sample)
        ]
        if scores:
            write_tables(out / f"group_{contrast}", scores, tabulate(scores, METHODS))
        write_bundle(out / f"models/h2lo_{contrast}", contrast, card="# The card\n\nOf a model.\n")
    folds = tuple(Fold(fold, **parts(sample, fold)) for fold in range(sample.folds))
    if folds:
        write_splits(out / "splits.tsv", dict.fromkeys(sample.contrasts, folds))
    config = '[run]\nanalysis-level = "group"\ncommand = "h2lo bids out group"\n'
    atomic_write_text(out / "logs" / "20260101T000000_x" / "config.toml", config)
    return out


def parts(sample: Sample, fold: int) -> dict[str, tuple[str, ...]]:
    """Divide the subjects of one fold."""
    test = sample.subjects[fold :: max(sample.folds, 1)]
    rest = [name for name in sample.subjects if name not in test]
    return {"train": tuple(rest[1:]), "validation": tuple(rest[:1]), "test": test}


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
    test = parts(sample, fold)["test"]
    write_json(folder / "record.json", record(contrast, method, fold, sample))
    write_pictures(folder / "pictures.npz", test, seed=list(METHODS).index(method))
    write_scores(folder / "scores.tsv", scores := make_scores(test, method, fold))
    return scores


def make_evaluation(out: Path, models: tuple[str, ...] = ("site-a", "site-b")) -> Path:
    """Write the evaluation of some models on the pairs of two subjects."""
    sample = Sample(subjects=("P00", "P01", "P02"), folds=0)
    make_pairs(out, "T1w", sample)
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


def record(contrast: str, method: str, fold: int, sample: Sample) -> dict:
    """Give what a fold records."""
    return {
        "contrast": contrast,
        "method": method,
        "title": sample.title or METHODS[method],
        "fold": {"index": fold, **parts(sample, fold)},
        "options": {"learning_rate": 3e-4, "sampling": "patch"},
        "seed": 42,
        "steps": 400,
        "best_step": 360,
        "best_psnr": 28.0 + 0.2 * fold,
        "identity_psnr": 23.5,
        "seconds": 754.0,
        "parameters": 581_409,
        "simulated": True,
        "software": {"h2lo-bids": "0.2.0", "torch": "2.13.0"},
        "warnings": ["The validation PSNR was still rising."] if fold == 0 else [],
    }


def make_scores(subjects: tuple[str, ...], method: str, fold: int | None) -> list[Score]:
    """Draw scores: the method's, and the identity's, which do not depend on the method."""
    scores = []
    for subject in subjects:
        for name in ("identity", method):
            rng = np.random.default_rng([sum(map(ord, name + subject)), (fold or 0) + 1])
            gain = 0.0 if name == "identity" else 1.0
            middle = (23.5 + 5 * gain, 90 + 5 * gain, 0.92 + 0.05 * gain, 0.12 - 0.08 * gain)
            more = (0.5 + 0.4 * gain, 0.2 - 0.17 * gain, 0.15 - 0.13 * gain, 0.3 + 0.2 * gain)
            for region in ("foreground", "whole"):
                noisy = [v * (1 + 0.02 * rng.standard_normal()) for v in (*middle, *more)]
                values = dict(zip(SCORED, noisy, strict=True))
                scores.append(Score(subject, name, fold, region, values))
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


def make_pairs(out: Path, contrast: str, sample: Sample) -> None:
    """Write a prepared pair of each subject; the last one is flagged."""
    for number, subject in enumerate(sample.subjects):
        check = {"Flagged": False, "Reasons": [], "Figures": {"dice": 0.96, "translation_mm": 1.42}}
        if subject == sample.subjects[-1]:
            check |= {"Flagged": True, "Reasons": [sample.reason]}
        write_pair(out, subject, number, contrast=contrast, RegistrationCheck=check)


def sample_table(out: Path, *, more: str = "") -> Table:
    """Give a table of what a made-up training has left, with one more method of that name."""
    blocks = []
    for path in sorted(out.glob("group_*_scores.tsv")):
        contrast = path.name.split("_")[1]
        block = tabulate(read_scores(path), METHODS, contrast=contrast, reference="h2lo")
        rows = [replace(row, values={"training_seconds": 1.5}) for row in block.rows]
        rows += [replace(rows[1], name=more, title=more, partial=True)] if more else []
        notes = (f"{more}: 1 of 3 folds.",) if more else ()
        blocks.append(replace(block, rows=tuple(rows), notes=notes))
    return benchmark_table(SYNTHESIZE, blocks)


def page_of(out: Path, level: str = "group", failures=()) -> str:
    """Write the page of a level and return its HTML."""
    return write_group_report(out, level=level, failures=failures).read_text()
