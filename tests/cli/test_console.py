"""What a terminal shows while a step goes on, and what a log file shows of it."""

from __future__ import annotations

import io

import pytest

from h2lo_bids.cli import console as module
from h2lo_bids.cli.console import Console


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_never_silent_while_a_step_goes_on(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    screen = Screen()
    console = Console(screen)
    console.status("[0/1] sub-01: T1w synthesis")
    for _ in range(40):  # half a second each, as between two looks for events
        now[0] += 0.5
        console.tick()
    last = screen.getvalue().rpartition("\x1b[K")[2]
    assert last == "[0/1] sub-01: T1w synthesis (20 s)"
    assert screen.getvalue().count("\r") == 20  # once a second, not twice
    console.status("[0/1] sub-01: T1w figures")
    assert screen.getvalue().endswith("T1w figures")


@pytest.mark.parametrize(("stream", "lines"), [(Screen(), 0), (io.StringIO(), 1)])
def test_a_log_has_a_line_where_a_terminal_has_its_status(tmp_path, stream, lines) -> None:
    console = Console(stream)
    console.open_log(tmp_path / "log")
    console.status("[0/1] sub-01: starting")
    console.progress("sub-01: started, 1 scan")
    console.tick()
    console.close()
    assert stream.getvalue().count("sub-01: started, 1 scan\n") == lines
    assert (tmp_path / "log").read_text().count("sub-01: started, 1 scan\n") == 1
