"""``h2lo methods`` and ``h2lo outputs``: what there is to choose from, whatever the input."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence

import bids_app_spec
from h2lo_bids.cli.parser import Parser
from h2lo_bids.models.catalogue import CATALOGUE, Entry

_WIDTH = 92


def find_listing(words: Sequence[str]) -> Callable[[Sequence[str]], int] | None:
    """Return what prints a listing; in front of an output folder its name is a dataset."""
    if not words or not all(word.startswith("-") for word in words[1:]):
        return None
    return {"methods": list_methods, "outputs": list_outputs}.get(words[0])


def list_methods(words: Sequence[str]) -> int:
    """Print the methods; return the exit code."""
    parser = Parser(prog="h2lo methods", allow_abbrev=False)
    parser.description = (
        "List the methods that --method takes: title, parameters, paper, what is exact and what "
        "is our choice."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    if parser.parse_args(words).json:
        print(json.dumps([entry.to_dict() for entry in CATALOGUE.values()], indent=2))
    else:
        print("\n\n".join("\n".join(_lines(entry)) for entry in CATALOGUE.values()))
    return 0


def list_outputs(words: Sequence[str]) -> int:
    """Print what ``io_spec.json`` holds about outputs; return the exit code."""
    parser = Parser(prog="h2lo outputs", allow_abbrev=False)
    parser.description = (
        "Print the patterns of all outputs as JSON; --output-spec lists the files of one run."
    )
    parser.parse_args(words)
    spec = bids_app_spec.load("io_spec.json")
    patterns = {key: spec[key] for key in ("outputs", "figures", "results")}
    patterns["descriptions"] = bids_app_spec.load("descriptions.tsv")
    print(json.dumps(patterns, indent=2))
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
