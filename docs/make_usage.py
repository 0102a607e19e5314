"""Write docs/usage.md and the Boutiques descriptor from the parser.

With --check only tell whether they are up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from make_descriptor import descriptor_text

from h2lo_bids.cli.parser import EXIT_CODES, build_parser
from h2lo_bids.settings import OPTIONS
from h2lo_bids.settings.options import MODES, Option
from h2lo_bids.vocabulary import LEVELS

PAGE = Path(__file__).resolve().with_name("usage.md")
DESCRIPTOR = PAGE.parents[1] / "bids_app_spec" / "boutiques.json"
HEAD = """# Usage

`make docs` writes this page from the parser: change the parser, not this page.

```
h2lo bids_dir out_dir participant [options]           synthesize low-field images
h2lo bids_dir out_dir participant --task enhance ...  enhance low-field images
h2lo bids_dir out_dir participant --pairs [options]   prepare pairs of some participants
h2lo bids_dir out_dir group [options]                 fit and cross-validate a model; also: train
h2lo bids_dir out_dir evaluate [options]              score models on pairs
h2lo bids_dir out_dir benchmark [options]             fit and score every method: Table 1
h2lo bids_dir out_dir trial --labels NAME=PATH ...    predict which lesions a scanner shows
```

Give `bids_dir`, `out_dir` and one analysis level; options of other levels are refused.
`h2lo --help` prints the levels and the common options, `h2lo participant --help` all
options of that level, `h2lo methods` the methods, `h2lo outputs` the pattern of every
output. Option names may have underscores instead of hyphens; the spellings of other
BIDS Apps, `--n-cpus`, `--nthreads`, `--mem-gb` and `--mem-mb`, also work, and
`--notrack` is accepted, as nothing is ever tracked. A TOML file given with
`--config-file` may hold any option, without the leading hyphens; the command line wins.
Each run writes its configuration to `out_dir/logs/<run>/config.toml`, which a later
run accepts unchanged.
"""
RUNNING = """
## What a run does

- Each participant has its own process; several run at a time as processors and
  memory allow, within the limits of a container or job. A process that is killed
  loses only its own participant's scans.
- `bids_dir` is never written; `out_dir` and the work folder are outside it, or in its
  `derivatives/NAME`, which is never read as input.
- Outputs appear complete or not at all. The same command resumes a run that was
  stopped: only steps that are missing, or depend on a changed option, model or scan,
  are computed, also if the work folder was moved.
- The work folder is `out_dir/.h2lo-work` unless `-w` names another; it takes
  some 100 MB per scan and may be deleted afterwards (`--clean-workdir`).
- HOME, `/tmp`, `/dev/shm` and the network are not needed.
- Low-field images have values in [0, 1]: the operator has no output activation, and
  values beyond the range of its training data are clipped. Every voxel outside the
  brain is exactly 0.
- The same inputs, options, versions and number of threads give the same
  images and sidecars, byte for byte. The transforms of `--output-spaces` hold
  the same numbers each time, in HDF5 containers that record their time of writing.
- Failures are printed as they occur and listed in `out_dir/logs/<run>/failures.tsv`,
  which the last lines name.

## Exit codes

"""
TABLE = """| option | meaning | level |
|---|---|---|
"""
CODES = """| code | meaning |
|---|---|
"""


def render() -> str:
    """Return the page."""
    parser = build_parser()
    positional, general = (group._group_actions for group in parser._action_groups[:2])
    parts = [HEAD, "\n## Arguments\n\n", TABLE, *(_row(action) for action in positional)]
    parts += ["\n## Help\n\n", TABLE]
    parts += [_row(action) for action in general if action.dest != "help"]
    for group in parser._action_groups[2:]:
        parts += [f"\n## {str(group.title).capitalize()}\n\n", TABLE]
        parts += [_row(action) for action in group._group_actions]
    return "".join([*parts, RUNNING, CODES, *_codes()])


def _row(action: argparse.Action) -> str:
    """Return an argument or option with its values, meaning and the levels that take it."""
    option = OPTIONS.get(action.dest)
    levels = "all" if option is None or set(option.modes) == set(MODES) else _levels(option)
    return f"| {_name(action)} | {_escape(action.help or '')} | {levels} |\n"


def _levels(option: Option) -> str:
    """Return which levels take an option, and in which of their modes."""
    words = []
    for level in LEVELS:
        modes = [mode for mode in MODES if mode.partition(" ")[0] == level]
        others = [mode.partition(" ")[2] for mode in modes if mode not in option.modes]
        without = f" (not with {' or '.join(others)})" if others else ""
        taken = [mode for mode in modes if mode in option.modes]
        words += [level + without] if level in taken else taken
    return ", ".join(words)


def _name(action: argparse.Action) -> str:
    """Return an option as it is written, with its values."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(action.choices) + "}" if action.choices else None
        value = f" {action.metavar or choices or action.dest.upper()}"
        value += " ..." if action.nargs == "+" else ""
    return ", ".join(f"`{_escape(option + value)}`" for option in action.option_strings)


def _codes() -> list[str]:
    """Return the exit codes as rows of a table."""
    return [f"| {code} | {_escape(meaning)} |\n" for code, meaning in EXIT_CODES.items()]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")


def main() -> int:
    """Write both files; with --check only compare."""
    code = 0
    for path, text in {PAGE: render(), DESCRIPTOR: descriptor_text(build_parser())}.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path}: differs from the parser; run make docs", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
