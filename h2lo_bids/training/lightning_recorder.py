"""What happens after each step: validation, logs, checkpoints, and an orderly stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from h2lo_bids.training.checkpoint import LAST
from h2lo_bids.training.estimators import Share
from h2lo_bids.training.history import History, Row
from h2lo_bids.training.lightning_module import FitModule
from h2lo_bids.training.schedule import GAIN
from h2lo_bids.training.stopping import Signals, stopped
from h2lo_bids.training.validation import Validation

_REASONS = (None, "SIGTERM", "SIGUSR1")


class Recorder(Callback):
    """Validates, logs and saves; process 0 alone writes.

    SIGTERM, and SIGUSR1 under Slurm (``sbatch --requeue --signal=USR1@120``),
    end the fit after the step at hand, with a checkpoint; Lightning would save in
    the middle of it, or leave without a checkpoint or a word, as if all were done.
    After SIGUSR1 the job is put back into Slurm's queue.

    Parameters
    ----------
    validation
        The figure.
    end
        The last step of this run.
    share
        This process, among all.
    history
        The CSV log; None in all processes but the first.
    say
        Receives lines of progress.
    """

    def __init__(
        self,
        validation: Validation,
        end: int,
        share: Share,
        history: History | None,
        say: Callable[[str], None],
    ) -> None:
        self._validation, self._end, self._share = validation, end, share
        self._history, self._say = history, say
        self._signals, self._mark = Signals(), 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Listen to signals, in Lightning's place."""
        self._mark = time.perf_counter()
        self._signals.__enter__()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back."""
        self._signals.__exit__(None, None, None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Finish a step."""
        module: FitModule = pl_module
        o, rate = module.options, module.rate
        module.advance()
        step = module.step
        module.timed_out = self._late(trainer, module)
        row = Row(step, rate, *module.last.tolist())
        # Not at `stop_at` as such: a fit in parts keeps the weights of a whole one.
        whole = module.timed_out or step == o.steps
        if whole or step == o.validate_first or step % o.validate_every == 0:
            row = row.with_psnr(self._validate(trainer, module))
        last = whole or module.stalled or step == self._end
        now = time.perf_counter()
        module.seconds, self._mark = module.seconds + now - self._mark, now
        row = row.with_seconds(module.seconds)
        self._log(trainer, module, row)
        reason = self._reason_to_stop(trainer)
        if step % o.checkpoint_every == 0 or last or reason:
            if self._history is not None:
                self._history.flush()
            trainer.save_checkpoint(module.folder / LAST)
        if module.timed_out:
            trainer.should_stop = True
            self._say(f"the time budget of {o.max_seconds:g} s ended the fit at step {step}")
        elif module.stalled:
            trainer.should_stop = True
            self._say(
                f"ended at step {step}: in the last {o.patience} steps the validation rose by no "
                f"more than {GAIN:g} dB"
            )
        elif reason and not last:
            self._leave(trainer, module, reason)

    def _late(self, trainer: Trainer, module: FitModule) -> bool:
        """Tell whether the time budget is spent; process 0 has the clock."""
        budget = module.options.max_seconds
        if budget is None:
            return False
        late = module.seconds + time.perf_counter() - self._mark >= budget
        if trainer.world_size > 1:
            told = torch.tensor(int(late), device=trainer.strategy.root_device)
            torch.distributed.broadcast(told, 0)
            late = bool(told)
        return late

    def _validate(self, trainer: Trainer, module: FitModule) -> float | None:
        if not self._validation.pairs:
            return None
        parts = torch.tensor(
            self._validation.parts(module.average, self._share),
            dtype=torch.float64,
            device=module.device,
        )
        if trainer.world_size > 1:
            parts = trainer.strategy.reduce(parts, reduce_op="sum")  # type: ignore[assignment]
        psnr = self._validation.psnr(*parts.tolist())
        module.keep_if_best(psnr)
        return psnr

    def _log(self, trainer: Trainer, module: FitModule, row: Row) -> None:
        if self._history is None:
            return
        self._history.add(row)
        if row.psnr is not None:
            steps = module.options.steps
            self._say(f"step {row.step}/{steps}: {row.describe()}, {row.seconds:.0f} s")
        if row.psnr is not None or row.step % 10 == 0:
            for logger in trainer.loggers:
                logger.log_metrics(row.figures(), row.step)

    def _reason_to_stop(self, trainer: Trainer) -> str | None:
        wish = _REASONS.index(self._signals.reason)
        if trainer.received_sigterm:  # before the first step, when Lightning listened
            wish = max(wish, 1)
        if trainer.world_size > 1:
            # The signal may reach the processes in different steps.
            told = torch.tensor(wish, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            wish = int(told)
        return _REASONS[wish]

    def _leave(self, trainer: Trainer, module: FitModule, reason: str) -> None:
        raise stopped(module.folder, module.step, reason, first=trainer.is_global_zero)
