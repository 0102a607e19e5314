"""Simulators of others, run as a command on the test subjects and scored like our methods."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, H2loError, MissingInputError
from h2lo_bids.imaging.normalise import max_normalise
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import resample
from h2lo_bids.training.command import Command

_SAME = 1e-3  # mm by which two grids may differ
_GRACE = 5.0  # seconds that a stopped command has for its last words


@dataclass(frozen=True)
class Made:
    """What a simulator made of one subject.

    Parameters
    ----------
    volume
        float32 (X, Y, Z) on the pair's grid, in [0, 1], 0 outside the mask.
    seconds
        From start to end of the command.
    notes
        What was done to the image to make it comparable.
    """

    volume: np.ndarray
    seconds: float
    notes: tuple[str, ...] = ()


def run_command(
    command: Command,
    *,
    hf: Path,
    mask: Path,
    contrast: str,
    scratch: Path,
    log: Path,
    limit: float | None = None,
) -> Made:
    """Let a simulator make one image, and bring it to the pair's grid and scale.

    Parameters
    ----------
    command
        What is run, in `scratch`, with nothing on its standard input.
    hf, mask
        NIfTI images of the pair; the command sees copies.
    contrast
        ``"T1w"`` or ``"T2w"``.
    scratch
        An empty folder, for the copies and the output.
    log
        Takes what the command prints.
    limit
        Seconds after which it is stopped; None lets it take its time.

    Returns
    -------
    Made
        Resampled linearly if its grid is another, divided by its maximum in the
        mask and set to 0 outside, as the pair's own images are.

    Raises
    ------
    H2loError
        If the command fails, takes too long, or leaves no usable image.
    """
    places = {
        "input": scratch / "input.nii.gz",
        "output": scratch / "output.nii.gz",
        "mask": scratch / "mask.nii.gz",
    }
    shutil.copyfile(hf, places["input"])
    shutil.copyfile(mask, places["mask"])
    texts = {name: str(path) for name, path in places.items()} | {"contrast": contrast}
    words = [str(command.find_program()), *command.words(texts)[1:]]
    seconds = _run(command.name, words, scratch, log, limit)
    # The pair's own mask: the command may have spoiled its copy.
    volume, notes = _read(command.name, places["output"], mask, log)
    return Made(volume, seconds, notes)


def _run(name: str, words: list[str], folder: Path, log: Path, limit: float | None) -> float:
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
            _end(process)
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise H2loError(f"{name}: {how}{_last_words(log)}; what it printed is in {log}")
    return time.perf_counter() - began


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a command and its helpers, if they still run."""
    import psutil

    if process.poll() is not None:
        return
    try:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        one.terminate() if one.is_running() else None
    _, alive = psutil.wait_procs(tree, timeout=_GRACE)
    for one in alive:
        one.kill()
    process.wait()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return f" ({told[-1][:160]})" if told else ""


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
    notes: list[str] = []
    if made.shape != inside.shape or not np.allclose(made.affine, inside.affine, atol=_SAME):
        sides = " x ".join(str(n) for n in made.shape)
        notes.append(f"its image of {sides} voxels was resampled to the pair's grid")
        made = resample(made, inside.shape, inside.affine, order=1)
    where = np.asarray(inside.dataobj) > 0
    values = np.asarray(made.dataobj)
    if not (values[where] > 0).any():
        raise BadDataError(
            f"{name}: its output has no positive value in the brain; check what it writes, and "
            "that its affine is that of {input}"
        )
    volume = max_normalise(values, where, name=f"{name}: its output")
    return volume, tuple(notes)
