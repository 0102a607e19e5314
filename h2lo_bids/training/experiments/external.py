"""External tools, run as a command on a fold's test subjects and scored like our methods."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from h2lo_bids.errors import BadDataError, H2loError, MissingInputError, UsageError
from h2lo_bids.imaging.alignment import MIN_COVERAGE
from h2lo_bids.imaging.normalise import max_normalise
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import resample
from h2lo_bids.training.experiments.crossvalidation import FoldWork
from h2lo_bids.training.experiments.heldout import Scored
from h2lo_bids.training.pairs import read_prepared
from h2lo_bids.vocabulary import SYNTHESIZE, Say

PLACES = ("input", "output", "mask", "contrast")
"""What may stand in braces in a command."""

_SAME = 1e-3  # mm by which two grids may differ


@dataclass(frozen=True)
class Command:
    """The command line of an external tool: words as a shell would split them, and its places."""

    name: str
    template: str

    def __post_init__(self) -> None:
        # Of the words, not the template: quotes within braces would hide a place.
        named = [place for word in self._split() for place in re.findall(r"\{(\w*)\}", word)]
        for place in named:
            if place not in PLACES:
                known = ", ".join(f"{{{p}}}" for p in PLACES)
                raise UsageError(f"--external {self.name}: {{{place}}} is not one of {known}")
        for place in ("input", "output"):
            if place not in named:
                raise UsageError(
                    f"--external {self.name}: the command needs {{{place}}}, as in "
                    f"{self.name}='program {{input}} {{output}}'"
                )

    def words(self, places: Mapping[str, str]) -> list[str]:
        """Fill in the places, each inside its word whatever the value holds."""
        return [
            re.sub(r"\{(\w+)\}", lambda match: places[match[1]], word) for word in self._split()
        ]

    def find_program(self) -> Path:
        """Return the program, or raise `MissingInputError`."""
        program = self._split()[0]
        found = shutil.which(program)
        if found is None:
            raise MissingInputError(
                f"--external {self.name}: {program} is not found or not executable; give its "
                "full path, such as /path/to/venv/bin/program"
            )
        return Path(found).absolute()

    def _split(self) -> list[str]:
        try:
            return shlex.split(self.template)
        except ValueError as err:
            text = f"--external {self.name}: cannot be split into words ({err}); check the quotes"
            raise UsageError(text) from err


def run_command(
    command: Command,
    *,
    hf: Path,
    mask: Path,
    contrast: str,
    log: Path,
    limit: float | None = None,
) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Run an external tool on copies of a pair's images; return its image, seconds and notes."""
    with tempfile.TemporaryDirectory(prefix="h2lo-external-", ignore_cleanup_errors=True) as folder:
        texts = {name: str(Path(folder, f"{name}.nii.gz")) for name in PLACES}
        texts["contrast"] = contrast
        shutil.copyfile(hf, texts["input"])
        shutil.copyfile(mask, texts["mask"])
        words = [str(command.find_program()), *command.words(texts)[1:]]
        seconds = _run(command.name, words, folder, log, limit)
        # The pair's own mask: the command may have spoiled its copy.
        volume, notes = _read(command.name, Path(texts["output"]), mask, log)
    return volume, seconds, notes


def _run(name: str, words: list[str], folder: str, log: Path, limit: float | None) -> float:
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("ab") as stream:
        stream.write(f"$ {shlex.join(words)}\n".encode())
        stream.flush()
        try:
            process = subprocess.Popen(
                words, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        except OSError as err:
            raise MissingInputError(
                f"{name}: cannot be started ({err.strerror}): {words[0]}"
            ) from err
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired as err:
            raise H2loError(
                f"{name}: stopped after {limit:g} s, the limit of --max-time; raise it"
            ) from err
        finally:
            if process.poll() is None:
                _end(psutil.Process(process.pid))
            process.wait()
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise H2loError(f"{name}: {how}{_last_words(log)}; what it printed is in {log}")
    return time.perf_counter() - began


def _end(process: psutil.Process) -> None:
    """Stop a command and its helpers; they have a few seconds for their last words."""
    tree = [*process.children(recursive=True), process]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        _, tree = psutil.wait_procs(tree, timeout=5)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    printed = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return f" ({printed[-1][:160]})" if printed else ""


def _read(name: str, path: Path, mask: Path, log: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the output back and bring it to the pair's grid and scale."""
    if not path.is_file():
        raise MissingInputError(
            f"{name}: ended well but left no {{output}}; what it printed is in {log}"
        )
    inside = load_checked(mask).image
    try:
        made = load_checked(path).image
    except H2loError as err:
        text = str(err).replace(str(path), "its output")
        raise BadDataError(f"{name}: {text}") from err
    notes: tuple[str, ...] = ()
    if made.shape != inside.shape or not np.allclose(made.affine, inside.affine, atol=_SAME):
        sides = " x ".join(map(str, made.shape))
        notes = (f"its image of {sides} voxels was resampled to the pair's grid",)
        made = resample(made, inside.shape, inside.affine, order=1, fill=np.nan)
    where, values = np.asarray(inside.dataobj) > 0, np.asarray(made.dataobj)
    share = float(np.mean(~np.isnan(values[where])))
    if share < MIN_COVERAGE or not (values[where] > 0).any():
        what = f"shows {share:.0%} of" if share < MIN_COVERAGE else "has no positive value in"
        raise BadDataError(
            f"{name}: its output {what} the brain; check what it writes, and that its affine is "
            "that of {input}"
        )
    return max_normalise(np.nan_to_num(values), where, name=f"{name}: its output"), notes


@dataclass(frozen=True, kw_only=True)
class ExternalJob(FoldWork):
    """An external tool on one fold; an image may take `limit` seconds."""

    command: Command
    limit: float | None = None

    @property
    def task(self) -> str:
        """What a tool is for, whatever its name."""
        return SYNTHESIZE

    @property
    def row_title(self) -> str:
        """The name that the user gave."""
        return self.method

    def method_options(self) -> dict[str, Any]:
        """Return the command, which decides what is made."""
        return {"command": self.command.template}

    def run(self, say: Say, lost: Say) -> None:
        """Run the tool on the test subjects and score what it makes."""
        scored, seconds, notes = Scored(), list[float](), list[str]()
        failed: dict[str, str] = {}
        for prepared in self.pairs_in("test"):
            pair = read_prepared(prepared)
            say(f"synthesizing {pair.name}")
            try:
                volume, taken, said = run_command(
                    self.command, hf=prepared.hf, mask=prepared.mask, contrast=self.contrast,
                    log=self.work / f"{pair.name}.log", limit=self.limit,
                )  # fmt: skip
                self.score(scored, prepared, pair, volume)
            except H2loError as err:
                failed[pair.name] = str(err)
                lost(f"sub-{pair.name}: {err}")
                continue
            seconds.append(round(taken, 3))
            notes += [f"{pair.name}: {note}" for note in said]
        if not scored.scores:
            first, *_ = failed.values()
            raise H2loError(f"{self.title}: no test subject could be made: {first}")
        record = {
            "external": True,
            "seconds": None,
            "synthesis_seconds": seconds,
            "parameters": None,
            "warnings": [*notes, *(f"{name}: not made: {line}" for name, line in failed.items())],
            "failed": failed,
        }
        self.write(scored, record, ("test",))
