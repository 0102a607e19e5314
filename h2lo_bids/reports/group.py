"""The pages of a training, an evaluation and a benchmark: one HTML file from the output folder."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from h2lo_bids.bids.derivatives import result_path, result_pattern
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.evaluation.table import Table
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports.group_data import Contrast, Run, read_contrasts, read_json
from h2lo_bids.reports.group_views import (
    PANELS,
    REALISM_COLUMNS,
    common_view,
    contrast_view,
    draw_panels,
)
from h2lo_bids.reports.page import render
from h2lo_bids.reports.records import Failure, ModelInfo
from h2lo_bids.vocabulary import ENHANCE, ENHANCER

_COMMANDS = 5
_PAGES = {
    "evaluate": ("evaluation_report", "Evaluation"),
    ENHANCE: ("enhancement_report", "Enhancement: training and cross-validation"),
}
_PAGE = "group_report", "Training and cross-validation"


def write_group_report(out_dir: Path, *, level: str, failures: Sequence[Failure] = ()) -> Path:
    """Write the page of a level, atomically, from what is in the folder at any time."""
    name, title = _PAGES.get(level, _PAGE)
    problems: list[str] = []
    contrasts = read_contrasts(out_dir, level, problems)
    runs = [(contrast.name, run) for contrast in contrasts for run in contrast.runs]
    views = [contrast_view(contrast, out_dir) for contrast in contrasts]
    evaluates = level == "evaluate"
    models = () if evaluates else _models(out_dir, level, problems)
    rule = ".panels:has(.pick-{0}:checked)>.panel-{0}{{display:block}}"
    page = render(
        "group.html.jinja",
        rules="".join(map(rule.format, range(PANELS))),
        script="group.js.jinja",
        title=title,
        views=views,
        facts=_facts(contrasts, views, level),
        models=models,
        realism_columns=REALISM_COLUMNS,
        evaluated=[(c, run) for c, run in runs if evaluates and "model" in run.record],
        missing=[line for contrast in contrasts for line in contrast.missing],
        simulated=any(run.record.get("simulated") is True for _, run in runs)
        or any(pair["simulated"] for view in views for pair in view["pairs"])
        or any(model.training_kind == "simulated" for model in models),
        warnings=dict.fromkeys(
            f"{contrast}, {run.name}: {line}"
            for contrast, run in runs
            for line in run.record.get("warnings", ())
        ),
        problems=dict.fromkeys(problems),
        failures=failures,
        settings=() if evaluates else list(_settings(contrasts)),
        level=level,
        software=_software(run for _, run in runs),
        commands=_commands(out_dir, level),
    )
    path = result_path(out_dir, name)
    atomic_write_text(path, page)
    return path


def write_table_page(out_dir: Path, table: Table) -> Path:
    """Write ``<name>.html``, atomically, from a table and the pictures of its folds."""
    path = Path(out_dir) / f"{table.name}.html"
    level = ENHANCE if table.task == ENHANCE else "benchmark"
    problems: list[str] = []
    blocks = {block.contrast: block for block in table.blocks}
    contrasts = {c.name: c for c in read_contrasts(out_dir, level, problems, blocks)}
    views = []
    for block in table.blocks:
        contrast = contrasts.get(block.contrast)
        # Shown is the median subject of the method that the others are tested against.
        main = next((row.versus for row in block.comparisons if row.versus != IDENTITY), "")
        drawn = contrast and draw_panels(contrast, main=main, limit=1)
        views.append(common_view(block) | {"printout": table.lay_out(block), "panels": drawn})
    page = render(
        "table.html.jinja",
        table=table,
        views=views,
        page="enhancement.html" if level == ENHANCE else "group.html",
        problems=dict.fromkeys(problems),
        software=_software(run for contrast in contrasts.values() for run in contrast.runs),
        commands=_commands(out_dir, level),
    )
    atomic_write_text(path, page)
    return path


def _facts(
    contrasts: Sequence[Contrast], views: Sequence[dict[str, Any]], level: str
) -> dict[str, str]:
    pairs = [pair for view in views for pair in view["pairs"]]
    runs = [run for contrast in contrasts for run in contrast.runs]
    flagged = sum(pair["flagged"] for pair in pairs)
    facts = {
        "Contrasts": ", ".join(contrast.name for contrast in contrasts) or "none",
        "Prepared pairs": f"{len(pairs)}, of which {flagged} flagged" if pairs else "none",
    }
    if level == "evaluate":
        return facts | {"Models evaluated": str(len({run.method for run in runs}))}
    # An unfinished fold has no title of its own.
    titles = dict.fromkeys(c.titles[run.method] for c in contrasts for run in c.runs)
    wanted = sum(len(c.folds) * len({run.method for run in c.runs}) for c in contrasts)
    done = sum(bool(run.record) for run in runs)
    return facts | {
        "Methods": ", ".join(titles) or "none yet",
        "Fits finished": f"{done} of {wanted}" if wanted else "no cross-validation",
    }


def _models(out_dir: Path, level: str, problems: list[str]) -> list[ModelInfo]:
    """Read the final models of the page's task: their metadata and their cards."""
    models = []
    for path in sorted(out_dir.glob(result_pattern("model", "/metadata.json"))):
        card = path.with_name("README.md")
        try:
            text = card.read_text(encoding="utf-8") if card.is_file() else ""
            metadata = {"name": path.parent.name, **read_json(path, problems)}
            models.append(ModelInfo.from_metadata(metadata, text))
        except (OSError, ValueError, TypeError, AttributeError):
            problems.append(f"models/{path.parent.name}: metadata or card cannot be read; skipped")
    return [model for model in models if (model.method == ENHANCER) == (level == ENHANCE)]


def _software(runs: Iterable[Run]) -> dict[str, str]:
    """Return the versions of programs; more than one version means the folds differ."""
    versions: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for name, version in run.record.get("software", {}).items():
            versions[name][str(version)] = None
    return {name: ", ".join(found) for name, found in versions.items()}


def _settings(contrasts: Iterable[Contrast]) -> Iterator[dict[str, Any]]:
    """Yield the options, the seeds and the time of each method's fits."""
    for contrast in contrasts:
        done = [run for run in contrast.runs if run.record]
        for _, group in groupby(done, key=lambda run: run.method):
            runs = list(group)
            seeds, steps, best, seconds = (
                [run.record[key] for run in runs if key in run.record]
                for key in ("seed", "steps", "best_step", "seconds")
            )
            yield {
                "contrast": contrast.name,
                "title": runs[0].title,
                "seeds": ", ".join(dict.fromkeys(map(str, seeds))),
                "steps": ", ".join(dict.fromkeys(map(str, steps))),
                "best": ", ".join(map(str, best)),
                "seconds": sum(seconds) / len(seconds) if seconds else None,
                "options": {
                    name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                    for name, value in runs[0].record.get("options", {}).items()
                },
            }


def _commands(out_dir: Path, level: str) -> list[str]:
    """Return the command lines of the last runs of this level and task, from their logs."""
    levels = {"evaluate"} if level == "evaluate" else {"group", "benchmark"}
    commands: list[str] = []
    for path in sorted(out_dir.glob("logs/*/config.toml"), reverse=True):
        try:
            options = tomllib.loads(path.read_text(encoding="utf-8"))
            command, of = options["run"]["command"], options["run"]["analysis-level"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        enhances = options.get("task") == ENHANCE and of != "evaluate"
        if of in levels and enhances == (level == ENHANCE):
            commands.append(str(command))
    return list(dict.fromkeys(commands))[:_COMMANDS]
