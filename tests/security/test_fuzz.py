"""Hostile documents for every reader of outside files: hypothesis chooses the seeds."""

from __future__ import annotations

import os
import random
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import EVIL, mutate
from report_samples import Page
from targets import TARGETS, read_card

_DEAR = {"group-record", "report-record", "description", "cohort"}
_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
"""Damaged documents of each kind; a fifth of them where one takes long."""


@cache
def seeds_of(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_documents_are_read_or_told_in_one_line(name):
    @settings(
        max_examples=-(-_EXAMPLES // 5) if name in _DEAR else _EXAMPLES, deadline=None,
        database=None, derandomize=_EXAMPLES == 15,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32), st.integers(0, 2))
    def read(seed, again):
        rng = random.Random(seed)
        data = rng.choice(seeds_of(name))
        for _ in range(1 + again):
            data = mutate(data, rng)
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name].run(data, Path(folder))

    read()


@pytest.mark.parametrize("name", sorted(set(TARGETS) - _DEAR))
def test_whole_documents_are_read(name):
    with tempfile.TemporaryDirectory() as folder:
        assert TARGETS[name].run(seeds_of(name)[0], Path(folder)) is None


@pytest.mark.parametrize(
    "name",
    ["sub-../x_T1w.nii.gz", "sub-..", "sub-01_ses-../../etc_T1w.nii", "sub-0\u0661_T1w.nii",
     "sub-\uff10\uff11_T1w.nii", "sub-a\x00_T1w.nii", "sub-a\n_T1w.nii", "sub-%2e%2e_T1w.nii",
     "sub-.._T1w.nii", "sub-\u202e10_T1w.nii", "/sub-01_T1w.nii", "sub-01\\..\\_T1w.nii"],
)  # fmt: skip
def test_names_that_leave_their_place_are_no_names(name):
    from h2lo_bids.bids.names import parse_name

    assert parse_name(name) is None


@given(st.text(st.sampled_from("<>&\"'`[]()*_|#-\n !:/=abscript\\"), max_size=60))
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_cards_make_no_elements_of_their_own(text):
    read_card(text.encode())
    read_card((text + EVIL).encode())


def test_a_table_makes_no_elements_of_its_own(tmp_path):
    from group_samples import Sample, make_group, sample_table

    from h2lo_bids.reports.group import write_table_page

    folder = make_group(tmp_path, Sample(subjects=("A", "B"), methods=("h2lo",), folds=1))
    names = ("another", EVIL)
    texts = [
        write_table_page(folder, sample_table(folder, more=name)).read_text() for name in names
    ]
    assert "window.hacked" in texts[1]
    plain, evil = map(Page, texts)
    assert all(evil.tags.count(tag) == plain.tags.count(tag) for tag in ("script", "img"))
    assert {name for _, name, _ in evil.attributes} <= {name for _, name, _ in plain.attributes}
