from __future__ import annotations

import pytest

from h2lo_bids.wording import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 scans"), (1, "1 scan"), (2, "2 scans")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "scan") == text
