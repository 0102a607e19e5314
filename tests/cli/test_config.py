"""The configuration file."""

from __future__ import annotations

import pytest
import tomli_w
from test_parser import BASE, EVALUATION, EVERYTHING, TRAINING

from h2lo_bids.cli.config import read_settings
from h2lo_bids.errors import UsageError


@pytest.mark.parametrize("line", [EVERYTHING, TRAINING, EVALUATION])
def test_the_recorded_configuration_gives_the_same_settings_again(tmp_path, line):
    s = read_settings(line)
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({**s.to_options(), "run": {"version": "1"}}))
    assert read_settings([*line[:3], "--config-file", str(config)]) == s


def test_the_command_line_wins_over_the_file(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('participant_label = ["01"]\nnprocs = 4\nsloppy = true\nverbose = 1\n')
    s = read_settings([*BASE, "--config-file", str(config), "--participant-label", "05"])
    assert (s.participant_label, s.nprocs, s.sloppy, s.verbose) == (("05",), 4, True, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nproc = 4", "did you mean nprocs"),
        ("config-file = 'x'", "unknown option 'config-file'"),
        ("nprocs = true", "not a value"),
        ("nprocs = 0", "whole number of 1 to 1000000000"),
        ("sloppy = 'yes'", "true or false"),
        ("skull-strip = 'magic'", "magic"),
        ("nprocs = ", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_file(tmp_path, text, expected):
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_settings([*BASE, "--config-file", str(config)])
    assert expected in str(caught.value)
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_level_of_the_file_refuses_what_the_level_of_the_command_line_would(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("folds = 3")
    with pytest.raises(UsageError, match=r"c\.toml: --folds is an option of group and benchmark"):
        read_settings([*BASE, "--config-file", str(config)])
