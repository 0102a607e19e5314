"""Tables, methods text and report of a level that works on pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.dataset import write_citation
from h2lo_bids.bids.derivatives import find_records, result_path, result_pattern
from h2lo_bids.errors import BadDataError, NoMatchError
from h2lo_bids.evaluation.benchmark import benchmark_table, budget_notes, row_values
from h2lo_bids.evaluation.scores import IDENTITY_TITLES, Score, read_scores
from h2lo_bids.evaluation.splits import Fold, read_splits
from h2lo_bids.evaluation.table import Block, tabulate, write_tables
from h2lo_bids.io import read_json
from h2lo_bids.models.registry import CATALOGUE, cited, task_of
from h2lo_bids.processes import note
from h2lo_bids.reports.group import write_group_report, write_table_page
from h2lo_bids.reports.records import Failure
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.crossvalidation import SCORES, read_record
from h2lo_bids.training.experiments.fits import SPLITS
from h2lo_bids.training.options import LATER
from h2lo_bids.vocabulary import CONTRASTS, ENHANCE, ENHANCER, IDENTITY, SYNTHESIZE, Send
from h2lo_bids.wording import counted


def collect(settings: Settings, contrasts: tuple[str, ...], send: Send) -> Path | None:
    """Write the tables of finished folds and the methods text; return the page of a benchmark."""
    if contrasts and (text := training_text(settings.out_dir)):
        write_citation(settings.out_dir, text)
    blocks: dict[str, Block] = {}
    splits = read_splits(settings.out_dir / SPLITS)
    tested = settings.arms if settings.fits_enhancer else settings.methods
    every = sorted(splits) if settings.level == "benchmark" else []
    if settings.reports_only and settings.contrast:
        every = [*settings.contrast]
    for contrast in dict.fromkeys((*contrasts, *every)):
        folds, fitted = splits.get(contrast, ()), contrast in contrasts
        scores, named, records = gather_scores(settings, contrast, folds, send, fitted=fitted)
        if not scores:
            continue
        block = tabulate(
            scores,
            {IDENTITY: IDENTITY_TITLES[settings.task], **named},
            contrast=contrast,
            reference=next((n for n in tested if n in named and n != IDENTITY), None),
            folds=[fold.index for fold in folds],
            wanted=settings.arms if fitted or settings.reports_only else (),
            convention=settings.metrics_convention,
        )
        if contrast in contrasts:
            key = "enhancement_tables" if settings.fits_enhancer else "group_tables"
            stem = result_path(settings.out_dir, key, contrast=contrast)
            table = write_tables(stem, scores, block)
            send({"event": "table", "contrast": contrast, "text": table.to_md()})
        blocks[contrast] = _with_costs(block, scores, records, len(folds))
    if settings.level != "benchmark":
        return None
    shown = [blocks[name] for name in every if name in blocks]
    if not shown:
        raise NoMatchError(
            f"{settings.out_dir}: no fold of any method is done; run the benchmark once without "
            "--reports-only, and see its failures"
        )
    whole = benchmark_table(settings.task, shown)
    for block in shown:
        name = f"{whole.name}_{block.contrast}_comparisons.tsv"
        block.write_comparisons(settings.out_dir / name)
    whole.save(settings.out_dir)
    return write_table_page(settings.out_dir, whole)


def _with_costs(
    block: Block, scores: Sequence[Score], records: Mapping[str, Any], folds: int
) -> Block:
    """Add costs and training data to each row, and notes on time budgets and simulated pairs."""
    every = [record for own in records.values() for record in own]
    rows = tuple(
        replace(row, values=row_values(row.name, scores, records.get(row.name, ()), folds, every))
        for row in block.rows
    )
    notes = budget_notes({row.title: records[row.name] for row in rows if row.name in records})
    if any(record.get("simulated") for record in every):
        text = "Simulated pairs: the figures show how the methods work, not how a scanner performs."
        block = replace(block, notes=(text, *block.notes))
    return replace(block, rows=rows, notes=(*block.notes, *notes))


def gather_scores(
    settings: Settings, contrast: str, folds: tuple[Fold, ...], send: Send, *, fitted: bool
) -> tuple[list[Score], dict[str, str], dict[str, list[dict[str, Any]]]]:
    """Read scores, title and records of every method's finished folds, if on the same terms."""
    found: dict[Any, Score] = {}  # the identity's are in the folder of every method
    records: dict[str, list[dict[str, Any]]] = {}
    if settings.fits_enhancer:
        known = [*replace(settings, arm=()).arms]
    else:
        done = sorted(settings.out_dir.glob(result_pattern("fold", contrast=contrast)))
        others = [path.parent.name for path in done if (read_record(path) or {}).get("external")]
        known = [*(name for name in CATALOGUE if task_of(name) == SYNTHESIZE), *others]
    rows = [*dict.fromkeys([*known, *settings.arms])]
    for fold in folds:
        terms: dict[str, Any] = {}
        for method in dict.fromkeys([*settings.arms, *rows]):
            folder = result_path(
                settings.out_dir, "fold", contrast=contrast, method=method, fold=fold.index
            )
            record = read_record(folder)
            if record is None:
                continue
            own, asked = terms_of(record), method in settings.arms
            # Some options may differ in one run, the precision where processors do.
            shared = terms.keys() & own.keys() - ({"learning_rate", "precision"} if asked else {})
            unlike = any(terms[key] != own[key] for key in shared)
            differs = "other pairs or options" if unlike else ""
            if record.get("fold") != fold.recorded:
                differs = "another division of the subjects"
            if differs and not (asked and fitted):  # else this run's fits have checked it
                send(note(f"{folder}: of {differs}; not in the table", "warning"))
                continue
            terms = {**own, **terms}
            records.setdefault(method, []).append(record)
            try:
                for s in read_scores(folder / SCORES):
                    found.setdefault((s.method, s.fold, s.subject, s.region), s)
            except BadDataError as err:
                raise BadDataError(f"{err}: remove {folder} and run again") from err
    records = {method: records[method] for method in rows if method in records}
    order = [*records]
    scores = sorted(
        found.values(), key=lambda s: order.index(s.method) if s.method in order else -1
    )
    titles = {method: str(own[-1].get("title", method)) for method, own in records.items()}
    return scores, titles, records


