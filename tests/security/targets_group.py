"""What is fuzzed of the levels that work on pairs: cohorts, folds, splits and their report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from targets import TARGETS as _TARGETS
from targets import Target, _texts

_COHORT = "sub-01/anat/sub-01_desc-"
_MADE = {"ModelMethod": "h2lo", "ModelName": "x", "ModelSha256": "0" * 64}
_PREPROC = {"Sources": ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz", f"bids::{_COHORT}brain_mask.nii.gz"]}  # fmt: skip  # noqa: E501
_RUN = '[run]\nanalysis-level = "group"\ncommand = "h2lo bids out group"\n'
_SPLITS = "contrast\tfold\tparticipant_id\tpart\nT1w\t0\tsub-A\ttest\nT1w\t0\tsub-B\ttrain\n"
_LOG = "step,loss,l1,gradient,psnr,seconds\n1,0.5,0.4,0.1,20.1,1\n2,0.4,0.3,0.1,,2\n"


def _read_cohort(data: bytes, folder: Path) -> None:
    """One file of JSON plays every part."""
    from h2lo_bids.training.experiments.cohort import Cohort, find_cohort

    image = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    for name in ("preproc_T1w", "lowfield_T1w", "brain_mask"):
        path = folder / f"{_COHORT}{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            nib.save(image, path)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_bytes(data)
    for scan in find_cohort([folder], "T1w"):
        assert scan.mask.resolve().is_relative_to(folder.resolve())
        json.dumps(Cohort((scan,)).identity(), allow_nan=False)


def _read_fold(data: bytes, folder: Path) -> None:
    from h2lo_bids.training.experiments.crossvalidation import read_record
    from h2lo_bids.training.experiments.results import agree, terms_of

    (folder / "record.json").write_bytes(data)
    record = read_record(folder)
    if record is not None:
        assert agree(terms_of(record), terms_of(record)) in (True, False)


def _read_splits(data: bytes, folder: Path) -> None:
    from h2lo_bids.evaluation.splits import read_splits, write_splits

    (folder / "splits.tsv").write_bytes(data)
    write_splits(folder / "again.tsv", read_splits(folder / "splits.tsv"))


def _read_log(data: bytes, folder: Path) -> None:
    from h2lo_bids.training.folder import History

    (folder / "history.csv").write_bytes(data)
    History(folder / "history.csv", 1, _LOG.partition("\n")[0].split(","))


def _page(place: str, *more: str) -> Callable[[bytes, Path], None]:
    """Read a file of the output folder as the group report does."""

    def read(data: bytes, folder: Path) -> None:
        from html_check import elements

        from h2lo_bids.reports.group import render_group_report

        for name in (place, *more):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        page = render_group_report(folder, level="group")
        page.encode("utf-8")
        assert sum(name == "script" for name, _ in elements(page)) <= 1

    return read


def _pictures() -> list[bytes]:
    stream, plane = io.BytesIO(), np.ones((3, 8, 8), np.float32)
    kinds = {f"A/{kind}": plane for kind in ("hf", "lf", "predicted")}
    np.savez(stream, **kinds, **{"A/histograms": np.ones((3, 16), np.float32)})
    return [stream.getvalue()]


def _json(*values: object) -> Callable[[], list[bytes]]:
    return _texts(*map(json.dumps, values))


def _record() -> list[bytes]:
    (whole,) = _TARGETS["group-record"].seeds()
    told = {"given": {"steps": 4, "device": "cpu"}, "pairs": {"a": "b"}, "failed": {}}
    return [json.dumps({**json.loads(whole), **told}).encode()]


_PAIR = "sub-A/anat/sub-A_res-model_desc-pairLF_T1w.json"
_FOLD = "folds/T1w/h2lo/fold-0"
_MODEL = {"name": "x", "training_data": {"kind": "real"}, "parameters": 5, "frame": {}}

TARGETS = {
    **_TARGETS,
    **{
        target.name: target
        for target in (
            Target("cohort", _json({**_PREPROC, **_MADE}), _read_cohort),
            Target("fold-record", _record, _read_fold),
            Target("own-splits", _texts(_SPLITS), _read_splits),
            Target("own-history", _texts(_LOG), _read_log),
            Target("page-pair", _TARGETS["pair-record"].seeds, _page(_PAIR)),
            Target("page-model", _json(_MODEL), _page("models/h2lo_T1w/metadata.json")),
            Target("page-pictures", _pictures, _page(f"{_FOLD}/pictures.npz")),
            Target("page-run", _texts(_RUN), _page("logs/a/config.toml")),
            Target(
                "page-scores",
                _TARGETS["scores"].seeds,
                _page("group_T1w_scores.tsv", f"{_FOLD}/scores.tsv"),
            ),
        )
    },
}
