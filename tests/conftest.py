"""What several rooms' tests share."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from heads import run, start, write_bundle

from h2lo_bids.evaluation.statistics import confidence_interval

gc.disable()  # until all is imported and collected: it would be looked through again and again
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and every child would, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no core ends with one of them while the other waits."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    every = Counter(item.path for item in items)
    items.sort(key=lambda item: (slow[item.path], every[item.path]), reverse=True)


def pytest_collection_finish() -> None:
    """Count what was imported as lasting."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Count what the files before have imported as lasting, too."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _bounded_once() -> Iterator[None]:
    """Remember the intervals of values: the bootstrap is most of the time of a table."""
    known: dict[bytes, tuple[float, float]] = {}

    def bound(values: np.ndarray) -> tuple[float, float]:
        key = values.tobytes()
        if key not in known:
            known[key] = confidence_interval(values)
        return known[key]

    with patch("h2lo_bids.evaluation.statistics.confidence_interval", bound):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images beside the checkout, or skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "README.tsv").is_file():
        pytest.skip("the real images beside the checkout are absent")
    return folder


@pytest.fixture(scope="session")
def refused():
    """Return a function that calls what raises an error, and gives its message of one line."""

    def call(kind, function, *args, **more):
        with pytest.raises(kind) as caught:
            function(*args, **more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return call


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[str]:
    """Return the words of ``--model`` for two untrained bundles."""
    root = tmp_path_factory.mktemp("models")
    return [
        "--model",
        *(f"{suffix}={write_bundle(root / suffix, suffix)}" for suffix in ("T1w", "T2w")),
    ]


@pytest.fixture
def h2lo(models):
    """Return a function that runs the participant level, or starts it, and checks its code."""

    def participant(bids, out, *words, popen=False, model=True, code=0):
        given = (bids, out, "participant", *(models if model else ()), "--skull-strip", "skip")
        return start(*given, *words, popen=True) if popen else run(*given, *words, code=code)

    return participant
