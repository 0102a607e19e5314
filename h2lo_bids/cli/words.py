"""From `Settings` back to the words of a command line."""

from __future__ import annotations

from h2lo_bids.settings import Settings


def command_words(settings: Settings) -> list[str]:
    """Return the words after ``h2lo`` that ask for the same.

    Parameters
    ----------
    settings
        What is asked for.

    Returns
    -------
    list of str
        Of which `h2lo_bids.cli.configure.read_settings` makes equal settings.
    """
    lines = (
        [str(settings.bids_dir), str(settings.out_dir), settings.level],
        *option_lines(settings),
    )
    return [word for line in lines for word in line]


def option_lines(settings: Settings) -> list[list[str]]:
    """Return each option that differs from its default, with its values."""
    lines: list[list[str]] = []
    for name, value in settings.to_options().items():
        if value is True:
            lines.append([f"--{name}"])
        elif isinstance(value, list):
            lines.append([f"--{name}", *map(str, value)])
        elif name == "verbose":
            lines.append(["--verbose"] * int(value))
        else:
            lines.append([f"--{name}", str(value)])
    return lines
