"""One fit in several processes that share each step."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2lo_bids.errors import H2loError, TemporaryError
from h2lo_bids.processes import Ended, Job, Pool
from h2lo_bids.training.devices import check_shares, termination
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, map_pair
from h2lo_bids.vocabulary import Say, Send

_IMPORTS = ("lightning_fabric", "h2lo_bids.training.methods")
_GRACE = 120.0  # seconds in which a step ends and a checkpoint is written
_PAUSE = 5.0  # seconds in which the first process reports what the others lost it for


@dataclass(frozen=True)
class _Task:
    """What one process needs for its share; it maps the pairs from their files."""

    pairs: list[list[tuple[Any, str, str]]]
    options: FitOptions
    folder: Path
    stop_at: int | None
    initial: Path | None
    threads: int
    rank: int
    world: int
    port: int


def launch(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Say | None = None,
    *,
    processes: int,
    stop_at: int | None = None,
    initial: Path | None = None,
) -> None:
    """Run a fit in several processes on this machine; with CUDA one per device.

    Pairs are mapped from files; `initial` is the bundle whose weights the fit starts from.
    Afterwards `h2lo_bids.training.fit.fit` finds the fit done and returns it. An error of a
    process is raised with its own class.
    """
    import torch

    check_shares(len(pairs_train), options, processes)
    pairs = [[(p.kept, p.name, p.task) for p in part] for part in (pairs_train, pairs_validation)]
    common = (options, folder, stop_at, initial, torch.get_num_threads())
    port, log = _free_port(), folder / "launch.log"
    jobs = [
        Job(f"process {rank}", f"{__name__}:run_share",
            _Task(pairs, *common, rank, processes, port), log, _GRACE)
        for rank in range(processes)
    ]  # fmt: skip
    ends: list[Ended] = []

    def end(ended: Ended) -> bool:
        ends.append(ended)
        return ended.error is None and not ended.cause

    with termination() as asked, Pool(os.environ, _IMPORTS) as pool:

        def check() -> None:
            if asked.is_set():
                raise TemporaryError(f"{folder}: stopped by SIGTERM; run again to go on from there")

        pool.run(
            jobs, limit=processes, on_end=end, tick=check,
            on_event=lambda job, event: progress(event["text"]) if progress else None,
        )  # fmt: skip
    for ended in ends:
        if ended.error is not None:
            raise ended.error
        if ended.cause:
            raise H2loError(f"{log}: {ended.cause}; the fit goes on when it is run again")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_share(task: _Task, send: Send) -> None:
    """Fit, as one of the processes."""
    import torch

    from h2lo_bids.models.bundle import load_bundle, load_model
    from h2lo_bids.training.devices import keep_freed_memory
    from h2lo_bids.training.fit import fit

    os.environ |= {
        "LOCAL_RANK": str(task.rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(task.port),
    }  # fmt: skip
    torch.set_num_threads(task.threads)
    keep_freed_memory()
    first = None if task.initial is None else load_model(load_bundle(task.initial)).state_dict()
    train, held = ([map_pair(*pair) for pair in part] for part in task.pairs)
    try:
        fit(
            train, held, task.options, task.folder,
            lambda line: send({"event": "said", "text": line}),
            stop_at=task.stop_at, world=task.world, initial=first,
        )  # fmt: skip
    except RuntimeError:
        if task.rank:
            time.sleep(_PAUSE)
        raise
