"""The phantom as a dataset: layout, sidecars, bytes, errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import assert_valid_bids

from h2lo_bids.cli.phantom import main
from h2lo_bids.errors import CannotCreateError, MissingInputError
from h2lo_bids.phantom.dataset import Plan, make_dataset
from h2lo_bids.phantom.lesions import LesionPlan


def simulate(folder: Path, **options) -> Path:
    make_dataset(Plan(folder, **options))
    return folder


def contents(folder: Path, **options) -> dict[str, bytes]:
    files = [p for p in simulate(folder, **options).rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_same_call_same_bytes_and_another_seed_another_head(tmp_path: Path) -> None:
    options = {"resolution": 4, "contrasts": ["T1w"], "acquisitions": ["axi"]}
    one = contents(tmp_path / "one", seed=3, **options)
    two = contents(tmp_path / "two", seed=3, **options)
    other = contents(tmp_path / "other", seed=4, **options)
    assert one == two
    assert_valid_bids(tmp_path / "one")  # of a template, all others of label maps
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] != other[name]) or not name.endswith(".nii.gz")


@pytest.fixture(scope="module")
def site(tmp_path_factory, ball_folder: Path) -> Path:
    return simulate(tmp_path_factory.mktemp("site"), resolution=3, labels=ball_folder)


@pytest.mark.slow
def test_a_person_does_not_depend_on_what_else_is_simulated(
    site: Path, tmp_path: Path, ball_folder: Path
) -> None:
    options = {"subjects": 2, "contrasts": ["T2w"], "acquisitions": ["cor"], "resolution": 3}
    few = contents(tmp_path / "few", labels=ball_folder, **options)
    scans = [name for name in few if name.startswith("sub-01")]
    assert len(scans) == 4
    assert all(few[name] == (site / name).read_bytes() for name in scans)
    high = "sub-0{0}/ses-HF/anat/sub-0{0}_ses-HF_T2w.nii.gz"
    assert few[high.format(1)] != few[high.format(2)]


def test_layout_grids_and_sidecars(site: Path) -> None:
    assert_valid_bids(site)
    images = {p.name: p for p in site.rglob("*.nii.gz")}
    low = {f"ses-LF_acq-{a}_{c}" for a in ("axi", "cor", "sag", "iso") for c in ("T1w", "T2w")}
    stems = low | {"ses-HF_acq-MPRAGE_T1w", "ses-HF_T2w"}
    assert set(images) == {f"sub-01_{stem}.nii.gz" for stem in stems}
    for stem, shape, zooms in (
        ("ses-HF_acq-MPRAGE_T1w", (70, 86, 86), (3, 3, 3)),
        ("ses-LF_acq-axi_T1w", (112, 136, 40), (1.6, 1.6, 5)),
        ("ses-LF_acq-cor_T2w", (120, 40, 146), (1.5, 5, 1.5)),
        ("ses-LF_acq-sag_T1w", (40, 136, 112), (5, 1.6, 1.6)),
    ):
        image = nib.load(images[f"sub-01_{stem}.nii.gz"])
        assert image.shape == shape
        np.testing.assert_allclose(image.header.get_zooms(), zooms, rtol=1e-6)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)
    for name, path in images.items():
        sidecar = json.loads(path.with_name(name.replace(".nii.gz", ".json")).read_text())
        field = 0.064 if "ses-LF" in name else 3
        assert sidecar["MagneticFieldStrength"] == field
        assert sidecar["ImagingFrequency"] / 42.577 == pytest.approx(field, rel=1e-3)
        assert 0 < sidecar["EchoTime"] < 0.3
        assert 1 < sidecar["RepetitionTime"] < 10
        assert ("InversionTime" in sidecar) == ("T1w" in name)
    description = json.loads((site / "dataset_description.json").read_text())
    assert description["DatasetType"] == "raw"
    assert description["License"].startswith("Apache-2.0")


def test_contrast_is_that_of_mri(site: Path) -> None:
    def tissue(pattern: str) -> tuple[float, float, float, float]:
        """Return white matter, cortex, ventricle and background about the ball's middle."""
        image = nib.load(next(site.rglob(pattern)))
        data = image.get_fdata()
        where = np.moveaxis(np.indices(data.shape), 0, -1) @ image.affine[:3, :3].T
        radius = np.linalg.norm(where + image.affine[:3, 3], axis=-1)
        rings = ((26, 40), (56, 60), (0, 6))
        values = [float(np.median(data[(radius > a) & (radius < b)])) for a, b in rings]
        return values[0], values[1], values[2], float(np.median(data[:4, :4, :4]))

    white, cortex, fluid, air = tissue("*ses-HF*T1w.nii.gz")
    assert white > 1.2 * cortex > 1.2 * fluid
    # Rayleigh noise of the calibrated site, beside a middle that its receive array sees less.
    assert air < 0.15 * white
    white_low, cortex_low, fluid_low, _ = tissue("*acq-axi_T1w.nii.gz")
    assert white_low > cortex_low > fluid_low
    assert white_low / cortex_low < white / cortex
    for pattern in ("*ses-HF*T2w.nii.gz", "*acq-axi_T2w.nii.gz"):
        white, cortex, fluid, _ = tissue(pattern)
        assert fluid > 1.3 * cortex
        assert cortex > white


def test_unusable_folders_get_one_line(tmp_path: Path, refused) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "full: is not empty" in refused(CannotCreateError, simulate, tmp_path / "full")
    assert "file" in refused(CannotCreateError, simulate, tmp_path / "full" / "file" / "new")
    for labels in ("absent", "full"):
        given = {"labels": tmp_path / labels}
        assert labels in refused(MissingInputError, simulate, tmp_path / "new", **given)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("acquisitions", [(), ("axi",)])
def test_the_dataset_tells_of_the_sessions_that_are_there(tmp_path, ball_folder, acquisitions):
    options = {"resolution": 4, "contrasts": ["T1w"], "labels": ball_folder}
    simulate(tmp_path, acquisitions=acquisitions, lesions=LesionPlan(1), **options)
    there = sorted(path.name for path in (tmp_path / "sub-01").iterdir())
    text = (tmp_path / "README.md").read_text()
    assert sorted({*re.findall("`(ses-..)`", text)}) == there
    name = json.loads((tmp_path / "dataset_description.json").read_text())["Name"]
    assert text.startswith(f"# {name}\n")
    assert ("low-field" in name) == ("ses-LF" in there)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("--subject 2", "did you mean --subjects?"),
        ("--negative-signal 0.5", "is no longer an option; use h2lo-phantom without it: low-field"),
        ("--subjects 0", "'0' is not a whole number from 1 to 1000000000"),
        ("--resolution 9", "'9' is not a number from 0.5 to 4"),
        ("--lesions 1 --lesion-diameter 99", "'99' is not a number from 1 to 40"),
        ("--contrast", "expected at least one argument"),
        ("--lf obl", "obl"),
    ],
)
def test_unusable_options_get_one_line(tmp_path, capsys, words, end) -> None:
    assert main([str(tmp_path / "new"), *words.split()]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert end in line
    assert not (tmp_path / "new").exists()
