"""Independent pieces of a volume, several at once on a CPU, with the same digits however many."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def each_on_a_core(
    work: Callable[[Piece], Made],
    pieces: Sequence[Piece],
    *,
    device: torch.device,
    threads: int | None = None,
) -> Iterator[Made]:
    """Do some work for each piece without gradients; on a CPU several at once, one core each.

    A core on its own needs no barriers, keeps a piece in its cache, and gives the
    same digits however many there are.

    Parameters
    ----------
    work
        Called with a piece.
    pieces
        In the order in which they are begun.
    device
        Where the work computes; a GPU takes the pieces one by one.
    threads
        Pieces at the same time; None follows PyTorch's own setting.

    Yields
    ------
    Made
        What `work` returned, in the order of the pieces.
    """
    before = torch.get_num_threads()
    workers = 1 if device.type != "cpu" else threads or before

    def do(piece: Piece) -> Made:
        # Gradient modes belong to a thread, so each piece sets its own.
        with torch.inference_mode():
            return work(piece)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with _same_digits():
            # Few results at a time wait to be taken, so that memory stays bounded.
            for start in range(0, len(pieces), 16 * workers):
                yield from pool.map(do, pieces[start : start + 16 * workers])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _same_digits() -> contextlib.AbstractContextManager[None]:
    """Keep cuDNN from choosing its algorithms by stopwatch, and from TF32."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
