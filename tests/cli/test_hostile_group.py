"""Hostile files at the levels that work on pairs: one line and a code, and the others go on."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import BAD, SIDE, SPACING, write_bundle, write_pairs

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.cli.run import main
from h2lo_bids.errors import (
    CannotCreateError,
    InputOutputError,
    MissingInputError,
    TemporaryError,
    of_the_machine,
)
from h2lo_bids.io import check_content

sys.path.append(str(Path(__file__).resolve().parents[1] / "security"))
from html_check import elements

EVIL = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
FIT = ["--resolution", "8", "--nprocs", "1", "--mem", "8", "--skull-strip", "skip"]


@pytest.fixture(scope="module")
def bids(tmp_path_factory) -> Path:
    """Return pairs of two sound subjects, copied by the tests that spoil them."""
    root = write_pairs(tmp_path_factory.mktemp("hostile") / "bids")
    for label in ("03", "04", BAD):
        shutil.rmtree(root / f"sub-{label}")
    return root


def add_subject(bids: Path, label: str, session: str) -> Path:
    """Copy the first subject; give the image of a session."""
    new = bids / f"sub-{label}"
    shutil.copytree(bids / "sub-01", new)
    for file in [path for path in new.rglob("*") if path.is_file()]:
        file.rename(file.with_name(file.name.replace("sub-01", new.name)))
    return new / f"ses-{session}" / "anat" / f"sub-{label}_ses-{session}_T1w.nii.gz"


def image_bytes(data: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    """Return a compressed image."""
    grid = np.diag([SPACING] * 3 + [1.0]) if affine is None else affine
    return gzip.compress(nib.Nifti1Image(data.astype(np.float32), grid).to_bytes(), mtime=0)


def run(capsys, *words) -> tuple[int, str, str]:
    """Run in this process; give code, standard output and standard error."""
    code = main([*map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def no_foreign_code(page: Path) -> None:
    """Make sure that a page shows what is evil as text."""
    found = elements(page.read_text(encoding="utf-8"))
    assert sum(name == "script" for name, _ in found) == 1
    assert not any(key.startswith("on") for _, told in found for key in told)


@pytest.mark.slow
def test_bad_partners_cost_their_own_pair(tmp_path, bids, capsys):
    root = tmp_path / "bids"
    shutil.copytree(bids, root)
    shutil.rmtree(root / "sub-02")
    shear = np.diag([SPACING] * 3 + [1.0])
    shear[0, 1] = 3.0
    noise = np.random.default_rng(0).random((SIDE,) * 3)
    for label, session, content in (
        ("twice", "LF", image_bytes(np.stack([noise, noise], -1))),
        ("nan", "HF", image_bytes(noise * np.nan)),
        ("shear", "LF", image_bytes(noise, shear)),
        ("zero", "LF", image_bytes(noise * 0)),
    ):
        add_subject(root, label, session).write_bytes(content)
    pipe = add_subject(root, "pipe", "LF")
    pipe.unlink()
    os.mkfifo(pipe)
    loop = add_subject(root, "loop", "HF")
    loop.unlink()
    loop.symlink_to(loop.name)
    sidecar = add_subject(root, "deep", "LF").with_name("sub-deep_ses-LF_T1w.json")
    sidecar.write_text("[" * 100_000)
    out = tmp_path / "out"
    words = (root, out, "participant", "--pairs", *FIT, "--skip-bids-validation")
    code, told, err = run(capsys, *words)
    assert (code, err) == (1, "")
    assert "Traceback" not in told
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 7
    for label in ("twice", "nan", "shear", "zero", "pipe", "loop", "deep"):
        (line,) = [line for line in errors if f"sub-{label}_" in line]
        assert ";" in line  # the remedy
        assert not list(out.glob(f"sub-{label}/**/*.nii.gz"))
    assert len(list(out.glob("sub-01/**/*_desc-pairLF_T1w.nii.gz"))) == 1
    assert not list(out.rglob(".tmp-*"))


@pytest.mark.slow
def test_a_model_full_of_html_is_scored_and_shown_as_text(tmp_path, bids, capsys):
    root = tmp_path / "bids"
    shutil.copytree(bids, root)
    sidecar = root / "sub-02/ses-LF/anat/sub-02_ses-LF_T1w.json"
    sidecar.write_text(json.dumps({"MagneticFieldStrength": 0.064, "Manufacturer": EVIL}))
    (root / "participants.tsv").write_text(f"participant_id\tgroup\nsub-01\t{EVIL}\n{EVIL}\tx\n")
    model = write_bundle(tmp_path / "bundle", "T1w")  # called by the name in its metadata
    metadata = json.loads((model / "metadata.json").read_text())
    told = {"kind": "real", "description": EVIL, "subjects": {"train": [EVIL]}}
    metadata |= {"name": f"../../{EVIL}", "training_data": told, "license": EVIL}
    (model / "metadata.json").write_text(json.dumps(metadata))
    (model / "README.md").write_text(f"# {EVIL}\n\n[x](javascript:window.hacked=1)\n")
    out = tmp_path / "out"
    words = (root, out, "evaluate", *FIT, "--model", model, "--skip-bids-validation")
    code, told, err = run(capsys, *words)
    assert (code, err) == (0, ""), told
    (folder,) = out.glob("evaluation/T1w/*")
    assert not {"/", "<", ".."} & {*folder.name.split("window")[0]}
    no_foreign_code(out / "group.html")
    assert {path.name for path in tmp_path.iterdir()} == {"bids", "bundle", "out"}


@pytest.mark.slow
def test_weights_that_cannot_be_loaded_are_told_before_pairs_are_prepared(tmp_path, bids, capsys):
    model = write_bundle(tmp_path / "model", "T1w")
    metadata = json.loads((model / "metadata.json").read_text())
    metadata["architecture"]["width"] += 1
    (model / "metadata.json").write_text(json.dumps(metadata))
    out = tmp_path / "out"
    code, told, err = run(capsys, bids, out, "evaluate", *FIT, "--model", model)
    assert code == 65
    (line,) = err.splitlines()
    assert str(model) in line
    assert "preparing" not in told
    assert not list(out.glob("sub-*"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--steps", "9" * 20), "whole number of 1 to 1000000000"),
        (("--crop", "100000"), "whole number of 4 to 512"),
        (("--batch", "1000000000"), "whole number of 1 to 4096"),
        (("--random-seed", "9" * 5000), "whole number of 0 to"),
    ],
)
def test_numbers_beyond_all_sense_are_refused(tmp_path, bids, capsys, words, text):
    code, _, err = run(capsys, bids, tmp_path / "out", "group", *words)
    assert code == 64
    (line,) = err.splitlines()
    assert text in line
    assert len(line) < 300
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("makers", [3.5, True, "h2lo", {"Name": "x"}, [None]])
def test_a_folder_of_somebody_is_left_alone_whatever_its_description_says(tmp_path, makers):
    (tmp_path / "dataset_description.json").write_text(json.dumps({"GeneratedBy": makers}))
    with pytest.raises(CannotCreateError, match="choose another output folder"):
        require_own(tmp_path)


def test_a_link_to_itself_is_told_as_one(tmp_path):
    (tmp_path / "x.nii.gz").symlink_to("x.nii.gz")
    with pytest.raises(MissingInputError, match="a link to itself; remove it"):
        check_content(tmp_path / "x.nii.gz")


def test_what_the_machine_lacks_is_told_with_a_remedy():
    for error in (MemoryError("1.78 PiB"), RuntimeError("[enforce] not enough memory: you")):
        assert isinstance(found := of_the_machine(error), TemporaryError)
        assert "smaller --batch or --crop" in str(found)
    found = of_the_machine(OSError(errno.ENOSPC, "full", "/x/y"))
    assert isinstance(found, InputOutputError)
    assert str(found).startswith("/x/y: writing failed")
    assert of_the_machine(OSError(errno.EACCES, "no", "/x")) is None
    assert of_the_machine(RuntimeError("of another kind")) is None
