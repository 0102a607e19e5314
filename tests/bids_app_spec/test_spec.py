from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import PurePath

import bids_app_spec


def test_every_desc_of_a_pattern_is_explained() -> None:
    outputs = bids_app_spec.load("io_spec.json")["outputs"]
    used = set()
    for output in outputs.values():
        for labels in re.findall(r"\{desc<([^>]*)>\}", output["pattern"]):
            used |= set(labels.split("|"))
    rows = bids_app_spec.load("descriptions.tsv")
    assert {row["desc_id"] for row in rows} == {f"desc-{label}" for label in used}
    assert all(row["description"] for row in rows)


def test_validators_skip_every_result_that_bids_has_no_name_for() -> None:
    spec = bids_app_spec.load("io_spec.json")
    known = {"dataset_description.json", "descriptions.tsv", "descriptions.json", "README.md"}
    for result in spec["results"].values():
        for end in result.get("files", [""]):
            path = PurePath(re.sub(r"\{\w+\}", "x", result["path"]) + end)
            names = (*path.parts, "/".join(path.parts[:2]))
            skipped = any(fnmatch(name, rule) for name in names for rule in spec["bidsignore"])
            assert skipped or path.name in known | {".bidsignore"}, path
