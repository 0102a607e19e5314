"""Options that contradict each other, or name what is not there."""

from __future__ import annotations

import pytest

from h2lo_bids.cli.run import main


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("group --lambda-grad 0", 64, "use that"),
        ("group --folds 0 --fold 1", 64, "leave one of them out"),
        ("group --folds 0 --no-final", 64, "nothing to fit"),
        ("group --fold 0 --collect", 64, "leave one of them out"),
        ("group --folds ds006557 --test-count 3", 64, "have no effect"),
        ("group --folds ds006557 --val-count 3", 64, "have no effect"),
        ("group --folds 0 --test-count 3", 64, "have no effect"),
        ("group --protocol paper --batch 2", 64, "one volume per step"),
        ("group --method pix2pix --crop 8", 64, "--crop means nothing to pix2pix"),
        ("group --method inr arnold --lambda-grad 1", 64, "nothing to inr and arnold"),
        ("group --method diffi2i --learning-rate 1e-3", 64, "whose own value is fixed"),
        ("group --method identity --devices 2", 64, "can be fitted by one process only"),
        ("group --init embedded none", 64, "--init is given twice without a contrast"),
        ("group --method inr --init embedded", 64, "--init means nothing to inr"),
        ("group --init nowhere", 66, "no such file"),
        ("group --init embeded", 66, "no such file; did you mean embedded?"),
        ("group --init trained", 64, "its folder models/ holds some: "),
        ("group --folds none.tsv", 66, "no such file"),
        ("group --lf-dir nowhere", 66, "is not a folder"),
        ("group -d lf=bids", 64, "other than raw and lf"),
        ("evaluate --precision fp16", 64, "at the group level"),
        ("evaluate --realism-reference scan.nii", 64, "write T1w=IMAGE or T2w=IMAGE"),
        ("evaluate --realism-reference T1w=scan.nii", 66, "scan.nii: no such file"),
        ("participant --realisations 2", 64, "add --noise calibrated"),
    ],
)
def test_what_makes_no_sense_together_is_one_line(tmp_path, monkeypatch, capsys, line, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bids").mkdir()
    (tmp_path / "trained/models/h2lo_T1w").mkdir(parents=True)
    (tmp_path / "trained/models/h2lo_T1w/metadata.json").touch()
    assert main(["bids", "out", *line.split()]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
    assert not (tmp_path / "out").exists()
