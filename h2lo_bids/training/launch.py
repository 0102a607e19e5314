"""One fit in several processes that share each step: torchrun starts `main` in each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import (
    BadDataError,
    H2loError,
    InputOutputError,
    MissingInputError,
    error_named,
)
from h2lo_bids.io import atomic_write_text
from h2lo_bids.training.devices import check_shares
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, map_pair
from h2lo_bids.vocabulary import Say, Step

FORMAT = "h2lo-bids fit specification 2"
_ERROR = "error.json"


@dataclass(frozen=True)
class FitSpec:
    """What `h2lo_bids.training.fit.fit` is called with; the pairs are mapped from files."""

    train: Sequence[Pair]
    validation: Sequence[Pair]
    options: FitOptions
    folder: Path
    stop_at: int | None = None
    threads: int | None = None  # of each process; None leaves PyTorch's own
    initial: Path | None = None  # the bundle whose weights it starts from


def write_spec(path: Path, spec: FitSpec) -> None:
    """Write a specification of a fit."""
    values = {"format": FORMAT, **vars(spec), "options": spec.options.to_dict()}
    for part in ("train", "validation"):
        values[part] = [(pair.kept, pair.name, pair.task) for pair in values[part]]
    atomic_write_text(path, json.dumps(values, indent=2, default=str) + "\n")


def read_spec(path: Path) -> FitSpec:
    """Read what `write_spec` wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        for part in ("train", "validation"):
            values[part] = [map_pair(Path(kept), *rest) for kept, *rest in values[part]]
        values["options"] = FitOptions.from_dict(values["options"])
        values["folder"] = Path(values["folder"])
        values["initial"] = Path(values["initial"]) if values["initial"] else None
        return FitSpec(**values)
    except OSError as err:
        raise MissingInputError(f"{path}: cannot be read ({err.strerror})") from err
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BadDataError(f"{path}: not a specification of a fit ({err}); write it anew") from err


def launch(spec: FitSpec, *, processes: int, progress: Say | None = None) -> None:
    """Run a fit in several processes on this machine, by torchrun; with CUDA one per device.

    Afterwards `h2lo_bids.training.fit.fit` finds the fit done and returns it. An error of a
    process is raised with its own class.
    """
    check_shares(len(spec.train), spec.options, processes)
    path, error = spec.folder / "spec.json", spec.folder / _ERROR
    write_spec(path, spec)
    error.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", "-m", "h2lo_bids.training.launch", str(path),
    ]  # fmt: skip
    log = spec.folder / "launch.log"
    try:
        stream = log.open("w", encoding="utf-8")
    except OSError as err:
        raise InputOutputError(f"{log}: cannot write: {err.strerror}") from err
    with (
        stream,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True) as child,
    ):
        try:
            for line in child.stdout or ():
                if progress:
                    progress(_received(line.rstrip("\n")))
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise _error_in(error) or H2loError(f"{log}: the processes of the fit failed; see there")


def _send(line: str) -> None:
    """Print a line for `launch`, a step with its numbers as JSON."""
    if isinstance(line, Step):
        line = json.dumps([line, line.step, line.steps, line.psnr])
    print(line, flush=True)


def _received(line: str) -> str:
    """Read back what a process has printed; a library's output is a line, too."""
    try:
        return Step(*json.loads(line))
    except (TypeError, ValueError):
        return line


def _error_in(path: Path) -> H2loError | None:
    """Return what a process raised and `main` left for `launch`, of its own class."""
    try:
        return error_named(*json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def main(argv: Sequence[str]) -> int:
    """Run the fit of the specification that is named; return the exit code."""
    folder = None
    try:
        spec = read_spec(Path(argv[0]))
        folder = spec.folder
        _run(spec)
    except H2loError as err:
        print(f"error: {err}", file=sys.stderr)
        # torchrun reports only that a process failed. The others fail for having lost it.
        path = folder / _ERROR if folder else None
        if path and not (path.exists() and type(err) is H2loError):
            with contextlib.suppress(H2loError, OSError):
                atomic_write_text(path, json.dumps([type(err).__name__, str(err)]) + "\n")
        return err.exit_code
    return 0


def _run(spec: FitSpec) -> None:
    import torch

    from h2lo_bids.models.bundle import load_bundle, load_model
    from h2lo_bids.training.devices import keep_freed_memory
    from h2lo_bids.training.fit import fit

    world, rank = (int(os.environ.get(name, k)) for name, k in (("WORLD_SIZE", 1), ("RANK", 0)))
    if spec.threads:
        torch.set_num_threads(spec.threads)
    keep_freed_memory()
    first = None if spec.initial is None else load_model(load_bundle(spec.initial)).state_dict()
    try:
        result = fit(
            spec.train, spec.validation, spec.options, spec.folder, _send,
            stop_at=spec.stop_at, world=world, initial=first,
        )  # fmt: skip
    except RuntimeError as err:
        if rank == 0:
            raise
        # The first process has failed, and says why.
        raise H2loError(f"process {rank}: lost the others ({err})") from err
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if rank == 0:
        print(
            f"{result.steps} steps, best validation {result.best_psnr:.2f} dB at step "
            f"{result.best_step}, {result.seconds:.0f} s", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
