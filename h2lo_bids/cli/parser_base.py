"""What the parsers of all our programs say of words that they cannot use."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from h2lo_bids.errors import UsageError
from h2lo_bids.vocabulary import LEVEL_ALIASES, LEVELS
from h2lo_bids.wording import did_you_mean

_POSITIONAL = ("bids_dir", "out_dir", "analysis_level")
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 64."""

    _given: Sequence[str] = ()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Keep the words, for `error`, and parse them."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage; say what was probably meant."""
        raise UsageError(self._swallowed() or f"{message}{self._meant(message)}")

    def _meant(self, message: str) -> str:
        """Return the option or value that is closest to the one that is not known."""
        meant = ""
        if message.startswith("unrecognized arguments: "):
            unknown = [word for word in self._given if word in message.split()]
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            meant = did_you_mean(options[0], self._option_string_actions) if options else ""
        elif choice := _CHOICE.search(message):
            meant = did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2]))
        return meant or f"; see {self.prog} --help"

    def _swallowed(self) -> str:
        """Tell of an option that took bids_dir, out_dir or the level for values of its own.

        argparse gives an option of several values every word up to the next option. The
        level is always the last of the three, so it is by this that they are known.
        """
        if not any(action.metavar == _POSITIONAL[-1] for action in self._actions):
            return ""  # another program's parser
        free, runs = self._runs()
        level = next((run for run in runs if run[-1] in (*LEVELS, *LEVEL_ALIASES)), None)
        needed = len(_POSITIONAL) - len(free)
        if level is None or not 1 <= needed < len(level) - 1:
            return ""
        taken = level[-needed:]
        kept = [word for run in runs for word in (run[:-needed] if run is level else run)]
        return (
            f"{level[0]} takes all words up to the next option, and so took "
            f"{' and '.join([*filter(None, [', '.join(taken[:-1])]), taken[-1]])} as well; write "
            f"{', '.join(_POSITIONAL)} first: {shlex.join([self.prog, *free, *taken, *kept])}"
        )

    def _runs(self) -> tuple[list[str], list[list[str]]]:
        """Return the words that no option takes, and each option with its values."""
        free: list[str] = []
        runs: list[list[str]] = []
        room: float = 0
        for word in self._given:
            name, equals, _ = word.partition("=")
            if word.startswith("-"):
                action = self._option_string_actions.get(name)
                nargs = action.nargs if action else 0
                room = 0 if equals else math.inf if nargs == "+" else 1 if nargs is None else 0
                runs.append([word])
            elif room > 0:
                room -= 1
                runs[-1].append(word)
            else:
                free.append(word)
        return free, runs