def terms_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return what methods must share to stand in one table: pairs and, where fitted, options."""
    terms: dict[str, Any] = {"pairs": record.get("pairs")}
    if "given" not in record or record.get("method") == IDENTITY:
        return terms
    options, given = record.get("options") or {}, {**LATER, **(record.get("given") or {})}
    del given["starts_from"]  # of one method alone
    if record.get("task") != ENHANCE:  # what a method sets itself says nothing of the run
        given = {k: v for k, v in given.items() if options.get(k, v) == v}
    schedule = options.get("schedule") or {}
    terms |= given | {"factor": schedule.get("factor")}
    if options.get("pretrain"):  # no other arm is fine-tuned
        terms["finetune_rate"] = schedule.get("finetune_rate")
    return terms


def report(settings: Settings, failures: tuple[Failure, ...], send: Send) -> Path:
    """Write ``group.html`` from what is in the output folder."""
    kinds = ("evaluation/*",) if settings.level == "evaluate" else ("folds/*", "models/*")
    patterns = (*kinds, "sub-*/**/*_desc-pairLF_*.json")
    if not any(any(settings.out_dir.glob(pattern)) for pattern in patterns):
        raise NoMatchError(
            f"{settings.out_dir}: holds nothing of the {settings.level} level; run it once "
            "without --reports-only"
        )
    level = "enhance" if settings.fits_enhancer else settings.level
    return write_group_report(settings.out_dir, level=level, failures=failures)


def training_text(out_dir: Path) -> str:
    """Compose the text; empty if no fold is done."""
    paths = sorted(out_dir.glob(result_pattern("fold", "/record.json")))
    records = [record for path in paths if (record := read_record(path.parent))]
    if not records:
        return ""
    fitted = {ENHANCER if r.get("task") == ENHANCE else str(r.get("method")) for r in records}
    fitted -= {IDENTITY}
    named = f": {phrase}" if (phrase := cited(fitted)) else ""
    intro = (
        "Models of low-field MRI were fitted to paired high- and low-field scans with the BIDS App "
        f"*H2LO-BIDS* {__version__} [@h2lo]{named}. "
        "Inputs and outputs follow the Brain Imaging Data Structure [@bids]. The low-field scans "
        f"were {_registered(out_dir, records)}; intensities were divided by their maximum inside "
        f"the brain, and voxels outside it were set to zero.{_scaled(records)}"
    )
    kinds = {(str(r.get("contrast")), str(r.get("task", SYNTHESIZE))) for r in records}
    parts = [_of_kind(*kind, records) for kind in sorted(kinds, key=lambda k: (k[1] == ENHANCE, k))]
    simulated = [bool(record.get("simulated")) for record in records]
    if any(simulated):
        whose = "The pairs" if all(simulated) else "Some or all of the pairs"
        parts.append(f"{whose} were simulated, not acquired.")
    tail = "Processing relied on Nipype [@nipype], PyTorch [@pytorch] and NiBabel [@nibabel]."
    return "\n\n".join([intro, " ".join(parts), tail]) + "\n"


def _registered(out_dir: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Say how the low-field scans of the pairs came to lie on the high-field ones."""
    used = {name for record in records for name in record.get("pairs") or ()}
    given = set()
    for path in (path for contrast in CONTRASTS for path in find_records(out_dir, contrast)):
        if path.stem in used:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # no reason to fail
                given.add(str(read_json(path).get("RegistrationMethod")).startswith("none"))
    taken = "assumed to be already registered to the high-field ones"
    moved = "registered rigidly to the high-field ones with ANTs [@ants]"
    return taken if given == {True} else f"{moved}, or {taken}" if True in given else moved


