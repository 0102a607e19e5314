"""How fits share processors, and what they tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from h2lo_bids.cli.fits import duration, threads_of
from h2lo_bids.cli.fitwork import Progress
from h2lo_bids.cli.planwork import check_ahead
from h2lo_bids.cli.settings import Settings
from h2lo_bids.errors import UsageError

SETTINGS = Settings(Path("/bids"), Path("/out"), "group", nprocs=8)


def test_folds_and_devices_share_the_processors():
    assert threads_of(SETTINGS) == 8
    assert threads_of(replace(SETTINGS, n_folds_parallel=3)) == 2
    assert threads_of(replace(SETTINGS, n_folds_parallel=2, devices=2)) == 2
    assert threads_of(replace(SETTINGS, n_folds_parallel=20)) == 1
    assert threads_of(replace(SETTINGS, omp_nthreads=5)) == 5


def test_progress_tells_the_time_that_is_left():
    events, now = [], [100.0]
    say = Progress(events.append, clock=lambda: now[0])
    say("T1w h2lo fold 0: going on from step 200 of /work")
    say("T1w h2lo fold 0: step 201/1000: loss 0.5, 9 s")
    now[0] += 50.0
    say("T1w h2lo fold 0: step 301/1000: loss 0.4, validation PSNR 21.50 dB, 59 s")
    assert [event["event"] for event in events] == ["said", "progress", "progress"]
    assert "left" not in events[1]  # what was done before the resumption says nothing of pace
    assert events[2]["psnr"] == 21.5
    assert events[2]["left"] == pytest.approx(699 * 0.5)


def test_times_are_told_in_their_unit():
    assert [duration(s) for s in (0.4, 119, 121, 7199, 9000)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2 h 30 min",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"folds": "5"}, "cannot make 5 folds"),
        ({"folds": "2", "fold": (9,)}, "--fold 9"),
        ({"folds": "0", "val_count": 4}, "cannot be divided"),
        ({"device": "cuda:99"}, "--device cpu"),
        ({"folds": "2", "precision": "fp16", "device": "cpu"}, "fp16"),
    ],
)
def test_what_no_fit_can_follow_is_refused_before_pairs_are_prepared(words, text):
    people = {"T1w": ("01", "02", "03", "04")}
    check_ahead(replace(SETTINGS, folds="2"), people)
    with pytest.raises(UsageError, match=text):
        check_ahead(replace(SETTINGS, **words), people)


def test_an_impossible_division_names_the_contrasts_that_can_be_had():
    people = {"T1w": [f"{n:02d}" for n in range(6)], "T2w": ["01", "02"]}
    with pytest.raises(UsageError, match=r"T2w.*--contrast T1w$"):
        check_ahead(SETTINGS, people)
    with pytest.raises(UsageError, match=r"without T2w: --contrast T1w$"):
        check_ahead(replace(SETTINGS, folds="0", val_count=2), people)
    with pytest.raises(UsageError) as alone:
        check_ahead(SETTINGS, {"T2w": ["01", "02"]})
    assert "--contrast" not in str(alone.value)
