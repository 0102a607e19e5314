"""Fitting learns, resumes bit for bit, and fails in one line."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import ball_pair, small_options

from h2lo_bids.errors import BadDataError, H2loError, InputOutputError, UsageError
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.checkpoint import load_checkpoint, save_checkpoint
from h2lo_bids.training.fit import fit

VARIED = Augmentation(flip=0.5, shift=1, scale=0.2, gamma=0.1, bias=0.1, noise=0.02)
TRAIN = [ball_pair("a", 1), ball_pair("b", 2), ball_pair("c", 3)]
HELD = [ball_pair("d", 4)]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["patch", "volume"])
def test_learns_a_held_out_subject(tmp_path: Path, sampling: str) -> None:
    options = small_options(steps=150, batch=1, sampling=sampling, validate_every=50)
    result = fit(TRAIN, HELD, options, tmp_path)
    assert result.best_psnr > result.identity_psnr + 8
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    losses = [float(r["loss"]) for r in rows]
    assert [int(r["step"]) for r in rows] == list(range(1, 151))
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:5])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_resumed_fit_equals_an_undisturbed_one(tmp_path: Path, precision: str, stop: int) -> None:
    torch.set_num_threads(1)
    average = 0.9 if precision == "fp32" else 0.0
    options = small_options(precision=precision, augmentation=VARIED, average=average)
    whole = fit(TRAIN, HELD, options, tmp_path / "whole")
    torch.manual_seed(999)  # a resumed run starts with other global states
    np.random.seed(3)  # noqa: NPY002
    first = fit(TRAIN, HELD, options, tmp_path / "parts", stop_at=stop)
    assert first.steps == stop
    parts = fit(TRAIN, HELD, options, tmp_path / "parts")
    assert torch.equal(weights(whole.model), weights(parts.model))
    assert load_checkpoint(tmp_path / "parts")["step"] == 8  # type: ignore[index]
    logs = [(tmp_path / d / "history.csv").read_text().splitlines() for d in ("whole", "parts")]
    assert [r.split(",")[:5] for r in logs[0]] == [r.split(",")[:5] for r in logs[1]]


def test_a_time_budget_ends_a_fit_for_good(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lines: list[str] = []
    options = small_options(max_seconds=1e-9)
    first = fit(TRAIN, HELD, options, tmp_path / "a", lines.append)
    assert (first.steps, first.best_step, first.timed_out) == (1, 1, True)
    assert lines[-1] == "the time budget of 1e-09 s ended the fit at step 1"
    again = fit(TRAIN, HELD, options, tmp_path / "a")
    assert (again.steps, again.timed_out) == (1, True)
    assert torch.equal(weights(again.model), weights(first.model))
    # What was done within the budget is what a fit without one does.
    plain = fit(TRAIN, HELD, small_options(), tmp_path / "b", stop_at=1)
    assert torch.equal(weights(plain.model), weights(first.model))
    ample = fit(TRAIN, HELD, small_options(max_seconds=3600), tmp_path / "c")
    assert (ample.steps, ample.timed_out) == (8, False)
    with pytest.raises(UsageError, match="other options"):
        fit(TRAIN, HELD, small_options(), tmp_path / "a")


@pytest.mark.parametrize("stop", [None, 3, 7, 8])
def test_a_fit_that_no_longer_rises_ends_for_good(tmp_path: Path, stop: int | None) -> None:
    """At a rate of almost 0 nothing rises: it ends `patience` steps after the first."""
    torch.set_num_threads(1)
    lines: list[str] = []
    options = small_options(
        steps=40, learning_rate=1e-9, floor=1e-9, validate_every=2, patience=7, average=0.5
    )
    if stop:
        part = fit(TRAIN, HELD, options, tmp_path, stop_at=stop)
        assert (part.steps, part.stalled) == (stop, stop == 8)
    result = fit(TRAIN, HELD, options, tmp_path, lines.append)
    # Validated at 1, 2, 4, 6 and 8, which is 7 after the first.
    assert (result.steps, result.stalled, result.timed_out) == (8, True, False)
    if stop != 8:
        assert lines[-1] == (
            "ended at step 8: in the last 7 steps the validation rose by no more than 0.02 dB"
        )
    again = fit(TRAIN, HELD, options, tmp_path)
    assert (again.steps, again.best_step, again.stalled) == (8, result.best_step, True)
    assert torch.equal(weights(again.model), weights(result.model))


def test_it_starts_from_given_weights(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    given = fit(TRAIN, HELD, small_options(seed=7), tmp_path / "given").model
    start = given.state_dict()
    options = small_options(starts_from="0" * 64, augmentation=VARIED, average=0.9)
    still = dataclasses.replace(options, learning_rate=1e-12, floor=1e-12, steps=1)
    begun = fit(TRAIN, [], still, tmp_path / "still", initial=start)
    torch.testing.assert_close(weights(begun.model), weights(given), atol=1e-9, rtol=0)
    whole = fit(TRAIN, HELD, options, tmp_path / "whole", initial=start)
    fit(TRAIN, HELD, options, tmp_path / "parts", initial=start, stop_at=3)
    parts = fit(TRAIN, HELD, options, tmp_path / "parts", initial=start)
    assert torch.equal(weights(whole.model), weights(parts.model))
    with pytest.raises(UsageError, match="other options"):
        fit(TRAIN, HELD, small_options(), tmp_path / "whole")
    with pytest.raises(UsageError, match="give both, or neither"):
        fit(TRAIN, HELD, options, tmp_path / "none")


def test_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    options = small_options(augmentation=VARIED)
    whole = fit(TRAIN, HELD, options, tmp_path / "whole")
    fit(TRAIN, HELD, options, tmp_path / "parts", stop_at=6)
    (tmp_path / "parts" / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    assert load_checkpoint(tmp_path / "parts")["step"] == 4  # type: ignore[index]
    assert torch.equal(
        weights(whole.model), weights(fit(TRAIN, HELD, options, tmp_path / "parts").model)
    )


def test_other_options_or_pairs_are_refused(tmp_path: Path) -> None:
    options = small_options()
    fit(TRAIN, HELD, options, tmp_path, stop_at=1)
    with pytest.raises(UsageError, match="other options"):
        fit(TRAIN, HELD, dataclasses.replace(options, learning_rate=1e-4), tmp_path)
    changed = dataclasses.replace(TRAIN[0], lf=TRAIN[0].lf * np.float32(0.99))
    with pytest.raises(UsageError, match="other pairs"):
        fit([changed, *TRAIN[1:]], HELD, options, tmp_path)


def test_nan_loss_is_one_clear_line(tmp_path: Path) -> None:
    options = small_options(steps=40, learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(H2loError, match=r"the loss became .* at step \d+; .*learning rate") as err:
        fit(TRAIN, HELD, options, tmp_path)
    assert "\n" not in str(err.value)


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    fit(TRAIN, HELD, small_options(), tmp_path, stop_at=4)
    for name in ("last.pt", "previous.pt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(BadDataError, match=r"last\.pt: damaged .*remove .* to start anew"):
        fit(TRAIN, HELD, small_options(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_lightning_is_quiet_and_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    lines: list[str] = []
    fit(TRAIN, HELD, small_options(), tmp_path / "fit", lines.append, stop_at=5)
    fit(TRAIN, HELD, small_options(), tmp_path / "fit", lines.append)
    assert capfd.readouterr() == ("", "")
    assert not list(here.iterdir())
    assert [p for p in (tmp_path / "fit/tensorboard").iterdir() if "tfevents" in p.name]
    assert lines[0].startswith("identity baseline: ")
    assert any(line.startswith("going on from step 5") for line in lines)
    assert lines[-1].startswith("step 8/8: loss ")


def test_tensorboard_holds_the_history(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(TRAIN, HELD, small_options(), tmp_path, lambda line: None)
    log = EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    with (tmp_path / "history.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["psnr"]]
    found = {e.step: e.value for e in log.Scalars("psnr")}
    assert found == pytest.approx({int(r["step"]): float(r["psnr"]) for r in rows})


def test_a_tensorboard_log_is_given_up_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    lines: list[str] = []
    assert fit(TRAIN, HELD, small_options(), tmp_path, lines.append).steps == 8
    assert sum("TensorBoard log given up" in line for line in lines) == 1


def test_fits_go_on_on_another_device_name(tmp_path: Path) -> None:
    fit(TRAIN, HELD, small_options(device="cpu"), tmp_path, stop_at=2)
    result = fit(TRAIN, HELD, small_options(device="auto"), tmp_path)
    assert result.steps == 8
    with pytest.raises(UsageError, match="CUDA devices"):
        fit(TRAIN, HELD, small_options(device="cuda:77"), tmp_path / "other")
    with pytest.raises(UsageError, match="fp16"):
        fit(TRAIN, HELD, small_options(precision="fp16"), tmp_path / "half")


def test_checkpoints_are_whole_and_need_no_pickle(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, {"step": step, "model": {"w": torch.ones(2)}})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert load_checkpoint(tmp_path)["step"] == 3  # type: ignore[index]
    assert torch.load(tmp_path / "previous.pt", weights_only=True)["step"] == 2


def test_unwritable_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "absent", {"step": 1})


def test_bad_pairs_are_named() -> None:
    good = TRAIN[0]
    with pytest.raises(BadDataError, match="pair x: NaN"):
        dataclasses.replace(good, name="x", hf=np.full_like(good.hf, np.nan))
    with pytest.raises(BadDataError, match="pair x: its brain mask is empty"):
        dataclasses.replace(good, name="x", mask=np.zeros_like(good.mask))
    with pytest.raises(BadDataError, match="pair x: volumes and mask need one 3-D shape"):
        dataclasses.replace(good, name="x", lf=good.lf[1:])
