"""One fit in several processes that share each step."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from h2lo_bids.errors import H2loError, TemporaryError, UnexpectedError
from h2lo_bids.processes import Job, Pool, Process
from h2lo_bids.training.devices import check_shares, keep_freed_memory, termination
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, map_pair
from h2lo_bids.vocabulary import Say, Send

_IMPORTS = ("lightning_fabric", "h2lo_bids.training.methods")
_GRACE = 590.0  # seconds to end a step and save; the launching process itself has 600
# Seconds for the first process to report its error, before the others report that they lost it.
_PAUSE = 5.0


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
    shared = (torch.get_num_threads(), pairs, options, folder, stop_at, initial)
    port, log = _free_port(), folder / "launch.log"
    with contextlib.suppress(OSError):  # a folder that cannot be used is reported by the fit
        log.unlink()
    jobs = [
        Job(f"process {rank}", f"{__name__}:run_share", ((rank, processes, port), *shared),
            log, _GRACE)
        for rank in range(processes)
    ]  # fmt: skip
    errors: list[H2loError] = []

    def end(ended: Process) -> bool:
        error = ended.failure(f"run again to go on, and see {log}")
        if isinstance(error, UnexpectedError):
            error = H2loError(f"{error.kind}: {error}; see {log}, and report it")
        if error:
            errors.append(error)
        return not errors

    with termination() as asked, Pool(os.environ, _IMPORTS) as pool:

        def check() -> None:
            if asked.is_set():
                raise TemporaryError(f"{folder}: stopped by SIGTERM; run again to go on from there")

        pool.run(
            jobs, limit=processes, on_end=end, tick=check,
            on_event=lambda job, event: progress(event["text"]) if progress else None,
        )  # fmt: skip
    if errors:
        raise errors[0]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_share(
    place: tuple[int, int, int],
    threads: int,
    pairs: list[list[tuple[Path, str, str]]],
    options: FitOptions,
    folder: Path,
    stop_at: int | None,
    initial: Path | None,
    send: Send,
) -> None:
    """Fit as one of the processes; its place is its number, how many there are, and a port."""
    import torch

    from h2lo_bids.models.bundle import load_bundle, load_model
    from h2lo_bids.training.fit import fit

    rank, world, port = place
    # Fabric reads these; the script of a cluster's job may have set the number of the node.
    os.environ |= {
        "LOCAL_RANK": f"{rank}",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
    }
    torch.set_num_threads(threads)
    keep_freed_memory()
    train, held = ([map_pair(*pair) for pair in part] for part in pairs)
    first = None if initial is None else load_model(load_bundle(initial)).state_dict()
    try:
        fit(
            train, held, options, folder, lambda line: send({"event": "said", "text": line}),
            stop_at=stop_at, world=world, initial=first,
        )  # fmt: skip
    except RuntimeError:
        if rank:
            time.sleep(_PAUSE)
        raise
