"""Where a fit runs: device, precision and processes by Lightning Fabric, memory and signals."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.errors import H2loError, TemporaryError, UnexpectedError, UsageError
from h2lo_bids.processes import Job, Pool, Process, when_ended
from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, map_pair
from h2lo_bids.vocabulary import Say, Send

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_IMPORTS = ("lightning_fabric", "h2lo_bids.training.methods")
_GRACE = 590.0  # seconds to end a step and save; the launching process itself has 600
# Seconds for the first process to report its error, before the others report that they lost it.
_PAUSE = 5.0


def check_shares(pairs: int, options: FitOptions, world: int) -> None:
    """Raise `UsageError` if a step on so many pairs has fewer samples than processes."""
    samples = min(pairs, options.batch)
    if options.sampling == "volume" and pairs % samples:
        samples = pairs % samples  # those of an epoch's last step
    if samples < world:
        raise UsageError(
            f"a step has {samples} samples for {world} processes; "
            "raise the batch, or use fewer processes or more pairs"
        )


def make_fabric(options: FitOptions, world: int = 1) -> Fabric:
    """Return Fabric for the device and precision of a fit; `launch` starts more processes."""
    # Takes seconds to import; only fits need it.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    device = resolve_device(options.device)
    gpu = device.type == "cuda"
    backend = "nccl" if gpu else "gloo"
    shared = DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator="gpu" if gpu else "cpu",
        strategy=shared if world > 1 else "auto",
        devices=[device.index or 0] if gpu and world == 1 else world,
        precision="16-mixed" if options.precision == "fp16" else "32-true",
        # Named, for Fabric would take one process of a Slurm job for one of many.
        plugins=[LightningEnvironment()],
    )
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Ask glibc, where it is the C library, to keep freed blocks: worth a third of a step."""
    # A step frees and takes the same few hundred MB again; by default each large block goes
    # back to the kernel, which then clears every page anew.
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def peak_memory() -> float:
    """Return the largest memory in GB of this process or of a child it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    most = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return round(most * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)


@contextlib.contextmanager
def termination() -> Iterator[threading.Event]:
    """Record SIGTERM, or SIGHUP, while the block runs."""
    asked = threading.Event()
    with when_ended(lambda number, frame: asked.set()):
        yield asked


def launch(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    say: Say = lambda line: None,
    *,
    processes: int,
    stop_at: int | None = None,
    initial: Path | None = None,
) -> None:
    """Run a fit in several processes on this machine, with CUDA one per device."""
    import torch

    check_shares(len(pairs_train), options, processes)
    pairs = [[(p.kept, p.name, p.task) for p in part] for part in (pairs_train, pairs_validation)]
    shared = (torch.get_num_threads(), pairs, options, folder, stop_at, initial)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "launch.log"
    with contextlib.suppress(OSError):  # a folder that cannot be used is reported by the fit
        log.unlink()
    jobs = [
        Job(f"process {rank}", f"{__name__}:run_share", ((rank, processes, port), *shared),
            log, _GRACE)
        for rank in range(processes)
    ]  # fmt: skip

    def end(ended: Process) -> bool:
        error = ended.failure(f"run again to go on, and see {log}")
        if isinstance(error, UnexpectedError):
            error = H2loError(f"{error.kind}: {error}; see {log}, and report it")
        if error:  # the pool stops the others
            raise error
        return True

    with termination() as asked, contextlib.closing(Pool(os.environ, _IMPORTS)) as pool:

        def check() -> None:
            if asked.is_set():
                raise TemporaryError(
                    f"{folder}: stopped by a signal; run again to go on from there"
                )

        pool.run(
            jobs, limit=processes, on_end=end, tick=check,
            on_event=lambda job, event: say(event["text"]),
        )  # fmt: skip


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
