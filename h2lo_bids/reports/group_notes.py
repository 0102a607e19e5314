"""What the group report says about how its figures came to be."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.bids.results import result_pattern
from h2lo_bids.reports.group_data import Contrast, Run, read_json
from h2lo_bids.reports.records import ModelInfo

_COMMANDS = 5


def models(out_dir: Path, problems: list[str]) -> tuple[ModelInfo, ...]:
    """Read the final models: their metadata and their cards."""
    found = []
    for path in sorted(out_dir.glob(result_pattern("model", "/metadata.json"))):
        card = path.with_name("README.md")
        try:
            text = card.read_text(encoding="utf-8") if card.is_file() else ""
            metadata = {"name": path.parent.name, **read_json(path, problems)}
            found.append(ModelInfo.from_metadata(metadata, text))
        except (OSError, ValueError, TypeError, AttributeError):
            problems.append(f"models/{path.parent.name}: metadata or card cannot be read; left out")
    return tuple(found)


def evaluated(contrasts: Iterable[Contrast]) -> list[tuple[str, ...]]:
    """List the models that were given: contrast, name here, own name, method, size, digest."""
    rows = []
    for contrast in contrasts:
        for run in contrast.runs:
            model = run.record.get("model")
            if isinstance(model, dict):
                told = (str(model.get(key, "")) for key in ("name", "method"))
                size = run.record.get("parameters")
                count = f"{size:,}" if isinstance(size, int) else ""
                digest = str(model.get("sha256", ""))
                rows.append((contrast.name, run.title, *told, count, digest))
    return rows


def simulated(
    contrasts: Iterable[Contrast], views: Iterable[dict[str, Any]], models: Iterable[ModelInfo]
) -> bool:
    """Say whether anything on the page was learned from, or measured on, simulated pairs."""
    return (
        any(run.record.get("simulated") is True for c in contrasts for run in c.runs)
        or any(pair.simulated for view in views for pair in view["pairs"])
        or any(model.training_kind == "simulated" for model in models)
    )


def warnings(contrasts: Iterable[Contrast]) -> tuple[str, ...]:
    """Gather what the folds warned of."""
    lines = []
    for contrast in contrasts:
        for run in contrast.runs:
            told = run.record.get("warnings")
            for warning in told if isinstance(told, list) else ():
                lines.append(f"{contrast.name}, {run.name}: {warning}")
    return tuple(dict.fromkeys(lines))


def software(contrasts: Iterable[Contrast]) -> tuple[tuple[str, str], ...]:
    """List programs and their versions; more than one version means the folds differ."""
    versions: dict[str, dict[str, None]] = {}
    for contrast in contrasts:
        for run in contrast.runs:
            told = run.record.get("software")
            for name, version in told.items() if isinstance(told, dict) else ():
                versions.setdefault(str(name), {})[str(version)] = None
    return tuple((name, ", ".join(found)) for name, found in versions.items())


def settings(contrasts: Iterable[Contrast]) -> list[dict[str, Any]]:
    """Give the options, the seeds and the time of each method's fits."""
    found = []
    for contrast in contrasts:
        methods: dict[str, list[Run]] = {}
        for run in contrast.runs:
            if run.done:
                methods.setdefault(run.method, []).append(run)
        for runs in methods.values():
            options = runs[0].record.get("options")
            listed = options.items() if isinstance(options, dict) else ()
            found.append(
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
    return found


def commands(out_dir: Path, level: str) -> tuple[str, ...]:
    """Give the command lines of the last runs of this level, from their logs."""
    levels = {"evaluate"} if level == "evaluate" else {"group", "train", "benchmark"}
    found: list[str] = []
    for path in sorted(out_dir.glob("logs/*/config.toml")):
        try:
            run = tomllib.loads(path.read_text(encoding="utf-8")).get("run", {})
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and run.get("analysis-level") in levels and run.get("command"):
            found.append(str(run["command"]))
    return tuple(dict.fromkeys(found[::-1]))[:_COMMANDS]


def _distinct(runs: Sequence[Run], key: str) -> list[str]:
    return list(dict.fromkeys(str(run.record[key]) for run in runs if key in run.record))


def _mean_seconds(runs: Sequence[Run]) -> float | None:
    values = [run.record.get("seconds") for run in runs]
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
