"""Lightning's trainer, set up for a fit: quiet, offline, and within its folder."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.lightning_module import FitModule, Steps
from h2lo_bids.training.lightning_plugins import FolderCheckpoints
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.processes import Processes

_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


def run_trainer(
    module: FitModule,
    steps: Steps,
    *,
    end: int,
    checkpoints: FolderCheckpoints,
    resumed: bool,
    callback: Callback,
    logger: Logger | None,
    processes: Processes | None,
    bar: bool,
) -> None:
    """Let Lightning do the steps up to `end`."""
    options = module.options
    with _quiet():
        trainer = Trainer(
            **_place(options, processes),
            max_steps=end,
            max_epochs=-1,
            logger=logger or False,
            callbacks=[callback],
            plugins=[checkpoints, _environment(processes)],
            precision="16-mixed" if options.precision == "fp16" else "32-true",
            enable_checkpointing=False,
            enable_progress_bar=bar and sys.stderr.isatty(),
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=str(module.folder),
        )
        path = str(module.folder) if resumed else None
        with _interrupts():
            trainer.fit(module, train_dataloaders=steps, ckpt_path=path)


def _place(options: FitOptions, processes: Processes | None) -> dict[str, Any]:
    device = resolve_device(options.device)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    if processes is None:
        devices: Any = 1 if accelerator == "cpu" else [device.index or 0]
        return {"accelerator": accelerator, "devices": devices, "strategy": "auto"}
    strategy = DDPStrategy(
        process_group_backend="nccl" if accelerator == "gpu" else "gloo",
        gradient_as_bucket_view=True,
    )
    return {
        "accelerator": accelerator,
        "devices": processes.per_node,
        "num_nodes": processes.nodes,
        "strategy": strategy,
    }


def _environment(processes: Processes | None) -> ClusterEnvironment:
    # Named, for Lightning would take one process of a Slurm job for one of many.
    if processes is None:
        return LightningEnvironment()
    if processes.launcher == "srun":
        return SLURMEnvironment(auto_requeue=False)  # the recorder does it, between steps
    return TorchElasticEnvironment()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips and notices off the terminal; errors are raised anyway."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [log.level for log in loggers]
    # Lightning warns that it has not seen a process group, a worker or a logger it expects.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", module=r"torch\.distributed\.")
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Give Ctrl-C back to the caller, whom Lightning would end without a word."""
    try:
        before = signal.getsignal(signal.SIGINT)
        yield
    except SystemExit as err:
        if not isinstance(err.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from err
