from __future__ import annotations

import subprocess
from pathlib import Path

from h2lo_bids.wording import pattern, summarise


def expanded(text: str) -> set[str]:
    """Return what bash makes of a pattern."""
    command = ["bash", "-c", f"printf '%s\\n' {text}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_pattern_matches_its_files_also_at_several_depths(tmp_path: Path) -> None:
    wanted = [
        tmp_path / f"sub-{s}" / visit / "anat" / f"sub-{s}_{visit}_T{n}w.nii.gz"
        for s in ("01", "02", "10")
        for visit in (".", "ses-HFC", "ses-HFE")
        for n in (1, 2)
        if (s, n) != ("02", 2)
    ]
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("nowhere")
        path.with_name(path.name.replace("T1w", "FLAIR")).touch()
    own = [Path(f"/d/ses-{n}/sub-{n}_ses-{n}_T1w.nii.gz") for n in range(30)]  # to each a session
    assert pattern(own) == "/d/ses-*/sub-*_ses-*_T1w.nii.gz"
    for some in (wanted, wanted[:1], wanted[:2], wanted[2:6]):
        found = expanded(pattern(some))
        assert found >= {str(path) for path in some}
        assert all(Path(name).is_symlink() for name in found)  # dangling, and nothing else


def test_many_of_a_kind_are_one_line_and_others_keep_theirs() -> None:
    paths = [Path(f"/d/sub-{n:03d}/anat/sub-{n:03d}_T1w.nii.gz") for n in range(200)]
    items = [(path, f"{path}: is empty; see sub-{path.name[4:7]}.json") for path in paths]
    items += [(Path("/d/sub-1/a.nii"), "sub-1 and sub-11 differ"), (Path("/d/sub-2"), "other")]
    first, *rest = summarise(items)
    names = "sub-000_T1w.nii.gz, sub-001_T1w.nii.gz, sub-002_T1w.nii.gz and 197 more"
    text = "/d/sub-*/anat/sub-*_T1w.nii.gz: is empty; see sub-*.json"
    assert first == f"{text} (200 images: {names})"
    assert rest == ["sub-1 and sub-11 differ", "other"]
    assert summarise([*items[:1], *items[:1]]) == [items[0][1]]
