"""External tools: their command lines, what may go wrong, and what is kept."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from prepared_pairs import fold_of, whole_psnr, write_pairs

from h2lo_bids.errors import H2loError, MissingInputError, UsageError
from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.training.experiments.crossvalidation import fold_done, read_record, run_fold
from h2lo_bids.training.experiments.external import Command, ExternalJob, run_command
from h2lo_bids.training.pairs import read_prepared

IMAGE = """
import nibabel as nib, numpy as np
image = nib.load(sys.argv[1])
data = np.asarray(image.dataobj)
{}
nib.save(nib.Nifti1Image(made.astype(np.float32), affine), sys.argv[2])
"""
HALF = "made, affine = 300 * data ** 2 + 5, image.affine"
SPOIL = "data = np.array(data); open('mask.nii.gz', 'w').close(); open(sys.argv[1], 'w').close()\n"
COARSE = "made, affine = data[::2, ::2, ::2], image.affine @ np.diag([2, 2, 2, 1])"


def command(folder: Path, body: str) -> Command:
    script = folder / "sim script.py"  # with a space, as folders of people have
    script.write_text("import os, sys\n" + (IMAGE.format(body) if "made" in body else body))
    words = [shlex.quote(str(word)) for word in (sys.executable, script)]
    return Command("sim", " ".join([*words, "{input}", "{output}"]))


def run(tmp_path: Path, body: str, limit: float | None = None):
    pair = write_pairs(tmp_path / "out", 1)[0]
    before = pair.hf.read_bytes()
    try:
        return pair, run_command(
            command(tmp_path, body), hf=pair.hf, mask=pair.mask, contrast="T1w",
            log=tmp_path / "log.txt", limit=limit,
        )  # fmt: skip
    finally:
        assert pair.hf.read_bytes() == before


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("sim {input}", "needs {output}"),
        ("sim {input} {output} {inptu}", "{inptu} is not one of"),
        ("sim '{input} {output}", "check the quotes"),
    ],
)
def test_templates_that_cannot_work_are_refused(template, text):
    with pytest.raises(UsageError, match="--external sim: .*" + text.replace("{", r"\{")):
        Command("sim", template)


def test_places_are_filled_word_by_word_and_no_shell_reads_them():
    words = Command("s", "a {input} --to={output} '{contrast} x' $HOME").words(
        {"input": "/a b;rm *", "output": "{mask}", "mask": "m", "contrast": "T1w"}
    )
    assert words == ["a", "/a b;rm *", "--to={mask}", "T1w x", "$HOME"]
    with pytest.raises(MissingInputError, match="give its full path"):
        Command("s", "no-such-program {input} {output}").find_program()


def test_an_image_is_brought_to_the_pairs_grid_scale_and_mask(tmp_path):
    pair, (volume, seconds, notes) = run(tmp_path, SPOIL + HALF)  # it may spoil its copies
    loaded = read_prepared(pair)
    raw = np.where(loaded.mask, 300 * np.asarray(nib.load(pair.hf).dataobj) ** 2 + 5, 0)
    np.testing.assert_allclose(volume, raw / raw.max(), atol=1e-6)
    assert volume[~loaded.mask].max() == 0
    assert notes == ()
    assert seconds > 0
    _, (volume, _, notes) = run(tmp_path, COARSE)
    assert volume.shape == (24, 24, 24)
    assert "12 x 12 x 12" in notes[0]


@pytest.mark.parametrize(
    ("body", "limit", "text"),
    [
        ("print('bad luck'); sys.exit(3)", None, r"ended with code 3 \(bad luck\)"),
        ("import time; time.sleep(60)", 1.0, "stopped after 1 s, the limit of --max-time"),
        ("made, affine = data * np.nan, image.affine", None, "its output: has .* NaN"),
        ("os.kill(os.getpid(), 9)", None, "killed by signal 9"),
        ("made, affine = -data, image.affine", None, "no positive value in the brain; check what"),
        # Half of the brain: a tool that does not keep the place of its input.
        ("made, affine = data, np.diag([4.0, 8, 8, 1])", None, "shows 50% of the brain; check"),
        ("os.mkfifo(sys.argv[2])", None, "left no {output}"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, body, limit, text, refused):
    assert re.match(f"sim: .*{text}", refused(H2loError, run, tmp_path, body, limit))
    assert (tmp_path / "log.txt").read_text().startswith("$ ")


def test_a_fold_goes_on_without_a_lost_subject_and_is_made_whole_later(tmp_path):
    pairs, stop = write_pairs(tmp_path / "out", 4), tmp_path / "stop"
    stop.touch()
    total = float(np.asarray(read_prepared(pairs[2]).hf, np.float64).sum())
    guard = f"if os.path.exists({str(stop)!r}) and np.isclose(data.sum(), {total!r}): sys.exit(1)\n"
    fold, tool = Fold(0, ("01",), ("02",), ("03", "04")), command(tmp_path, guard + HALF)
    job = fold_of(pairs, tmp_path, ExternalJob, method="sim", fold=fold, command=tool)
    lost: list[str] = []

    fourth = read_prepared(pairs[3])
    raw = np.where(fourth.mask, 300 * np.asarray(fourth.hf, np.float64) ** 2 + 5, 0)
    expected = {
        ("04", "identity"): psnr(fourth.hf, fourth.lf),
        ("04", "sim"): psnr(raw / raw.max(), fourth.lf),
    }
    assert whole_psnr(run_fold(job, lost=lost.append)) == pytest.approx(expected, abs=1e-3)
    assert not fold_done(job)
    stop.unlink()
    every = {(who, what) for who in ("03", "04") for what in ("identity", "sim")}
    assert {*whole_psnr(run_fold(job))} == every
    (line,) = lost
    assert line.startswith("sub-03: sim: ended with code 1")
    assert fold_done(job)
    record = read_record(job.folder)
    assert (record["failed"], len(record["synthesis_seconds"])) == ({}, 2)
    stamp = (job.folder / "record.json").stat().st_mtime_ns
    run_fold(job)
    assert (job.folder / "record.json").stat().st_mtime_ns == stamp
    assert not fold_done(replace(job, command=Command("sim", "other {input} {output}")))
