"""``h2lo methods``: what can be fitted and applied, told without loading any of it."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence

from h2lo_bids.cli.parser_base import Parser
from h2lo_bids.models.catalogue import CATALOGUE, Entry

WORD = "methods"
_WIDTH = 92


def list_methods(argv: Sequence[str]) -> int:
    """Print the methods.

    Parameters
    ----------
    argv
        Words after ``h2lo methods``.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    UsageError
        If a word makes no sense.
    """
    parser = Parser(prog="h2lo methods", allow_abbrev=False)
    parser.description = (
        "List the methods that --method takes: title, parameters, paper, what is exact and what "
        "is our choice."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args: argparse.Namespace = parser.parse_args(argv)
    if args.json:
        print(json.dumps([entry.to_dict() for entry in CATALOGUE.values()], indent=2))
        return 0
    print("\n\n".join("\n".join(_lines(entry)) for entry in CATALOGUE.values()))
    return 0


def _lines(entry: Entry) -> Iterator[str]:
    size = f"{entry.parameters:,} parameters"
    if entry.trained is not None:
        size += f", {entry.trained:,} in training"
    yield f"{entry.name}: {entry.title}, {size}"
    for text in (
        f"{entry.reference}, {entry.link}",
        f"exact: {entry.exact}",
        f"ours: {entry.ours}",
    ):
        yield textwrap.fill(
            text, _WIDTH, initial_indent="  ", subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
