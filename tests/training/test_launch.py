"""Fits in processes of their own: shared between two, killed, and on a full disk."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_children import Child, start_child
from problems import ball_pair, small_options

from h2lo_bids.errors import (
    BadDataError,
    H2loError,
    InputOutputError,
    MissingInputError,
    UsageError,
)
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.devices import check_shares
from h2lo_bids.training.fit import fit
from h2lo_bids.training.folder import load_checkpoint
from h2lo_bids.training.launch import (
    FitSpec,
    launch,
    main,
    read_spec,
    write_spec,
)
from h2lo_bids.training.pairs import Pair, keep_pair, map_pair

VARIED = Augmentation(flip=0.5, shift=1, scale=0.2, gamma=0.1, bias=0.1, noise=0.02)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Pair, ...]:
    kept = []
    for n, name in enumerate("abcd"):
        pair, path = ball_pair(name, n + 1), tmp_path / f"{name}.npy"
        keep_pair(path, pair.hf, pair.lf, pair.mask)
        kept.append(map_pair(path, name))
    return tuple(kept)


def specify(pairs: tuple[Pair, ...], folder: Path, **changes: object) -> FitSpec:
    options = small_options(**{"augmentation": VARIED, "average": 0.9, **changes})
    return FitSpec(pairs[:3], pairs[3:], options, folder, threads=1)


def child(spec: FitSpec, **more: object) -> Child:
    path = spec.folder.with_suffix(".json")
    write_spec(path, spec)
    return start_child(path, **more)  # type: ignore[arg-type]


def history(folder: Path) -> np.ndarray:
    with (folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = ("step", "loss", "l1", "gradient")
    return np.array([[float(r[c]) for c in columns] for r in rows])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved = load_checkpoint(folder)
    assert saved is not None
    return saved["trainer"]["average"]


def load_step(folder: Path) -> int:
    saved = load_checkpoint(folder) if (folder / "last.pt").exists() else None
    return 0 if saved is None else saved["record"]["step"]


def alone(spec: FitSpec) -> None:
    torch.set_num_threads(1)
    fit(spec.train, spec.validation, spec.options, spec.folder)


@pytest.mark.slow
def test_two_processes_equal_one(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    # Three samples in two processes: the shares differ, the sums must not.
    one = specify(pairs, tmp_path / "one", batch=3)
    two = dataclasses.replace(one, folder=tmp_path / "two")
    alone(one)
    lines: list[str] = []
    launch(two, processes=2, progress=lines.append)
    assert lines[-1].startswith("8 steps, best validation")
    a, b = history(one.folder), history(two.folder)
    assert np.array_equal(a[:, 0], np.arange(1, 9))
    np.testing.assert_allclose(b, a, rtol=1e-4)
    for name, value in weights(one.folder).items():
        torch.testing.assert_close(weights(two.folder)[name], value, rtol=0, atol=2e-5)
    # Whoever launched it reads the result as that of a fit of its own.
    alone(two)


def test_too_many_processes_and_failed_ones(
    pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specify(pairs, tmp_path / "fit", batch=1)
    with pytest.raises(UsageError, match="1 samples for 2 processes"):
        launch(spec, processes=2)
    options = small_options(sampling="volume", batch=2)
    with pytest.raises(UsageError, match="1 samples for 2 processes"):
        check_shares(3, options, 2)  # the third pair is alone in its step
    # What torchrun swallows: the error of a process, with its class.
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(H2loError, match=r"launch\.log: the processes of the fit failed"):
        launch(specify(pairs, tmp_path / "fit"), processes=2)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(
        f'#!/bin/sh\necho \'["BadDataError", "last.pt: bad"]\' > {spec.folder}/error.json\nexit 1\n'
    )
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(BadDataError, match=r"last\.pt: bad"):
        launch(specify(pairs, tmp_path / "fit"), processes=2)
    (spec.folder / "error.json").unlink()
    (spec.folder / "last.pt").write_bytes(b"damaged")
    assert main([str(spec.folder / "spec.json")]) == BadDataError.exit_code
    assert "last.pt" in (spec.folder / "error.json").read_text()


@pytest.mark.slow
def test_killed_fit_goes_on_to_the_same_weights(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    more = {"steps": 40, "checkpoint_every": 3, "validate_every": 7}
    whole = specify(pairs, tmp_path / "whole", **more)
    parts = dataclasses.replace(whole, folder=tmp_path / "parts")
    alone(whole)
    rng = random.Random(5)
    reached = []
    for after in sorted(rng.sample(range(1, 36), 4)):
        process = child(parts)
        # Killed soon after it has saved a later step than `after`, wherever it is then.
        while process.running():
            if load_step(parts.folder) >= after:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.kill()
        assert process.finish()[0] in (-signal.SIGKILL, 0)
        reached.append(load_step(parts.folder))
    assert reached[0] < 40
    assert child(parts).finish() == (0, "")
    for name, value in weights(whole.folder).items():
        assert torch.equal(weights(parts.folder)[name], value), name
    np.testing.assert_array_equal(history(parts.folder), history(whole.folder))


@pytest.mark.slow
def test_full_disk_is_one_line_and_loses_nothing(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    spec = specify(pairs, tmp_path / "fit")
    alone(dataclasses.replace(spec, folder=tmp_path / "whole"))
    fit(spec.train, spec.validation, spec.options, spec.folder, stop_at=3)
    before = {p.name: p.read_bytes() for p in spec.folder.glob("*.pt")}
    limit = (spec.folder / "last.pt").stat().st_size // 2

    code, error = child(spec, largest_file=limit).finish()
    assert code == InputOutputError.exit_code
    assert error.count("\n") == 1
    assert "last.pt: cannot write the checkpoint" in error
    assert {p.name: p.read_bytes() for p in spec.folder.glob("*.pt")} == before
    assert not [p for p in spec.folder.iterdir() if p.name.startswith(".")]
    assert child(spec).finish() == (0, "")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(spec.folder)[name], value), name


def test_specification_round_trip_and_errors(
    pairs: tuple[Pair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for initial in (tmp_path / "bundle", None):
        spec = dataclasses.replace(specify(pairs, tmp_path / "fit"), initial=initial)
        write_spec(tmp_path / "spec.json", spec)
        read = read_spec(tmp_path / "spec.json")
        assert (tuple(read.train), tuple(read.validation)) == (spec.train, spec.validation)
        assert dataclasses.replace(read, train=spec.train, validation=spec.validation) == spec
    with pytest.raises(MissingInputError, match=r"absent\.json"):
        read_spec(tmp_path / "absent.json")
    values = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps({**values, "options": {"steps": 1}}))
    assert main([str(tmp_path / "spec.json")]) == BadDataError.exit_code
    (tmp_path / "spec.json").write_text("[]")
    assert main([str(tmp_path / "spec.json")]) == BadDataError.exit_code
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
