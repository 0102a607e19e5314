"""The command line of a simulator of others, with places for the files."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import MissingInputError, UsageError

PLACES = ("input", "output", "mask", "contrast")
"""What may stand in braces in a command."""

_LONGEST = 10_000
_NEEDED = ("input", "output")


@dataclass(frozen=True)
class Command:
    """A command line with places for the files."""

    name: str
    template: str

    def __post_init__(self) -> None:
        if len(self.template) > _LONGEST:
            raise UsageError(f"--external {self.name}: the command is too long; write a script")
        words = self._split()
        # Of the words, not the template: quotes within braces would hide a place.
        named = [place for word in words for place in re.findall(r"\{(\w*)\}", word)]
        for place in named:
            if place not in PLACES:
                known = ", ".join(f"{{{p}}}" for p in PLACES)
                raise UsageError(f"--external {self.name}: {{{place}}} is not one of {known}")
        for place in _NEEDED:
            if place not in named:
                raise UsageError(
                    f"--external {self.name}: the command needs {{{place}}}, as in "
                    f"{self.name}='program {{input}} {{output}}'"
                )
        if not words:
            raise UsageError(f"--external {self.name}: no program is named")

    def words(self, places: Mapping[str, str]) -> list[str]:
        """Fill in the places, each inside its word whatever the value holds."""
        return [
            re.sub(r"\{(\w+)\}", lambda match: places[match[1]], word) for word in self._split()
        ]

    def find_program(self) -> Path:
        """Return the program, or raise `MissingInputError`."""
        program = self._split()[0]
        found = shutil.which(program)
        if found is None:
            raise MissingInputError(
                f"--external {self.name}: {program} is not found or not executable; give its "
                "full path, such as /path/to/venv/bin/program"
            )
        return Path(found).absolute()

    def _split(self) -> list[str]:
        try:
            return shlex.split(self.template)
        except ValueError as err:
            text = f"--external {self.name}: cannot be split into words ({err}); check the quotes"
            raise UsageError(text) from err
