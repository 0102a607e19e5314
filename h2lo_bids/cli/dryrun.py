"""What the participant level would read, and what would keep it from beginning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from h2lo_bids.bids.discover import Discovery
from h2lo_bids.cli.beside import grids_for
from h2lo_bids.cli.participant import sources_of
from h2lo_bids.errors import MissingInputError
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS


def describe(settings: Settings, found: Discovery) -> Iterator[str]:
    """Yield one line per input."""
    for scan in found.scans:
        yield f"read  {scan.path} [{scan.strength}; model: {_model(settings, scan.suffix)}]"
    for source in sources_of(found):
        if source.fusion != "none":
            names = ", ".join(part.path.name for part in source.parts)
            yield f"fuse  {names} [as {source.scan.stem}]"
    for grid in grids_for(settings) if found.scans else ():
        if grid.kind == "lf":
            yield f"grid  res-{grid.res} [{grid.told}]"


def check_beforehand(settings: Settings, found: Discovery) -> None:
    """Load the models and find the templates, as a run does before it begins.

    Templates that the run would fetch may be missing.

    Raises
    ------
    H2loError
        What the run would end with.
    """
    from h2lo_bids.cli.checks import check_models_and_templates
    from h2lo_bids.cli.tasks import CheckTask

    suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
    if not suffixes:
        return
    try:
        check_models_and_templates(CheckTask(replace(settings, fetch_templates=False), suffixes))
    except MissingInputError:
        if not settings.fetch_templates:
            raise


def _model(settings: Settings, suffix: str) -> str:
    """Say which model a contrast gets; weights are not read for that."""
    from h2lo_bids.models.collection import choose_bundles, is_collection

    given = dict(settings.model)
    embedded = f"embedded {settings.method[0]}" if settings.method else "embedded"
    path = given.get(suffix, given.get(""))
    if path is None:
        return embedded
    if is_collection(path):
        found = choose_bundles(
            path, contrasts=CONTRASTS, methods=settings.method, task=settings.task
        )
        own = [item.path for item in found if item.contrast == suffix]
        return " or ".join(map(str, own)) if own else embedded
    return str(path) if suffix in given else f"{path} if it is for {suffix}, else {embedded}"
