"""The phantom as a dataset: layout, sidecars, bytes, errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import assert_valid_bids
from nibabel.affines import apply_affine

from h2lo_bids.cli.phantom import build_parser, main
from h2lo_bids.errors import CannotCreateError, MissingInputError
from h2lo_bids.phantom.dataset import Plan, make_dataset
from h2lo_bids.phantom.lesions import LesionPlan


def simulate(folder: Path, **options) -> Path:
    make_dataset(Plan(folder, **options))
    return folder


def contents(folder: Path, **options) -> dict[str, bytes]:
    files = [p for p in simulate(folder, **options).rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def site(tmp_path_factory, ball_folder: Path) -> Path:
    return simulate(tmp_path_factory.mktemp("site"), resolution=4, labels=ball_folder)


@pytest.mark.slow
def test_a_scan_depends_on_seed_and_person_and_not_on_what_else_is_simulated(
    site: Path, tmp_path: Path, ball_folder: Path
) -> None:
    options = {"contrasts": ["T2w"], "acquisitions": ["cor"], "resolution": 4}
    few = contents(tmp_path / "few", labels=ball_folder, subjects=2, **options)
    other = contents(tmp_path / "other", labels=ball_folder, seed=1, **options)
    scans = [name for name in other if name.startswith("sub-01")]
    assert len(scans) == 4
    assert all(few[name] == (site / name).read_bytes() for name in scans)
    for name in scans:
        if name.endswith(".nii.gz"):
            assert len({few[name], other[name], few[name.replace("sub-01", "sub-02")]}) == 3


def test_layout_grids_and_sidecars(site: Path) -> None:
    assert_valid_bids(site)
    images = {p.name: p for p in site.rglob("*.nii.gz")}
    low = {f"ses-LF_acq-{a}_{c}" for a in ("axi", "cor", "sag", "iso") for c in ("T1w", "T2w")}
    stems = low | {"ses-HF_acq-MPRAGE_T1w", "ses-HF_T2w"}
    assert set(images) == {f"sub-01_{stem}.nii.gz" for stem in stems}
    for stem, shape, zooms in (
        ("ses-HF_acq-MPRAGE_T1w", (52, 64, 64), (4, 4, 4)),
        ("ses-LF_acq-cor_T2w", (120, 40, 146), (1.5, 5, 1.5)),
        ("ses-LF_acq-sag_T1w", (40, 136, 112), (5, 1.6, 1.6)),
    ):
        image = nib.load(images[f"sub-01_{stem}.nii.gz"])
        assert (image.shape, nib.aff2axcodes(image.affine)) == (shape, ("R", "A", "S"))
        np.testing.assert_allclose(image.header.get_zooms(), zooms, rtol=1e-6)
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)
    for name, path in images.items():
        sidecar = json.loads(path.with_name(name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["MagneticFieldStrength"] == (0.064 if "ses-LF" in name else 3)
        assert sidecar["EchoTime"] < 0.3 < sidecar["RepetitionTime"] < 10  # in seconds
        assert ("InversionTime" in sidecar) == ("T1w" in name)
    assert "Apache-2.0" in (site / "dataset_description.json").read_text()


def test_contrast_is_that_of_mri(site: Path) -> None:
    for name, signs in (("T1w", (1, 1)), ("T2w", (-1, -1))):
        for path in site.rglob(f"*{name}.nii.gz"):
            image = nib.load(path)
            where = np.moveaxis(np.indices(image.shape), 0, -1)
            radius = np.linalg.norm(apply_affine(image.affine, where), axis=-1)
            rings = ((26, 40), (56, 60), (0, 6))  # of white matter, cortex and ventricle
            levels = [np.median(image.get_fdata()[(radius > a) & (radius < b)]) for a, b in rings]
            assert (-np.sign(np.diff(levels)) == signs).all(), path.name


def test_the_command_of_a_dataset_asks_for_the_same_again() -> None:
    places = ((10.1234567, -2.0, 3.0),)
    plan = Plan(Path("x"), resolution=1.2345678, lesions=LesionPlan(1, (6.1234567,), places))
    asked = build_parser().parse_args(plan.command.split()[1:])
    assert (asked.resolution, asked.lesion_diameter) == (1.2345678, [6.1234567])
    assert asked.lesion_at == [[*places[0]]]


def test_unusable_folders_get_one_line(tmp_path: Path, refused) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "full: is not empty" in refused(CannotCreateError, simulate, tmp_path / "full")
    assert "file" in refused(CannotCreateError, simulate, tmp_path / "full" / "file" / "new")
    for labels in ("absent", "full"):
        given = {"labels": tmp_path / labels}
        assert labels in refused(MissingInputError, simulate, tmp_path / "new", **given)
        assert not (tmp_path / "new").exists()


def test_the_dataset_tells_of_the_sessions_that_are_there(site, tmp_path):
    options = {"resolution": 4, "contrasts": ["T1w"], "lesions": LesionPlan(1)}
    for folder in (site, simulate(tmp_path, acquisitions=(), **options)):  # one of the template
        there = sorted(path.name for path in (folder / "sub-01").iterdir())
        text = (folder / "README.md").read_text()
        assert sorted({*re.findall("`(ses-..)`", text)}) == there
        name = json.loads((folder / "dataset_description.json").read_text())["Name"]
        assert text.startswith(f"# {name}\n")
        assert ("low-field" in name) == ("ses-LF" in there)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("--subject 2", "did you mean --subjects?"),
        ("--negative-signal 0.5", "is no longer an option; use h2lo-phantom without it: low-field"),
        ("--subjects 0", "'0' is not a whole number from 1 to 1000000000"),
        ("--lesions 1 --lesion-diameter 99", "'99' is not a number from 1 to 40"),
    ],
)
def test_unusable_options_get_one_line(tmp_path, capsys, words, end) -> None:
    assert main([str(tmp_path / "new"), *words.split()]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert end in line
    assert not (tmp_path / "new").exists()
