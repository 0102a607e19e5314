"""Fits that several processes share."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import VARIED, ball_pair, history, small_options

from h2lo_bids.errors import CannotCreateError, H2loError, TemporaryError, UsageError
from h2lo_bids.training.devices import check_shares, launch
from h2lo_bids.training.fit import fit, load_checkpoint
from h2lo_bids.training.pairs import keep_pair, map_pair
from h2lo_bids.vocabulary import Step


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., tuple]:
    """Return a function that gives what `fit` and `launch` are called with, for some folder."""
    kept = []
    for n, name in enumerate("abcd"):
        pair, path = ball_pair(name, n + 1), tmp_path / f"{name}.npy"
        keep_pair(path, pair.hf, pair.lf, pair.mask)
        kept.append(map_pair(path, name))

    def specify(folder: Path, **changes: object) -> tuple:
        options = small_options(**{"augmentation": VARIED, "average": 0.9, **changes})
        return kept[:3], kept[3:], options, folder

    return specify


@pytest.mark.slow
def test_two_processes_equal_one(given, tmp_path, monkeypatch):
    # A cluster's script may have numbered the nodes; all processes are on this one.
    monkeypatch.setenv("NODE_RANK", "3")
    monkeypatch.setenv("GROUP_RANK", "3")
    # Three samples in two processes: the shares differ, the sums must not.
    one, two = tmp_path / "one", tmp_path / "two"
    fit(*given(one, batch=3))
    lines: list[str] = []
    launch(*given(two, batch=3), lines.append, processes=2)
    assert lines[-1].startswith("step 8 of 8: loss ")
    a, b = (
        [
            [float(row[name]) for name in ("step", "loss", "l1", "gradient")]
            for row in history(folder)
        ]
        for folder in (one, two)
    )
    np.testing.assert_allclose(b, a, rtol=1e-4)
    averages = [load_checkpoint(folder)["trainer"]["average"] for folder in (one, two)]
    torch.testing.assert_close(*averages, rtol=0, atol=2e-5)
    # Whoever launched it reads the result as that of a fit of its own.
    assert fit(*given(two, batch=3)).steps == 8


@pytest.mark.slow
def test_error_of_one_process_is_the_error_of_the_fit(given, tmp_path):
    """The first process alone writes the history; the others lose it, and report that later."""
    (tmp_path / "history.csv").mkdir()
    with pytest.raises(CannotCreateError, match=r"history\.csv: cannot be created"):
        launch(*given(tmp_path), processes=2)
    log = tmp_path / "launch.log"
    log.write_text("of an earlier run")
    with pytest.raises(H2loError, match=f"TypeError: .*; see {re.escape(str(log))}, and report it"):
        launch(*given(tmp_path, validation_crops="x"), processes=1)
    assert log.read_text().startswith("Traceback")


@pytest.mark.slow
def test_sigterm_saves_the_step_of_all_processes(given, tmp_path):
    spec = given(tmp_path, steps=5000, validate_every=1, checkpoint_every=5000)
    handler = signal.getsignal(signal.SIGTERM)
    said: list[int] = []

    def stop(line):
        if isinstance(line, Step):
            said.append(int(line.split()[1]))
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TemporaryError, match="stopped by a signal; run again to go on from there"):
        launch(*spec, stop, processes=2)
    assert said[-1] <= load_checkpoint(tmp_path)["record"]["step"] < 5000
    assert signal.getsignal(signal.SIGTERM) == handler


def test_too_many_processes(given, tmp_path):
    with pytest.raises(UsageError, match="1 samples for 2 processes"):
        launch(*given(tmp_path, batch=1), processes=2)
    options = small_options(sampling="volume", batch=2)
    with pytest.raises(UsageError, match="1 samples for 2 processes"):
        check_shares(3, options, 2)  # the third pair is alone in its step
