"""The page of a training or an evaluation: one HTML file, built from what lies in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.bids.results import result_path
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import group_notes as notes_of
from h2lo_bids.reports.group_data import Contrast, read_contrasts
from h2lo_bids.reports.group_views import PANELS, REALISM_COLUMNS, contrast_view
from h2lo_bids.reports.page import asset, environment, policy
from h2lo_bids.reports.records import Failure

_TITLES = {
    "evaluate": "Evaluation",
    "enhance": "Enhancement: training and cross-validation",
}


def write_group_report(
    out_dir: Path,
    *,
    level: str,
    notes: tuple[str, ...] = (),
    failures: Sequence[Failure] = (),
) -> Path:
    """Write ``group.html``, atomically, from the files in the output folder.

    It can be written at any time: with some folds done, the page shows these
    and says which are missing. Everything that comes from data is escaped; the
    page's own policy forbids every request and every script but its own.

    Parameters
    ----------
    out_dir : Path
        Root of the derivatives.
    level : str
        ``"group"``, ``"train"`` or ``"benchmark"`` shows the cross-validation, ``"enhance"``
        that of the enhancers, ``"evaluate"`` the evaluation of given models.
    notes : tuple of str, optional
        What else the reader should know, one sentence each.
    failures : sequence of Failure, optional
        What went wrong in this run.

    Returns
    -------
    Path
        ``out_dir/group.html``, or ``enhancement.html``.

    Raises
    ------
    CannotCreateError, InputOutputError
        The file cannot be written.
    """
    path = result_path(out_dir, "enhancement_report" if level == "enhance" else "group_report")
    page = render_group_report(Path(out_dir), level=level, notes=notes, failures=failures)
    atomic_write_text(path, page)
    return path


def render_group_report(
    out_dir: Path,
    *,
    level: str,
    notes: tuple[str, ...] = (),
    failures: Sequence[Failure] = (),
) -> str:
    """Give the HTML of :func:`write_group_report`."""
    from markupsafe import Markup

    contrasts, found = read_contrasts(out_dir, level)
    problems = list(found)
    views = [contrast_view(contrast, out_dir, level, problems) for contrast in contrasts]
    models = notes_of.models(out_dir, problems) if level != "evaluate" else ()
    style = asset("style.css") + asset("group.css") + _panel_rules()
    script = asset("group.js.jinja")
    template = environment().get_template("group.html.jinja")
    return template.render(
        level=level,
        title=_TITLES.get(level, "Training and cross-validation"),
        low="high" if level == "enhance" else "low",
        high="low" if level == "enhance" else "high",
        views=views,
        facts=_facts(contrasts, views, level),
        models=models,
        realism_columns=REALISM_COLUMNS,
        evaluated=notes_of.evaluated(contrasts) if level == "evaluate" else (),
        missing=[line for contrast in contrasts for line in contrast.missing],
        simulated=notes_of.simulated(contrasts, views, models),
        notes=tuple(dict.fromkeys(notes)),
        warnings=notes_of.warnings(contrasts),
        problems=tuple(dict.fromkeys(problems)),
        failures=failures,
        software=notes_of.software(contrasts),
        settings=notes_of.settings(contrasts) if level != "evaluate" else (),
        commands=notes_of.commands(out_dir, level),
        style=Markup(style),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours
        policy=policy(style, script),
    )


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
