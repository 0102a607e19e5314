# ruff: noqa: E501 - documents to damage, as they are
"""What is fuzzed: every reader of a file that others wrote, with a document to damage.

A reader may return, or raise one `H2loError` of one line. Anything else is a defect.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from group_samples import Sample, make_fold
from heads import write_bundle
from prepared_pairs import write_pair, write_scan
from report_samples import Page, make_report, make_scan
from skeletons import name_of, scan_at

from h2lo_bids.bids.dataset import read_description, write_dataset_files
from h2lo_bids.bids.derivatives import derivative_path, pair_paths
from h2lo_bids.bids.gather import read_scan
from h2lo_bids.bids.index import read_participants
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import parse_name
from h2lo_bids.bids.query import compile_filters, describe, load_filter_file, matches
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.splits import read_folds
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.io import sha256
from h2lo_bids.models.bundle import Bundle, load_bundle, load_model, members
from h2lo_bids.models.h2lo import H2lo, H2loArchitecture
from h2lo_bids.reports.group import write_group_report
from h2lo_bids.reports.page import render_markdown
from h2lo_bids.reports.records import Failure, ModelInfo, load_subject_report
from h2lo_bids.reports.subject import render_subject_report
from h2lo_bids.training.experiments.cohort import Cohort, find_cohort
from h2lo_bids.training.pairs import find_prepared

LONGEST = 4000
"""Characters that a message may have: enough for a path and a reason."""

STEM = "sub-01_ses-HF_T1w"


@dataclass(frozen=True)
class Target:
    """A reader: whole documents, how one is read, and where its file stands, if it has one."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[Any], object]  # a file's path; or what is read from memory
    file: str = ""

    def run(self, data: bytes, folder: Path) -> str | None:
        """Read a document; give the complaint, or None when there was none."""
        path = folder / self.file
        if self.file:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            self.read(path if self.file else data)
        except H2loError as err:
            text = str(err)
            assert text, "an error without a message"
            assert len(text.splitlines()) == 1, f"several lines: {text[:300]!r}"
            assert len(text) < LONGEST, f"{len(text)} characters: {text[:300]!r}"
            return text
        return None


def _nifti() -> list[bytes]:
    data, kinds = np.arange(6**3, dtype=np.int16), (nib.Nifti1Image, nib.Nifti2Image)
    images = [kind(data.reshape(6, 6, 6), np.eye(4)) for kind in (*kinds, nib.Nifti1Image)]
    for image in images:
        image.set_qform(np.eye(4), 1)
    images[-1].header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment of some length"))
    return [image.to_bytes() for image in images]


def _read_nifti(path: Path) -> None:
    # The first byte says whether the stream or what is in it was damaged.
    if path.suffix == ".gz" and path.read_bytes()[:2] != b"\x1f\x8b":
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    image = load_checked(path).image
    assert np.isfinite(image.dataobj).all()
    assert np.isfinite(image.affine).all()


def _read_sidecar(path: Path) -> None:
    scan = read_scan(scan_at(path.with_suffix(".nii.gz")), Sidecars(path.parents[3]))
    _is_text([scan.field_source, *scan.notes])


def _is_text(lines: object) -> None:
    """Make sure that what goes on to logs and pages can be written there."""
    for line in lines:
        line.encode("utf-8")
        assert len(line) < LONGEST, f"a note of {len(line)} characters"


def _read_filter(path: Path) -> None:
    for conditions in compile_filters(load_filter_file(path)).values():
        describe(conditions)
        for name in (f"{STEM}.nii.gz", "sub-2_run-007_T2w.nii"):
            matches(name_of(name), conditions)


def _read_description(path: Path) -> None:
    raw, out = path.parent, path.parents[1] / "out"
    shutil.copytree(raw, out)
    write_dataset_files(out, bids_dir=raw)
    json.loads((out / "dataset_description.json").read_text())
    read_description(raw, skip=True)
    read_description(raw)


