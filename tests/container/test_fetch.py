"""Files fetched into the image are those that were promised, or the build ends."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "container" / "fetch.py"
CONTENT = b"weights" * 1000


def _fetch(folder, *entries):
    return subprocess.run(
        [sys.executable, SCRIPT, folder, *entries], capture_output=True, text=True, check=False
    )


def _entry(tmp_path, name="weights.pt", size=None, sha256=None):
    source = tmp_path / "source" / name
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(CONTENT)
    sha256 = sha256 or hashlib.sha256(CONTENT).hexdigest()
    size = len(CONTENT) if size is None else size
    return f"{source.as_uri()}#size={size}&sha256={sha256}"


def test_nothing_is_a_valid_wish(tmp_path):
    assert _fetch(tmp_path / "assets", "").returncode == 0
    assert list((tmp_path / "assets").iterdir()) == []


def test_files_land_where_their_readers_look(tmp_path):
    template = "tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz"
    infant = "tpl-MNIInfant_cohort-1_res-1_T1w.nii.gz"
    entries = [_entry(tmp_path, name) for name in ("weights.pt", template, infant)]
    done = _fetch(tmp_path / "assets", " ".join(entries))
    assert done.returncode == 0, done.stderr
    for name in (
        "weights.pt",
        f"tpl-MNI152NLin2009cAsym/{template}",
        f"tpl-MNIInfant/cohort-1/{infant}",
    ):
        assert (tmp_path / "assets" / name).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"size": len(CONTENT) - 1}, "more came"),
        ({"size": len(CONTENT) + 1}, f"{len(CONTENT)} bytes came"),
        ({"sha256": "0" * 64}, "was promised"),
        ({"sha256": "abc"}, "needs #size="),
        ({"size": ""}, "needs #size="),
    ],
)
def test_anything_else_ends_the_build_in_one_line(tmp_path, fault, told):
    done = _fetch(tmp_path / "assets", _entry(tmp_path, **fault))
    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "assets").iterdir()) == []


@pytest.mark.parametrize("url", ["file:///nowhere/at/all.pt", "ftp://x.invalid/a.pt", "https://"])
def test_unreachable_addresses_end_in_one_line(tmp_path, url):
    done = _fetch(tmp_path / "assets", f"{url}#size=1&sha256={'0' * 64}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert url in done.stderr
