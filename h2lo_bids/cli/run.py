"""``h2lo``: from argv to an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

from h2lo_bids import errors
from h2lo_bids.cli.console import Console, complain, fall_silent
from h2lo_bids.cli.parser import INTERRUPTED, print_listing, read_settings
from h2lo_bids.processes import when_ended
from h2lo_bids.settings import Settings

TERMINATED = 143


class Terminated(BaseException):
    """A signal to end arrived; raised so that every process is stopped on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, by default of this process, and return the exit code."""
    _open_streams()
    with when_ended(_terminate):
        try:
            _refuse_fellows()
            words = sys.argv[1:] if argv is None else argv
            return 0 if print_listing(words) else _run(read_settings(words))
        except errors.H2loError as err:
            return complain("h2lo", str(err), err.exit_code)
        except Terminated as err:
            hung_up = err.args == (signal.SIGHUP,)
            code = errors.TemporaryError.exit_code if hung_up else TERMINATED
            return complain("h2lo", f"stopped by {err.args[0].name}; run again to resume", code)
        except KeyboardInterrupt:
            return complain("h2lo", "interrupted; run again to resume", INTERRUPTED)
        except BrokenPipeError:
            fall_silent(sys.stdout)
            return errors.InputOutputError.exit_code


def _open_streams() -> None:
    """Open stdin, stdout and stderr where a daemon closed them: pipes would take their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper):  # no line is lost for what its encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")


def _terminate(number: int, frame: FrameType | None) -> None:
    """Raise `Terminated`, once: Slurm and the script of a task, or a logout, send several."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Terminated(signal.Signals(number))


def _refuse_fellows() -> None:
    """Refuse to be one of several processes of a job step: each would do the same work."""
    for launcher, name, rank, total in (
        ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NTASKS"),
        ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        count = os.environ.get(name, "1")
        # A batch job that was submitted from a step's shell has the variables of that step, too.
        own = os.environ.get(total, count) == count
        if count not in ("", "0", "1") and rank in os.environ and own:
            raise errors.UsageError(
                f"{launcher} started {count} processes, which would all do the same work; start "
                "one, as with `srun --ntasks=1 --cpus-per-task=N`, or use h2lo-slurm"
            )


def _run(settings: Settings) -> int:
    console = Console()
    try:
        return _level(settings)(settings, console)
    except BrokenPipeError:
        raise
    except Exception as err:
        raise _recorded(err, console, settings) from err
    finally:
        console.close()


def _level(settings: Settings) -> Callable[[Settings, Console], int]:
    """Return the function that does the work of a level, or lists it."""
    if settings.dry_run:
        from h2lo_bids.cli.outputs import dry_run as run
    elif settings.level in ("group", "evaluate", "benchmark"):
        from h2lo_bids.cli.group import run_level as run
    elif settings.pairs:
        from h2lo_bids.cli.pairs import run_pairs as run
    else:
        from h2lo_bids.cli.participant import run_participant as run
    return run


def _recorded(err: Exception, console: Console, settings: Settings) -> errors.H2loError:
    """Say in one line what ended a run, and keep that where it has a place, as its traceback."""
    known = err if isinstance(err, errors.H2loError) else errors.recorded(err)
    log = console.log
    if isinstance(known, errors.UnexpectedError):
        console.to_log(traceback.format_exc())
        if log is None and settings.verbose:
            traceback.print_exc()
        where = "run again with -v to see where" if log is None else f"see {log}"
        known = errors.H2loError(f"{known.kind}: {known}; {where}, and report it")
    console.to_log(f"error: {known}")
    if log is not None and not (table := log.with_name("failures.tsv")).exists():
        from h2lo_bids.cli.execution import write_table

        with contextlib.suppress(errors.H2loError, OSError):  # what ended it may be the disk
            write_table(table, [errors.Failed("", settings.level, known)])
    return known


if __name__ == "__main__":
    sys.exit(main())