def _read_record(path: Path) -> None:
    folder = path.parent
    for part in pair_paths(folder, (("sub", "01"),), "T1w").values():
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, part)
    for pair in find_prepared(folder, contrast="T1w"):
        _is_text([pair.fusion, pair.fingerprint, *pair.sources, *pair.doubts])
        assert pair.hf.resolve().is_relative_to(folder.resolve())


def _read_report(path: Path) -> None:
    folder = path.parents[2]
    shutil.copy(path, path.with_name("sub-01_desc-report_T1w.json"))
    page = render_subject_report(load_subject_report(folder, "01"), folder)
    page.encode("utf-8")


def _reports() -> list[bytes]:
    scan = {"scan": asdict(replace(make_scan(), lost=(("a", "b", "c"),)))}
    report = asdict(replace(make_report([]), failures=(Failure("node", "message"),)))
    del report["scans"]
    return [json.dumps(part).encode() for part in ({**report, **scan}, scan, report)]


def read_card(data: bytes) -> None:
    page = Page(render_markdown(data.decode("utf-8", errors="replace")))
    assert set(page.tags) <= _OF_CARDS
    assert {(tag, name) for tag, name, _ in page.attributes} <= _ATTRIBUTES
    schemes = ("http://", "https://", "mailto:", "#")
    assert all(value.lower().startswith(schemes) for value in page.values("href"))


