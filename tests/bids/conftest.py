from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as where the optional validator is not installed."""
    monkeypatch.setattr("h2lo_bids.bids.dataset.find_validator", lambda: None)
