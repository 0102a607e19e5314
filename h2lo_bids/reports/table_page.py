"""A table in the paper's layout as one HTML file, with a panel of images like Fig. 2 (a)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from h2lo_bids.evaluation.paper import GROUP
from h2lo_bids.evaluation.printout import floor_of, tests_html
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.evaluation.table import Block, Table
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import group_notes as notes_of
from h2lo_bids.reports import group_pictures as pictures
from h2lo_bids.reports.group_data import Contrast, read_contrasts
from h2lo_bids.reports.group_scores import read_participants
from h2lo_bids.reports.group_views import draw_subject, median_subject
from h2lo_bids.reports.page import asset, environment, policy
from h2lo_bids.reports.svg import svg_uri

LEVEL, ENHANCE = "benchmark", "enhance"


def write_table_page(out_dir: Path, table: Table) -> Path:
    """Write ``<name>.html``, atomically, from a table and the pictures of its folds.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    table
        What is shown.

    Returns
    -------
    Path
        The page, which asks for nothing else.

    Raises
    ------
    CannotCreateError, InputOutputError
        The file cannot be written.
    """
    path = Path(out_dir) / f"{table.name}.html"
    atomic_write_text(path, render_table_page(Path(out_dir), table))
    return path


def render_table_page(out_dir: Path, table: Table) -> str:
    """Give the HTML of `write_table_page`."""
    from markupsafe import Markup

    level = ENHANCE if table.task == ENHANCE else LEVEL
    contrasts, found = read_contrasts(out_dir, level)
    known = {contrast.name: contrast for contrast in contrasts}
    problems = list(found)
    views = []
    for block in table.blocks:
        panel, contrast = None, known.get(block.contrast)
        if contrast is not None:
            panel = _panel(block, contrast, out_dir, level, problems)
        views.append(_view(table, block, panel))
    style = asset("style.css") + asset("group.css")
    return environment().get_template("table.html.jinja").render(
        table=table,
        views=views,
        caption=table.caption,
        group=GROUP,
        citation=table.citation,
        low="high" if level == ENHANCE else "low",
        high="low" if level == ENHANCE else "high",
        page="enhancement.html" if level == ENHANCE else "group.html",
        problems=tuple(dict.fromkeys(problems)),
        software=notes_of.software(contrasts),
        commands=notes_of.commands(out_dir, level),
        style=Markup(style),  # noqa: S704 - ours
        policy=policy(style, ""),
    )  # fmt: skip


def _view(table: Table, block: Block, panel: dict[str, Any] | None) -> dict[str, Any]:
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
    """Draw the middle one of the test subjects that most methods have a picture of."""
    subjects = pictures.read_subjects(contrast, problems)
    if not subjects:
        return None
    titles = block.titles
    participants = read_participants(contrast, out_dir, level, problems)
    most = max(len(subject.predicted) for subject in subjects.values())
    names = sorted(name for name, s in subjects.items() if len(s.predicted) == most)
    tested = (row.versus for row in block.comparisons if row.versus != IDENTITY)
    main = next(tested, next((key for key in titles if key != IDENTITY), IDENTITY))
    name = median_subject(participants, main, names) or names[0]
    everyone = list(subjects.values())
    white, scale = pictures.bright(everyone), pictures.error_scale([subjects[name]])
    drawing = draw_subject(
        contrast.name, subjects[name], titles, participants, white=white, scale=scale
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
