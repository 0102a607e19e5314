from __future__ import annotations

from collections.abc import Iterator

import pytest
from samples import bounded_once


@pytest.fixture(scope="session", autouse=True)
def _bounded_once() -> Iterator[None]:
    with bounded_once():
        yield
