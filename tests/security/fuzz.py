"""Fuzz the readers of outside files: ``python tests/security/fuzz.py --seconds 60``.

With ``--engine atheris`` (where that package is installed) coverage guides it.
A document that breaks a reader is kept under ``--keep``; its seed is printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / place) for place in ("security", "reports", "evaluation")]

from mutations import mutate  # noqa: E402
from targets import Target  # noqa: E402
from targets_group import TARGETS  # noqa: E402


def try_one(target: Target, seed: int, folder: Path, seeds: list[bytes]) -> bytes:
    """Read a document that a seed decides; give it back."""
    rng = random.Random(seed)
    data = mutate(rng.choice(seeds), rng)
    if rng.random() < 0.3:
        data = mutate(data, rng)
    return data


def fuzz(target: Target, seconds: float, start: int, keep: Path) -> tuple[int, int, Counter[str]]:
    """Try a target for a time; give executions, refusals and defects by kind."""
    seeds, defects, refused = target.seeds(), Counter[str](), 0
    end, seed = time.monotonic() + seconds, start
    with tempfile.TemporaryDirectory(prefix="h2lo-fuzz-") as folder:
        while time.monotonic() < end:
            data = try_one(target, seed, Path(folder), seeds)
            began = time.monotonic()
            try:
                refused += target.run(data, Path(folder)) is not None
                kind = "slow (over 10 s)" if time.monotonic() - began > 10 else ""
            except Exception as err:
                last = traceback.extract_tb(err.__traceback__)[-1]
                kind = f"{type(err).__name__} at {Path(last.filename).name}:{last.lineno}: {err}"
            if kind:
                kind = " ".join(kind.split())[:200]
                defects[kind] += 1
                if defects[kind] == 1:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{target.name}-{seed}").write_bytes(data)
                    print(f"{target.name}: seed {seed}: {kind}", flush=True)
            seed += 1
    return seed - start, refused, defects


def guide(target: Target, seconds: float, start: int) -> None:
    """Let coverage guide the search, in a process that atheris ends."""
    import atheris

    atheris.instrument_all()
    with tempfile.TemporaryDirectory(prefix="h2lo-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(seed)
        place = Path(folder) / "place"
        place.mkdir()
        words = [
            sys.argv[0],
            f"-max_total_time={int(seconds)}",
            f"-seed={start + 1}",
            "-max_len=70000",
        ]
        atheris.Setup([*words, "-timeout=60", str(corpus)], lambda data: target.run(data, place))
        atheris.Fuzz()


def main() -> int:
    """Fuzz as the command line says; 1 when there were defects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="of the first document")
    parser.add_argument("--keep", type=Path, default=Path("fuzz"), help="folder for what broke one")
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.targets or list(TARGETS)
    wrong = [name for name in names if name not in TARGETS]
    if wrong:
        parser.error(f"unknown target {wrong[0]}; there are {', '.join(TARGETS)}")
    if options.engine == "atheris":
        if len(names) != 1:
            parser.error("atheris takes one target")
        guide(TARGETS[names[0]], options.seconds, options.seed)
        return 0
    total = Counter[str]()
    for name in names:
        target = TARGETS[name]
        tried, refused, defects = fuzz(
            target, options.seconds / len(names), options.seed, options.keep
        )
        total["tried"] += tried
        total["defects"] += len(defects)
        print(f"{name}: {tried} tried, {refused} refused, {len(defects)} kinds of defects")
    print(f"all: {total['tried']} tried, {total['defects']} kinds of defects")
    return int(total["defects"] > 0)


if __name__ == "__main__":
    sys.exit(main())
