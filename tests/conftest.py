"""What several rooms' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from heads import start, write_bundle


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
    """Return a function that runs the program as users do, and checks its exit code."""

    def run(bids, out, *words, env=None, popen=False, level="participant", model=True, code=0):
        given = [*(models if model else ()), "--skull-strip", "skip"]
        return start(bids, out, level, *given, *words, code=code, env=env, popen=popen)

    return run
