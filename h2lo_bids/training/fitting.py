"""A fit to prepared pairs, on one device or several."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.errors import UsageError
from h2lo_bids.training.methods import Method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.training.stored import PairFiles, open_pairs

if TYPE_CHECKING:
    from h2lo_bids.models.frame import Frame
    from h2lo_bids.training.fit import FitResult

Say = Callable[[str], None]


def pairs_fingerprint(pairs: Sequence[PreparedPair]) -> str:
    """Return a digest of what some pairs were made from, whatever their order."""
    digest = hashlib.blake2b(digest_size=16)
    for line in sorted(
        f"{p.contrast} {p.subject} {p.session} {p.record.name} {p.fingerprint}" for p in pairs
    ):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def pairs_of(
    pairs: Sequence[PreparedPair], subjects: Sequence[str], contrast: str
) -> tuple[PreparedPair, ...]:
    """Return the pairs of some subjects, in the order of their names.

    Raises
    ------
    UsageError
        If a subject has none.
    """
    wanted = [p for p in pairs if p.contrast == contrast and p.subject in set(subjects)]
    missing = sorted(set(subjects) - {p.subject for p in wanted})
    if missing:
        raise UsageError(
            f"sub-{missing[0]} has no {contrast} pair; prepare its pair or divide anew"
        )
    return tuple(sorted(wanted, key=lambda p: p.record.name))


def common_frame(pairs: Sequence[PreparedPair]) -> Frame:
    """Return the frame that all pairs share, or raise `UsageError`."""
    first = pairs[0]
    for pair in pairs:
        if pair.frame != first.frame:
            raise UsageError(
                f"{pair.record}: on another grid than {first.record.name}; "
                "prepare all pairs with one --resolution"
            )
    return first.frame


def pairs_cache(work_dir: Path) -> Path:
    """Name the folder in which all fits of a run share their pairs."""
    return Path(work_dir) / "training" / "pairs"


def pair_files(pairs: Sequence[PreparedPair], scaling: str = "max") -> list[PairFiles]:
    """Name the files of pairs, for `h2lo_bids.training.stored.open_pairs`."""
    return [
        PairFiles(p.name, p.hf, p.lf, p.mask, p.task, scaling, p.contrast, p.frame.spacing)
        for p in pairs
    ]


def fit_prepared(
    method: Method,
    train: Sequence[PreparedPair],
    validation: Sequence[PreparedPair],
    options: FitOptions,
    folder: Path,
    *,
    cache: Path,
    devices: int = 1,
    stop_at: int | None = None,
    progress: Say | None = None,
) -> FitResult:
    """Fit a method to prepared pairs, or go on with the fit that `folder` holds.

    Parameters
    ----------
    method
        What is fitted.
    train, validation
        Pairs on disk.
    options
        The method's own, as its ``adapt`` gives them.
    folder
        Work folder of this fit.
    cache
        As for `h2lo_bids.training.stored.open_pairs`.
    devices
        With more than one, as many processes share each step, if the method allows it.
    stop_at
        As for `h2lo_bids.training.fit.fit`.
    progress
        Called with one line of text now and then.

    Returns
    -------
    FitResult
    """
    files = [pair_files(part, options.scaling) for part in (train, validation)]
    if devices > 1 and not method.shares:
        (progress or (lambda line: None))(f"{method.name} is fitted by one process, not {devices}")
    elif devices > 1:
        import torch

        from h2lo_bids.training.launch import FitSpec, launch

        # The threads decide the last bits, and the record tells those of this process.
        threads = torch.get_num_threads()
        spec = FitSpec(tuple(files[0]), tuple(files[1]), options, folder, cache, stop_at, threads)
        launch(spec, processes=devices, progress=progress)
        # What follows finds the finished fit and only reads its weights.
    pairs = [open_pairs(part, cache) for part in files]
    return method.fit(pairs[0], pairs[1], options, folder, progress, stop_at=stop_at)


def finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None