_ATTRIBUTES = {
    *(("a", "href"), ("a", "rel"), ("ol", "start"), ("th", "scope")),
    *(("div", name) for name in ("class", "tabindex", "role", "aria-label")),
}
_OF_CARDS = {
    *("h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("div", "blockquote", "pre", "code", "hr", "br", "em", "strong", "a"),
}


def _read_name(data: bytes) -> None:
    name = parse_name(data.decode("utf-8", errors="surrogateescape"))
    if name is None:
        return
    try:
        inside = derivative_path("", name.entities, suffix=name.suffix, desc="lowfield")
    except ValueError:
        return
    assert ".." not in inside.parts
    assert len(inside.parts) in (3, 4)
    assert str(inside).isascii()
    assert str(inside).isprintable()


def _read_cohort(path: Path) -> None:
    """One file of JSON plays every part."""
    folder = path.parent
    write_scan(folder, "01", 0)
    for image in folder.rglob("*.nii.gz"):
        shutil.copy(path, image.with_name(image.name.replace(".nii.gz", ".json")))
    for scan in find_cohort([folder], "T1w"):
        assert scan.mask.resolve().is_relative_to(folder.resolve())
        json.dumps(Cohort((scan,)).identity(), allow_nan=False)


@cache
def _bundle() -> dict[str, bytes]:
    """Return the files of a model."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_bundle(Path(folder) / "model", "T1w", extras={"notes/more.txt": b"x"})
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def _read_bundle(folder: Path, changed: dict[str, bytes]) -> None:
    place = folder / "model"
    for name, content in {**_bundle(), **changed}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    members(_read_model(place))


def _read_weights(path: Path) -> None:
    weights, record = path.read_bytes(), json.loads(_bundle()["metadata.json"])
    record["sha256"] = sha256(weights)  # a liar's digest is right
    told = json.dumps(record).encode()
    _read_bundle(path.parent, {"weights.safetensors": weights, "metadata.json": told})


def _read_model(path: Path) -> Bundle:
    bundle = load_bundle(path)
    ModelInfo.from_metadata(bundle.metadata, bundle.card)
    load_model(bundle)
    return bundle


def _checkpoints() -> list[bytes]:
    sizes = {"feature_dim": 4, "encoder_base_channels": 2, "decoder_width": 8}
    model = H2lo(H2loArchitecture(channels=2, n_basis=4, width=8))
    content = {"model_state_dict": model.state_dict(), "args": sizes, "epoch": 3}
    found = []
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        found.append(stream.getvalue())
    return found


def _texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _written(name: str, write: Callable[..., object], *args: object) -> Callable[[], list[bytes]]:
    """Give the document of a name that a function writes into a folder."""

    def seeds() -> list[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), *args)
            (path,) = Path(folder).rglob(name)
            return [path.read_bytes()]

    return seeds


_FOLD = (make_fold, "T1w", "h2lo", 0, Sample(subjects=("A", "B", "C")))
_SIDECAR = json.dumps(
    {"MagneticFieldStrength": "64 mT", "ImagingFrequency": [2.72], "Manufacturer": "Hyperfine",
     "ImagedNucleus": "1H", "IntendedFor": ["bids::../../x"], "Sources": ["bids:raw:../x"]}
)  # fmt: skip
_FILTER = json.dumps(
    {"t1w": {"acquisition": "MPRAGE", "run": [1, "02"], "session": "*", "reconstruction": None},
     "lf_t2w": {"subject": "sub-01", "extension": ".nii.gz"}}
)  # fmt: skip
_DESCRIPTION = json.dumps(
    {"Name": "a", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.18112/x", "DatasetType": "raw",
     "GeneratedBy": [{"Name": "H2LO-BIDS"}], "DatasetLinks": {"raw": "file:///raw"}}
)  # fmt: skip
_FOLDS = "contrast\tfold\tparticipant_id\tpart\n" + "".join(
    f"T1w\t0\tsub-{n}\t{part}\n"
    for n, part in (("01", "train"), ("02", "validation"), ("03", "test"))
)
_CONFIG = 'verbose = 1\nparticipant-label = ["01"]\nmem = "8G"\n[run]\na = 1\n'
_CARD = "# A\n\n- [a](https://e.org) `b` **c** _d_\n  1. x\n\n| a | b |\n|---|---|\n| 1 | <i> |\n\n> q\n\n```\nc\n```\n"

TARGETS = {
    "nifti": Target(_nifti, _read_nifti, "image.nii"),
    "nifti-gz": Target(
        lambda: [*_nifti(), *map(gzip.compress, _nifti())], _read_nifti, "image.nii.gz"
    ),
    "sidecar": Target(_texts(_SIDECAR), _read_sidecar, f"sub-01/ses-HF/anat/{STEM}.json"),
    "filter": Target(_texts(_FILTER), _read_filter, "filter.json"),
    "description": Target(_texts(_DESCRIPTION), _read_description, "raw/dataset_description.json"),
    "participants": Target(
        _texts("participant_id\tage\nsub-01\t3\n"),
        lambda path: "".join(read_participants(path.parent)).encode(),
        "participants.tsv",
    ),
    "folds-tsv": Target(
        _texts(_FOLDS), lambda path: read_folds(path, ["01", "02", "03"], "T1w"), "folds.tsv"
    ),
    "pair-record": Target(
        _written("*_desc-pairLF_T1w.json", write_pair, "01", 0), _read_record, "record.json"
    ),
    "config": Target(
        _texts(_CONFIG),
        lambda path: read_settings(["bids", "out", "participant", "--config-file", str(path)]),
        "config.toml",
    ),
    "scores": Target(_written("scores.tsv", *_FOLD), read_scores, "scores.tsv"),
    "report-record": Target(_reports, _read_report, "sub-01/figures/sub-01_desc-summary.json"),
    "group-record": Target(
        _written("record.json", *_FOLD),
        lambda path: write_group_report(path.parents[4], level="group"),
        "folds/T1w/h2lo/fold-0/record.json",
    ),
    "card": Target(_texts(_CARD), read_card),
    "bundle-metadata": Target(
        lambda: [_bundle()["metadata.json"]],
        lambda path: _read_bundle(path.parent, {"metadata.json": path.read_bytes()}),
        "metadata.json",
    ),
    "weights": Target(
        lambda: [_bundle()["weights.safetensors"]], _read_weights, "weights.safetensors"
    ),
    "checkpoint": Target(_checkpoints, _read_model, "T1w.pth"),
    "cohort": Target(
        _written("*_desc-lowfield_T1w.json", write_scan, "01", 0), _read_cohort, "sidecar.json"
    ),
    "name": Target(_texts(f"{STEM}.nii.gz", "sub-01_run-2_desc-a_T2w.nii"), _read_name),
}
