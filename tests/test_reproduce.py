"""The commands of docs/reproduce-ds006557.md find the pairs that the page names."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from skeletons import HYPE, ds006557, get

from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.bids.query import Query
from h2lo_bids.cli.parser import read_settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reproduce-ds006557.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
H2LO = [line for block in BLOCKS for line in block.splitlines() if line.startswith("h2lo ")]


def words_of(line: str, task: int = 3) -> list[str]:
    """Let the shell take a command apart, as in a task of a job array."""
    script = f"h2lo() {{ printf '%s\\n' \"$@\"; }}\nSLURM_ARRAY_TASK_ID={task}\n{line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("line", H2LO)
def test_every_command_finds_its_pairs(line: str, tmp_path: Path) -> None:
    root = ds006557(tmp_path / "ds006557", HYPE, mrr=True)
    words = shlex.split(line)
    # Only what the page tells to fetch by then is there.
    get(root, "ses-GE", "_mrr", *(["ses-HFC"] if "--lf" in words else []))
    asked = read_settings(words_of(line))
    found = discover_pairs(
        Query(
            root,
            participant_labels=asked.participant_label,
            derivatives=tuple(
                (name, root / path.relative_to(asked.bids_dir)) for name, path in asked.derivatives
            ),
            lf=asked.lf,
            fusion=asked.lf_fusion,
            skip_bids_validation=True,
        )
    )
    assert not found.problems
    counts = [sum(pair.contrast == contrast for pair in found.pairs) for contrast in ("T1w", "T2w")]
    assert counts == ([1, 1] if "--participant-label" in words else [22, 23])
