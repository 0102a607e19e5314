"""The pages of a training, an evaluation and a benchmark: one HTML file from the output folder."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.bids.derivatives import result_path, result_pattern
from h2lo_bids.evaluation.paper import GROUP
from h2lo_bids.evaluation.printout import floor_of, tests_html
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.evaluation.table import Block, Table
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import group_pictures as pictures
from h2lo_bids.reports.group_data import (
    Contrast,
    Run,
    read_contrasts,
    read_json,
    read_results,
)
from h2lo_bids.reports.group_views import (
    PANELS,
    REALISM_COLUMNS,
    contrast_view,
    median_subject,
)
from h2lo_bids.reports.page import asset, render
from h2lo_bids.reports.records import Failure, ModelInfo
from h2lo_bids.reports.svg import svg_uri
from h2lo_bids.vocabulary import ENHANCE

_COMMANDS = 5
_TITLES = {
    "evaluate": "Evaluation",
    ENHANCE: "Enhancement: training and cross-validation",
}


def write_group_report(
    out_dir: Path,
    *,
    level: str,
    failures: Sequence[Failure] = (),
) -> Path:
    """Write ``group.html`` or ``enhancement.html``, atomically, from the files in the folder.

    It can be written at any time: with some folds done, the page shows these and says which are
    missing. Everything that comes from data is escaped; the page's policy forbids every
    request and every other script. Levels are ``"group"``, ``"benchmark"``, ``"evaluate"``
    and ``"enhance"``, the training of enhancers.
    """
    path = result_path(out_dir, "enhancement_report" if level == ENHANCE else "group_report")
    page = render_group_report(Path(out_dir), level=level, failures=failures)
    atomic_write_text(path, page)
    return path


def render_group_report(
    out_dir: Path,
    *,
    level: str,
    failures: Sequence[Failure] = (),
) -> str:
    """Return the HTML of `write_group_report`."""
    contrasts, unread = read_contrasts(out_dir, level)
    problems = list(unread)
    views = [contrast_view(contrast, out_dir, level, problems) for contrast in contrasts]
    models = _models(out_dir, problems) if level != "evaluate" else ()
    return render(
        "group.html.jinja",
        style=asset("style.css") + asset("group.css") + _panel_rules(),
        script=asset("group.js.jinja"),
        level=level,
        title=_TITLES.get(level, "Training and cross-validation"),
        low="high" if level == ENHANCE else "low",
        high="low" if level == ENHANCE else "high",
        views=views,
        facts=_facts(contrasts, views, level),
        models=models,
        realism_columns=REALISM_COLUMNS,
        evaluated=_evaluated(contrasts) if level == "evaluate" else (),
        missing=[line for contrast in contrasts for line in contrast.missing],
        simulated=_simulated(contrasts, views, models),
        warnings=_warnings(contrasts),
        problems=tuple(dict.fromkeys(problems)),
        failures=failures,
        software=_software(contrasts),
        settings=_settings(contrasts) if level != "evaluate" else (),
        commands=_commands(out_dir, level),
    )


def write_table_page(out_dir: Path, table: Table) -> Path:
    """Write ``<name>.html``, atomically, from a table and the pictures of its folds."""
    path = Path(out_dir) / f"{table.name}.html"
    atomic_write_text(path, render_table_page(Path(out_dir), table))
    return path


def render_table_page(out_dir: Path, table: Table) -> str:
    """Return the HTML of `write_table_page`."""
    level = ENHANCE if table.task == ENHANCE else "benchmark"
    contrasts, unread = read_contrasts(out_dir, level)
    known = {contrast.name: contrast for contrast in contrasts}
    problems = list(unread)
    views = []
    for block in table.blocks:
        panel, contrast = None, known.get(block.contrast)
        if contrast is not None:
            panel = _panel(block, contrast, out_dir, level, problems)
        views.append(_table_view(table, block, panel))
    return render(
        "table.html.jinja",
        style=asset("style.css") + asset("group.css"),
        table=table,
        views=views,
        caption=table.caption,
        group=GROUP,
        citation=table.citation,
        low="high" if level == ENHANCE else "low",
        high="low" if level == ENHANCE else "high",
        page="enhancement.html" if level == ENHANCE else "group.html",
        problems=tuple(dict.fromkeys(problems)),
        software=_software(contrasts),
        commands=_commands(out_dir, level),
    )


def _table_view(table: Table, block: Block, panel: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": block.contrast,
        "id": re.sub(r"\W", "-", block.contrast),
        "notes": block.notes,
        "table": table.to_html(block),
        "paper": any(head.group for head in table.lay_out(block).heads),
        "tests": tests_html(block.comparisons, block.titles) if block.comparisons else "",
        "floor": floor_of(block.comparisons),
        "panel": panel,
    }


def _panel(
    block: Block, contrast: Contrast, out_dir: Path, level: str, problems: list[str]
) -> dict[str, Any] | None:
    """Draw the median one of the test subjects that most methods have a picture of."""
    subjects = pictures.read_subjects(contrast, problems)
    if not subjects:
        return None
    titles = block.titles
    participants = read_results(contrast, out_dir, level, problems).participants
    most = max(len(subject.predicted) for subject in subjects.values())
    names = sorted(name for name, s in subjects.items() if len(s.predicted) == most)
    tested = (row.versus for row in block.comparisons if row.versus != IDENTITY)
    main = next(tested, next((key for key in titles if key != IDENTITY), IDENTITY))
    name = median_subject(participants, main, names) or names[0]
    everyone = list(subjects.values())
    white, scale = pictures.bright(everyone), pictures.error_scale([subjects[name]])
    drawing = pictures.draw_subject(
        subjects[name], contrast.name, titles, participants, white=white, scale=scale
    )
    lacking = [
        title for key, title in titles.items()
        if key != IDENTITY and key not in subjects[name].predicted
    ]  # fmt: skip
    return {
        "name": name,
        "uri": svg_uri(drawing),
        "white": white,
        "scale": scale,
        "main": titles.get(main, main),
        "lacking": lacking,
    }


def _facts(
    contrasts: Sequence[Contrast], views: Sequence[dict[str, Any]], level: str
) -> list[tuple[str, str]]:
    pairs = [pair for view in views for pair in view["pairs"]]
    flagged = sum(pair.flagged for pair in pairs)
    facts = [("Contrasts", ", ".join(contrast.name for contrast in contrasts) or "none")]
    facts.append(
        ("Prepared pairs", f"{len(pairs)}, of which {flagged} flagged" if pairs else "none")
    )
    runs = [run for contrast in contrasts for run in contrast.runs]
    if level == "evaluate":
        facts.append(("Models evaluated", str(len({run.method for run in runs}))))
        return facts
    titles = dict.fromkeys(run.title for run in runs)
    facts.append(("Methods", ", ".join(titles) or "none yet"))
    names = [(c, {run.method for run in c.runs}) for c in contrasts]
    wanted = sum(len(contrast.folds) * len(methods) for contrast, methods in names)
    done = sum(run.done for run in runs)
    facts.append(("Fits finished", f"{done} of {wanted}" if wanted else "no cross-validation"))
    return facts


def _panel_rules() -> str:
    """Show the subject that is chosen; it works without a script."""
    return "".join(
        f".panels:has(.pick-{k}:checked)>.panel-{k}{{display:block}}" for k in range(PANELS)
    )


def _models(out_dir: Path, problems: list[str]) -> tuple[ModelInfo, ...]:
    """Read the final models: their metadata and their cards."""
    models = []
    for path in sorted(out_dir.glob(result_pattern("model", "/metadata.json"))):
        card = path.with_name("README.md")
        try:
            text = card.read_text(encoding="utf-8") if card.is_file() else ""
            metadata = {"name": path.parent.name, **read_json(path, problems)}
            models.append(ModelInfo.from_metadata(metadata, text))
        except (OSError, ValueError, TypeError, AttributeError):
            problems.append(f"models/{path.parent.name}: metadata or card cannot be read; skipped")
    return tuple(models)


def _evaluated(contrasts: Iterable[Contrast]) -> list[tuple[str, ...]]:
    """List the models that were given: contrast, title, name, method, size, digest."""
    rows = []
    for contrast in contrasts:
        for run in contrast.runs:
            model = run.record.get("model")
            if isinstance(model, dict):
                names = (str(model.get(key, "")) for key in ("name", "method"))
                size = run.record.get("parameters")
                count = f"{size:,}" if isinstance(size, int) else ""
                digest = str(model.get("sha256", ""))
                rows.append((contrast.name, run.title, *names, count, digest))
    return rows


def _simulated(
    contrasts: Iterable[Contrast], views: Iterable[dict[str, Any]], models: Iterable[ModelInfo]
) -> bool:
    """Return whether anything on the page was learned from, or measured on, simulated pairs."""
    return (
        any(run.record.get("simulated") is True for c in contrasts for run in c.runs)
        or any(pair.simulated for view in views for pair in view["pairs"])
        or any(model.training_kind == "simulated" for model in models)
    )


def _warnings(contrasts: Iterable[Contrast]) -> tuple[str, ...]:
    """Return the warnings of the folds."""
    lines = []
    for contrast in contrasts:
        for run in contrast.runs:
            recorded = run.record.get("warnings")
            for warning in recorded if isinstance(recorded, list) else ():
                lines.append(f"{contrast.name}, {run.name}: {warning}")
    return tuple(dict.fromkeys(lines))


def _software(contrasts: Iterable[Contrast]) -> tuple[tuple[str, str], ...]:
    """List programs and their versions; more than one version means the folds differ."""
    versions: dict[str, dict[str, None]] = {}
    for contrast in contrasts:
        for run in contrast.runs:
            recorded = run.record.get("software")
            for name, version in recorded.items() if isinstance(recorded, dict) else ():
                versions.setdefault(str(name), {})[str(version)] = None
    return tuple((name, ", ".join(versions_of)) for name, versions_of in versions.items())


def _settings(contrasts: Iterable[Contrast]) -> list[dict[str, Any]]:
    """Return the options, the seeds and the time of each method's fits."""
    fits = []
    for contrast in contrasts:
        methods: dict[str, list[Run]] = {}
        for run in contrast.runs:
            if run.done:
                methods.setdefault(run.method, []).append(run)
        for runs in methods.values():
            options = runs[0].record.get("options")
            listed = options.items() if isinstance(options, dict) else ()
            fits.append(
                {
                    "contrast": contrast.name,
                    "title": runs[0].title,
                    "seeds": ", ".join(_distinct(runs, "seed")),
                    "steps": ", ".join(_distinct(runs, "steps")),
                    "best": ", ".join(str(run.record.get("best_step", "")) for run in runs),
                    "seconds": _mean_seconds(runs),
                    "options": [(str(name), _plain(value)) for name, value in listed],
                }
            )
    return fits


def _commands(out_dir: Path, level: str) -> tuple[str, ...]:
    """Return the command lines of the last runs of this level, from their logs."""
    levels = {"evaluate"} if level == "evaluate" else {"group", "train", "benchmark"}
    commands: list[str] = []
    for path in sorted(out_dir.glob("logs/*/config.toml")):
        try:
            run = tomllib.loads(path.read_text(encoding="utf-8")).get("run", {})
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and run.get("analysis-level") in levels and run.get("command"):
            commands.append(str(run["command"]))
    return tuple(dict.fromkeys(commands[::-1]))[:_COMMANDS]


def _distinct(runs: Sequence[Run], key: str) -> list[str]:
    return list(dict.fromkeys(str(run.record[key]) for run in runs if key in run.record))


def _mean_seconds(runs: Sequence[Run]) -> float | None:
    values = [run.record.get("seconds") for run in runs]
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
