"""``h2lo --output-spec`` alone: the pattern of every output, whatever the input."""

from __future__ import annotations

import json

import bids_app_spec

OUTPUT_SPEC = "--output-spec"


def print_patterns() -> int:
    """Print what ``io_spec.json`` says of outputs; return the exit code."""
    spec = bids_app_spec.load("io_spec.json")
    told = {key: spec[key] for key in ("outputs", "figures", "results")}
    print(json.dumps({**told, "descriptions": bids_app_spec.load("descriptions.tsv")}, indent=2))
    return 0