def _scaled(records: Iterable[Mapping[str, Any]]) -> str:
    """Say whose input is scaled otherwise than the pairs."""
    own = (r.get("title") for r in records if (r.get("options") or {}).get("scaling") == "robust")
    titles = ", ".join(dict.fromkeys(map(str, own)))
    return titles and (
        f" The input of {titles} was instead mapped to fixed levels of cerebrospinal fluid and "
        "white matter, after N4 bias field correction [@n4] where the receive field was strong."
    )


def _of_kind(contrast: str, task: str, records: Iterable[Mapping[str, Any]]) -> str:
    # Arms of enhancement have the titles of the methods that they are pretrained on.
    own = [r for r in records if (r.get("contrast"), r.get("task", SYNTHESIZE)) == (contrast, task)]
    contrast += " enhancement" if task == ENHANCE else ""
    fitted = [record for record in own if "steps" in record]
    others = dict.fromkeys(str(r.get("title")) for r in own if "steps" not in r)
    steps: dict[str, set[int]] = {}
    for record in fitted:
        start = record.get("initial")
        start = f" from the weights of {start.get('name')}" if start else ""
        start += " after pretraining on synthetic pairs" if record.get("pretrain_steps") else ""
        steps.setdefault(f"{record.get('title')} ({{}}{start})", set()).add(int(record["steps"]))
    parts = []
    if fitted:
        each = ", ".join(text.replace("{}", _steps(done)) for text, done in steps.items())
        folds = {record["fold"]["index"] for record in fitted}
        parts.append(
            f"{contrast}: {each} in {counted(len(folds), 'fold')} of cross-validation; "
            "weights were selected on validation subjects and scored on test subjects that were "
            f"not used in the fit (random seed {fitted[0].get('seed')})."
        )
    if others:
        parts.append(f"{contrast}: {', '.join(others)} made images of the same test subjects.")
    return " ".join(parts)


def _steps(done: Iterable[int]) -> str:
    found = sorted(number for number in done if number)
    if not found:
        return "nothing to fit"
    return f"{' to '.join(dict.fromkeys(map(str, (found[0], found[-1]))))} steps"
