"""The environment of the processes that do the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from h2lo_bids.cli.environment import child_environment


def test_a_home_that_may_not_be_entered_is_replaced(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(mode=0)
    if os.access(home, os.X_OK):
        pytest.skip("this user may read everything")
    env = child_environment(work, 1, {"HOME": str(home), "TMPDIR": str(tmp_path)})
    assert env["HOME"] == str(work / "home")
    assert env["TEMPLATEFLOW_HOME"] == str(work / "home" / "templateflow")
