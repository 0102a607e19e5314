"""Where a fit runs: device, precision and processes by Lightning Fabric, memory and signals."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import UsageError
from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.options import FitOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


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
    where: dict[str, Any] = {"devices": [device.index or 0] if gpu else 1}
    if world > 1:
        backend = "nccl" if gpu else "gloo"
        strategy = DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)
        where = {"devices": world, "strategy": strategy}
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    fabric = Fabric(
        **where,
        accelerator="gpu" if gpu else "cpu",
        precision="16-mixed" if options.precision == "fp16" else "32-true",
        # Named, for Fabric would take one process of a Slurm job for one of many.
        plugins=[LightningEnvironment()],
    )
    fabric.launch()
    return fabric


@contextlib.contextmanager
def quiet_fabric() -> Iterator[None]:
    """Silence the warnings of Fabric, such as that of an unused srun."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning_fabric\.|torch\.distributed\.")
        yield


def keep_freed_memory() -> None:
    """Ask glibc, where it is the C library, to keep freed blocks: worth a third of a step."""
    # A step frees and takes the same few hundred MB again; by default each large block goes
    # back to the kernel, which then clears every page anew.
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def peak_memory() -> float | None:
    """Return the largest memory in GB of this process or of a child it waited for, if known."""
    try:
        import resource
    except ImportError:
        return None
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    most = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return round(most * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)


@contextlib.contextmanager
def termination() -> Iterator[threading.Event]:
    """Record SIGTERM while the block runs; Python delivers it to the main thread alone."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
