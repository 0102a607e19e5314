"""A subject's pairs from small brains without skull, whose true place is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter, map_coordinates

from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import BadDataError
from h2lo_bids.models.frame import Frame
from h2lo_bids.training.prepared import find_prepared, read_prepared
from pipelines.engine import RunOptions
from pipelines.pairs import prepare_pairs
from pipelines.workflows.pair import PairOptions, init_pair_wf

SHAPE, FRAME = (44, 52, 44), Frame((36, 44, 36), (3.0, 3.0, 3.0))
MOVE = from_matvec(nib.eulerangles.euler2mat(0.08, -0.05, 0.06), [4, -6, 3])
GRIDS = {
    "axi": ((64, 76, 28), (2, 2, 5)),
    "cor": ((64, 32, 70), (2, 5, 2)),
    "sag": ((28, 76, 70), (5, 2, 2)),
}


def _affine(shape, spacing) -> np.ndarray:
    spacing = np.broadcast_to(np.asarray(spacing, float), 3)
    return from_matvec(np.diag(spacing), -spacing * (np.asarray(shape) - 1) / 2)


def _brain() -> nib.Nifti1Image:
    affine = _affine(SHAPE, 3.0)
    texture = gaussian_filter(np.random.default_rng(4).normal(size=SHAPE), 1.6)
    at = apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1))
    inside = ((at / (50, 60, 50)) ** 2).sum(-1) < 1
    values = np.where(inside, (400 + 100 * texture / texture.std()).clip(20), 0)
    image = nib.Nifti1Image(values.astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image


def _seen(brain: nib.Nifti1Image, motion: np.ndarray, shape, spacing) -> nib.Nifti1Image:
    affine = _affine(shape, spacing)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    there = np.linalg.inv(brain.affine) @ np.linalg.inv(motion) @ affine
    at = np.moveaxis(apply_affine(there, grid), -1, 0)
    values = 20 * np.sqrt(map_coordinates(brain.get_fdata(), at, order=1))
    image = nib.Nifti1Image(values.astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image


def _scan(root: Path, session: str, image, acq: str | None = None) -> Scan:
    entities = (("sub", "01"), ("ses", session), *((("acq", acq),) if acq else ()))
    stem = "_".join([*(f"{k}-{v}" for k, v in entities), "T1w"])
    path = root / "sub-01" / f"ses-{session}" / "anat" / f"{stem}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    meta = {"Manufacturer": "Nobody (simulated)"}
    return Scan(path, "01", session, "T1w", entities, 3.0, "MagneticFieldStrength", meta)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> PairSource:
    root = tmp_path_factory.mktemp("raw")
    brain = _brain()
    low = tuple(_scan(root, "LF", _seen(brain, MOVE, *g), acq) for acq, g in GRIDS.items())
    return PairSource(_scan(root, "HF", brain), low, "mrr", False)


def _prepare(out: Path, *pairs: PairSource, **options):
    lines: list[str] = []
    found = prepare_pairs(
        "01",
        pairs,
        out_dir=out / "out",
        work_dir=out / "work",
        frame=FRAME,
        options=RunOptions(out / "logs"),
        tell=lines.append,
        **options,
    )
    return found, lines


@pytest.mark.slow
def test_a_pair_from_scans_to_training(source, tmp_path) -> None:
    broken = replace(source.hf, entities=(*source.hf.entities, ("run", "2")))
    broken = replace(broken, path=tmp_path / "sub-01" / "ses-HF" / "anat" / f"{broken.stem}.nii.gz")
    broken.path.parent.mkdir(parents=True)
    broken.path.write_bytes(b"not an image")
    found, _ = _prepare(tmp_path, source, replace(source, hf=broken))
    assert found.made == (source.name,)
    assert [item.name for item in found.failed] == [broken.stem]
    assert str(broken.path) in found.failed[0].message

    (pair,) = find_prepared(tmp_path / "out", contrast="T1w")
    assert not pair.check.flagged, pair.check
    assert (pair.simulated, pair.fusion) == (True, "mrr")
    assert pair.sources[0] == "bids:raw:sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz"
    assert pair.hf.name == "sub-01_ses-HF_res-model_desc-pairHF_T1w.nii.gz"
    assert pair.mask.name == "sub-01_ses-HF_res-model_desc-pair_mask.nii.gz"
    assert pair.check.figures["dice"] > 0.9
    data = read_prepared(pair)
    assert (data.name, data.shape) == ("01", FRAME.shape)
    assert not data.hf[~data.mask].any()
    assert not data.lf[~data.mask].any()
    assert data.hf.max() == data.lf.max() == 1
    # Of one spacing, the high-field voxels are copied: the scan's values over its largest.
    own = _brain().get_fdata()
    assert np.isin(np.rint(data.hf[data.mask] * own.max()), own).all()
    truth = np.sqrt(data.hf[data.mask])
    assert np.corrcoef(truth, data.lf[data.mask])[0, 1] > 0.9

    again, lines = _prepare(tmp_path, source)
    assert (again.kept, again.made) == ((source.name,), ())
    assert any("already" in line for line in lines)
    other, _ = _prepare(tmp_path, source, seed=7)
    assert other.made == (source.name,)
    pair.lf.write_bytes(b"x")
    with pytest.raises(BadDataError, match="cannot be read"):
        read_prepared(pair)


@pytest.mark.slow
def test_a_deliberately_misregistered_pair_is_flagged(source, tmp_path) -> None:
    """A precomputed low-field image that lies 8 mm away from where it should."""
    shift = from_matvec(np.eye(3), [0, 8, 0])
    brain = _brain()
    for motion, flagged in ((np.eye(4), False), (shift, True)):
        out = tmp_path / str(flagged)
        low = _scan(out / "mrr", "LF", _seen(brain, motion, SHAPE, 3.0))
        pair = PairSource(source.hf, (replace(low, dataset="mrr"),), "none", True)
        assert _prepare(out, pair)[0].made
        (made,) = find_prepared(out / "out", contrast="T1w")
        assert made.check.flagged == flagged, made.check
        assert bool(made.check.reasons) == flagged
        assert made.sources[1].startswith("bids:mrr:")
        record = json.loads(made.record.read_text())
        assert record["RegistrationMethod"].startswith("none")
        assert record["SpatialReference"] == source.hf.uri


def test_one_simulated_scan_makes_a_pair_simulated(source, tmp_path) -> None:
    silent = {"Manufacturer": "GE"}
    real = replace(
        source.hf, path=tmp_path / "real" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", metadata=silent
    )
    made = replace(real, path=tmp_path / "made" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    for name, maker in (("real", "scanner"), ("made", "h2lo-phantom")):
        description = tmp_path / name / "dataset_description.json"
        description.parent.mkdir()
        description.write_text(json.dumps({"GeneratedBy": [{"Name": maker}]}))

    def simulated(high: Scan, low: Scan) -> bool:
        pair = PairSource(high, (low,), "none")
        workflow = init_pair_wf(
            pair=pair, fingerprint="", out_dir=tmp_path, options=PairOptions(FRAME)
        )
        return workflow.get_node("write").inputs.sidecars["lf"]["Simulated"]

    assert not simulated(real, real)
    assert simulated(real, made)
    assert simulated(real, source.lf[0])


def test_a_record_that_is_none(tmp_path) -> None:
    record = tmp_path / "sub-01" / "anat" / "sub-01_res-model_desc-pairLF_T2w.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    with pytest.raises(BadDataError, match="not the record of a pair"):
        find_prepared(tmp_path, contrast="T2w")
    lines: list[str] = []
    assert find_prepared(tmp_path, contrast="T2w", damaged=lines.append) == ()
    assert [str(record) in line for line in lines] == [True]
    assert find_prepared(tmp_path, contrast="T2w", subjects=("02",)) == ()
