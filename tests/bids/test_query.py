from __future__ import annotations

import json
import re
from pathlib import Path

from skeletons import asking, name_of

from h2lo_bids.bids.query import (
    ENHANCED,
    HIGH,
    LOW,
    Conditions,
    compile_filters,
    describe,
    load_filter_file,
    matches,
)
from h2lo_bids.errors import MissingInputError, UsageError


def test_conditions() -> None:
    image = name_of("sub-01_ses-GE_acq-MPRAGE_run-01_T1w.nii.gz")
    entities = {"session": "ses-GE", "subject": "sub-01", "acq": ["FSPGR", "MPRAGE"], "run": 1}
    for asked, expected in (
        (entities, True), ({"reconstruction": None}, True), ({"acquisition": "*"}, True),
        ({"rec": "*"}, False), ({"rec": [None, "SCIC"]}, True),
        ({"suffix": "T1w", "datatype": "anat", "extension": ["nii", ".nii.gz"]}, True),
        ({"extension": ".nii"}, False), ({**entities, "run": 2}, False),
    ):  # fmt: skip
        assert matches(image, compile_filters({"t1w": asked})["t1w"]) is expected, asked
    for words, expected in (
        (["acquisition=FSPGR,MPRAGE", "run-1", "rec="], True),
        (["acq=MPRAGE run-1", "acq-FSPGR", "rec=null"], True), (["acq=MPRAGE", "run=2"], False),
    ):  # fmt: skip
        assert matches(image, compile_filters(None, words)["t1w"]) is expected, words


def test_inline_replaces_the_file_and_queries_stay_apart(tmp_path: Path) -> None:
    content = {"t1w": {"acq": "A"}, "hf_t1w": {"acq": "B"}, "lf_t2w": {"ses": ["C", None]}}
    words = {"filter": ("run=1",), "hf": ("rec-x",), "lf": ("acq-y",)}
    query = Conditions(asking(tmp_path / "ds", content, **words))
    run = {"run": ("1",)}
    assert query.asked("T1w", *HIGH) == {"acq": ("B",), **run, "rec": ("x",)}
    assert query.asked("T2w", *LOW) == {"ses": ("C", None), "acq": ("y",)}
    assert query.asked("T2w", *ENHANCED) == {**run, "ses": ("C", None), "acq": ("y",)}
    assert compile_filters({"t1w": {"acq": "A"}}, ["acq=C"])["t1w"] == {"acq": ("C",)}
    assert describe({"acq": ("A", None)}) == "acq=A,null"


def test_nonsense_is_one_line(refused) -> None:
    for content, words, told in (
        ({"T1W": {}}, [], "did you mean 't1w'"),
        ({"lf_bold": {}}, [], "lf_bold"),
        ({"t1w": {"acq": "../x"}}, [], "../x"),
        ({"t1w": {"acq": True}}, [], "acq"),
        ({"t1w": "MPRAGE"}, [], "t1w"),
        ([], [], "object"),
        ({}, ["aqc=x"], "did you mean acq"),
        ({}, ["acq=a/b"], "a/b"),
    ):
        assert told in refused(UsageError, compile_filters, content, words)


def test_files(tmp_path: Path, refused) -> None:
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"t2w": {"session": None}}))
    assert load_filter_file(path) == {"t2w": {"session": None}}
    for text, word in (
        ("{'t1w': 1}", "JSON"), ("[" * 100_000, "nested too deeply"), ('{"t1": {}}', "'t1'"),
    ):  # fmt: skip
        path.write_text(text)
        assert re.search(rf"filter\.json.*{word}", refused(UsageError, load_filter_file, path))
    assert "absent" in refused(MissingInputError, load_filter_file, tmp_path / "absent.json")
