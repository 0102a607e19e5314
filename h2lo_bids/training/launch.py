"""One fit from files, alone or in several processes that share each step.

``python -m h2lo_bids.training.launch SPEC.json``, or the same under
``torchrun --standalone --nproc-per-node N -m`` or ``srun``. `write_spec` writes SPEC.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from h2lo_bids.errors import BadDataError, H2loError, InputOutputError, MissingInputError
from h2lo_bids.io import atomic_write_text
from h2lo_bids.training.devices import check_shares
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import PairFiles, open_pairs
from h2lo_bids.vocabulary import Say, Step

FORMAT = "h2lo-bids fit specification 1"
_ERROR = "error.json"


@dataclass(frozen=True)
class FitSpec:
    """What one fit needs; see `h2lo_bids.training.fitting.fit_prepared`."""

    train: tuple[PairFiles, ...]
    validation: tuple[PairFiles, ...]
    options: FitOptions
    folder: Path
    cache: Path
    stop_at: int | None = None
    threads: int | None = None  # of each process; None leaves PyTorch's own
    initial: Path | None = None


def write_spec(path: Path, spec: FitSpec) -> None:
    """Write a specification of a fit."""
    values = {"format": FORMAT, **asdict(spec)}
    atomic_write_text(path, json.dumps(values, indent=2, default=str) + "\n")


def read_spec(path: Path) -> FitSpec:
    """Read what `write_spec` wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}")
        train, validation = (
            tuple(PairFiles.from_dict(p) for p in values[part]) for part in ("train", "validation")
        )
        return FitSpec(
            train, validation, FitOptions.from_dict(values["options"]), Path(values["folder"]),
            Path(values["cache"]), values["stop_at"], values["threads"],
            Path(first) if (first := values["initial"]) else None,
        )  # fmt: skip
    except OSError as err:
        raise MissingInputError(f"{path}: cannot be read ({err.strerror})") from err
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BadDataError(f"{path}: not a specification of a fit ({err}); write it anew") from err


def launch(spec: FitSpec, *, processes: int, progress: Say | None = None) -> None:
    """Run a fit in several processes on this machine, by torchrun; with CUDA one per device.

    Afterwards `h2lo_bids.training.fit.fit`, with the same pairs from `open_pairs`, finds the
    fit done and returns it. An error of a process is raised with its own class.
    """
    check_shares(len(spec.train), spec.options, processes)
    path, error = spec.folder / "spec.json", spec.folder / _ERROR
    write_spec(path, spec)
    error.unlink(missing_ok=True)
    # One process makes the cache, so that the others find it.
    open_pairs([*spec.train, *spec.validation], spec.cache)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", "-m", "h2lo_bids.training.launch", str(path),
    ]  # fmt: skip
    with (
        _log(spec.folder / "launch.log") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child,
    ):
        try:
            for line in child.stdout or ():
                if progress:
                    progress(_received(line.rstrip("\n")))
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise read_error(
            error, f"{spec.folder}: the processes of the fit failed; see launch.log there"
        )


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


def _log(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as err:
        raise InputOutputError(f"{path}: cannot write: {err.strerror}") from err


def read_error(path: Path, otherwise: str) -> H2loError:
    """Return what a process raised, of its own class, or a general error."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return H2loError(otherwise)
    if not isinstance(found, dict) or "message" not in found:
        return H2loError(otherwise)
    kinds: dict[int, type[H2loError]] = {k.exit_code: k for k in H2loError.__subclasses__()}
    code = found.get("exit_code")
    return kinds.get(code if isinstance(code, int) else 0, H2loError)(str(found["message"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fit of a specification; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m h2lo_bids.training.launch")
    parser.description = "Run, or continue, the fit that SPEC.json describes."
    parser.add_argument("spec", type=Path, metavar="SPEC.json")
    args = parser.parse_args(argv)
    folder = None
    try:
        spec = read_spec(args.spec)
        folder = spec.folder
        _run(spec)
    except H2loError as err:
        print(f"error: {err}", file=sys.stderr)
        if folder is not None:
            _leave_error(folder, err)
        return err.exit_code
    return 0


def _run(spec: FitSpec) -> None:
    import torch

    from h2lo_bids.models.bundle import load_bundle, load_model
    from h2lo_bids.training.devices import find_processes, keep_freed_memory
    from h2lo_bids.training.fit import fit

    processes = find_processes()
    if spec.threads:
        torch.set_num_threads(spec.threads)
    keep_freed_memory()
    train, validation = (open_pairs(part, spec.cache) for part in (spec.train, spec.validation))
    first = None if spec.initial is None else load_model(load_bundle(spec.initial)).state_dict()
    try:
        result = fit(
            train, validation, spec.options, spec.folder, _send,
            stop_at=spec.stop_at, processes=processes, initial=first,
        )  # fmt: skip
    except RuntimeError as err:
        if processes is None or processes.rank == 0:
            raise
        # The first process has failed, and says why.
        raise H2loError(f"process {processes.rank}: lost the others ({err})") from err
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if processes is None or processes.rank == 0:
        print(
            f"{result.steps} steps, best validation {result.best_psnr:.2f} dB at step "
            f"{result.best_step}, {result.seconds:.0f} s", flush=True,
        )  # fmt: skip


def _leave_error(folder: Path, err: H2loError) -> None:
    """Leave the first process's error for `launch`, which hears only that torchrun failed."""
    found: dict[str, Any] = {"message": str(err), "exit_code": err.exit_code}
    path = folder / _ERROR
    if not path.exists() or type(err) is not H2loError:
        with contextlib.suppress(H2loError, OSError):
            atomic_write_text(path, json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(main())
