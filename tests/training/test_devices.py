"""Fits in processes of their own: shared between two, killed, and on a full disk."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from problems import VARIED, ball_pair, history, small_options

from h2lo_bids.errors import BadDataError, H2loError, InputOutputError, TemporaryError, UsageError
from h2lo_bids.training.devices import check_shares, launch
from h2lo_bids.training.fit import fit, load_checkpoint
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, keep_pair, map_pair
from h2lo_bids.vocabulary import Step

_START = multiprocessing.get_context("forkserver")
_START.set_forkserver_preload(["h2lo_bids.training.fit", "h2lo_bids.training.methods"])


class Fitting(NamedTuple):
    """What `fit` and `launch` are called with."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    options: FitOptions
    folder: Path


def run(fitting: Fitting) -> None:
    """Fit in a process of its own."""
    torch.set_num_threads(1)
    fit(*fitting)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Pair, ...]:
    kept = []
    for n, name in enumerate("abcd"):
        pair, path = ball_pair(name, n + 1), tmp_path / f"{name}.npy"
        keep_pair(path, pair.hf, pair.lf, pair.mask)
        kept.append(map_pair(path, name))
    return tuple(kept)


def specify(pairs: tuple[Pair, ...], folder: Path, **changes: object) -> Fitting:
    options = small_options(**{"augmentation": VARIED, "average": 0.9, **changes})
    return Fitting(pairs[:3], pairs[3:], options, folder)


def losses(folder: Path) -> np.ndarray:
    return np.array(
        [[float(r[c]) for c in ("step", "loss", "l1", "gradient")] for r in history(folder)]
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved = load_checkpoint(folder)
    assert saved is not None
    return saved["trainer"]["average"]


def load_step(folder: Path) -> int:
    saved = load_checkpoint(folder) if (folder / "last.pt").exists() else None
    return 0 if saved is None else saved["record"]["step"]


@pytest.mark.slow
def test_two_processes_equal_one(
    pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cluster's script may have numbered the nodes; all processes are on this one.
    monkeypatch.setenv("NODE_RANK", "3")
    monkeypatch.setenv("GROUP_RANK", "3")
    # Three samples in two processes: the shares differ, the sums must not.
    one = specify(pairs, tmp_path / "one", batch=3)
    two = one._replace(folder=tmp_path / "two")
    fit(*one)
    lines: list[str] = []
    launch(*two, lines.append, processes=2)
    assert lines[-1].startswith("step 8 of 8: loss ")
    a, b = losses(one.folder), losses(two.folder)
    assert np.array_equal(a[:, 0], np.arange(1, 9))
    np.testing.assert_allclose(b, a, rtol=1e-4)
    for name, value in weights(one.folder).items():
        torch.testing.assert_close(weights(two.folder)[name], value, rtol=0, atol=2e-5)
    # Whoever launched it reads the result as that of a fit of its own.
    assert fit(*two).steps == 8
    # An error of a process is raised with its class.
    for name in ("last.pt", "previous.pt"):
        (two.folder / name).write_bytes(b"damaged")
    with pytest.raises(BadDataError, match=r"last\.pt: damaged"):
        launch(*two, processes=2)


@pytest.mark.slow
def test_error_of_one_process_is_the_error_of_the_fit(
    pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    """The first process alone reads the history; the others lose it, and report that later."""
    spec, log = specify(pairs, tmp_path / "fit"), tmp_path / "fit" / "launch.log"
    fit(*spec, stop_at=2)
    (spec.folder / "history.csv").unlink()
    (spec.folder / "history.csv").mkdir()
    log.write_text("of an earlier run")
    text = f"IsADirectoryError: .*history.csv.*; see {re.escape(str(log))}, and report it"
    with pytest.raises(H2loError, match=text):
        launch(*spec, processes=2)
    assert "IsADirectoryError" in log.read_text()
    assert "of an earlier run" not in log.read_text()


@pytest.mark.slow
def test_sigterm_saves_the_step_of_all_processes(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    many = {"steps": 5000, "validate_every": 1, "checkpoint_every": 5000}
    spec, handler = specify(pairs, tmp_path / "fit", **many), signal.getsignal(signal.SIGTERM)
    said: list[int] = []

    def stop(line: str) -> None:
        if isinstance(line, Step):
            said.append(int(line.split()[1]))
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TemporaryError, match="stopped by a signal; run again to go on from there"):
        launch(*spec, stop, processes=2)
    assert said[-1] <= load_step(spec.folder) < 5000
    assert signal.getsignal(signal.SIGTERM) == handler


def test_too_many_processes(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 samples for 2 processes"):
        launch(*specify(pairs, tmp_path / "fit", batch=1), processes=2)
    options = small_options(sampling="volume", batch=2)
    with pytest.raises(UsageError, match="1 samples for 2 processes"):
        check_shares(3, options, 2)  # the third pair is alone in its step


@pytest.mark.slow
def test_killed_fit_goes_on_to_the_same_weights(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    more = {"steps": 40, "checkpoint_every": 3, "validate_every": 7}
    whole = specify(pairs, tmp_path / "whole", **more)
    parts = whole._replace(folder=tmp_path / "parts")
    fit(*whole)
    rng = random.Random(5)
    reached = []
    for after in sorted(rng.sample(range(1, 36), 4)):
        process = _START.Process(target=run, args=(parts,))
        process.start()
        # Killed soon after it has saved a later step than `after`, wherever it is then.
        while process.is_alive():
            if load_step(parts.folder) >= after:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join(120)
        assert process.exitcode in (-signal.SIGKILL, 0)
        reached.append(load_step(parts.folder))
    assert reached[0] < 40
    assert fit(*parts).steps == 40
    for name, value in weights(whole.folder).items():
        assert torch.equal(weights(parts.folder)[name], value), name
    np.testing.assert_array_equal(losses(parts.folder), losses(whole.folder))


def test_full_disk_is_one_line_and_loses_nothing(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    spec = specify(pairs, tmp_path / "fit")
    fit(*spec._replace(folder=tmp_path / "whole"))
    fit(*spec, stop_at=3)
    before = {p.name: p.read_bytes() for p in spec.folder.glob("*.pt")}
    limit = (spec.folder / "last.pt").stat().st_size // 2

    before_signal = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(InputOutputError, match=r"last\.pt: writing failed .*free") as error:
            fit(*spec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before_signal)
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in spec.folder.glob("*.pt")} == before
    assert not [p for p in spec.folder.iterdir() if p.name.startswith(".")]
    fit(*spec)
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(spec.folder)[name], value), name
