"""deepbet on heads whose brain is known, and on the real scans."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain import extract_brain, looks_stripped
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import resample_mask

OUTSIDE = (0, *range(500, 600))
T1_LIKE = {0: 2, 24: 25, 511: 120, 507: 70, 515: 15, 506: 40, 516: 130, 509: 130, 502: 25, 512: 60}
T2_LIKE = {0: 2, 24: 160, 511: 90, 507: 50, 515: 10, 506: 150, 516: 90, 509: 90, 502: 150, 512: 70}
CSF_IDS = (4, 5, 14, 15, 24, 43, 44)
WM_IDS = (2, 41, 7, 46, 16)


def simulate(
    labels: nib.Nifti1Image, means: dict[int, float], white: float, grey: float, csf: float
):
    """Paint a head by its labels, blurred and with Rician noise."""
    from scipy.ndimage import gaussian_filter

    ids = np.asarray(labels.dataobj).astype(int)
    table = np.full(max(600, ids.max() + 1), float(grey))
    table[500:] = 60
    table[list(WM_IDS)], table[list(CSF_IDS)] = white, csf
    for label, mean in means.items():
        table[label] = mean
    rng = np.random.default_rng(2)
    clean = gaussian_filter(table[ids], 0.6)
    noisy = np.hypot(clean + rng.normal(0, 4, ids.shape), rng.normal(0, 4, ids.shape))
    return nib.Nifti1Image(noisy.astype(np.float32), labels.affine), ~np.isin(ids, OUTSIDE)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.slow
@pytest.mark.parametrize(("contrast", "thick"), [("T1w", False), ("T2w", True)])
def test_brain_of_a_labelled_head(shared_data: Path, contrast: str, thick: bool) -> None:
    labels = nib.load(shared_data / "labels" / "training_seg_01.nii.gz")
    painted = (T1_LIKE, 110, 80, 25) if contrast == "T1w" else (T2_LIKE, 60, 85, 160)
    image, brain = simulate(labels, *painted)
    if thick:  # slices of 5 mm along the array's last axis
        data = image.get_fdata(dtype=np.float32)[..., :255].reshape(256, 256, 51, 5).mean(-1)
        step = nib.affines.from_matvec(np.diag([1, 1, 5.0]), [0, 0, 2])
        image = nib.Nifti1Image(data, image.affine @ step)
        truth = nib.Nifti1Image(brain.astype(np.uint8), labels.affine)
        brain = np.asarray(resample_mask(truth, image.shape, image.affine).dataobj) > 0
    result = extract_brain(image, threads=2)
    assert result.method == "deepbet"
    assert dice(np.asarray(result.image.dataobj) > 0, brain) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("hf/colin27_ch2", 1800, 2100),
        ("hf/openms_long_patient01_study2_T1W", 1250, 1500),
        ("hf/openms_long_patient01_study2_T2W", 1250, 1500),
        ("lf/MS017_T1", 1350, 1700),
    ],
)
def test_real_scans(shared_data: Path, name: str, low: float, high: float) -> None:
    """Volumes as read off the contours by eye; the stripped scan is then recognised."""
    image = load_checked(shared_data / f"{name}.nii.gz").image
    assert not looks_stripped(image)
    result = extract_brain(image, method="auto", threads=2)
    assert result.method == "deepbet"
    assert result.notes == ()
    assert low < result.volume_ml < high
    mask = np.asarray(result.image.dataobj)
    stripped = extract_brain(nib.Nifti1Image(image.get_fdata() * mask, image.affine))
    assert stripped.method == "stripped"
    assert dice(np.asarray(stripped.image.dataobj) > 0, mask > 0) > 0.995


def test_defaced_real_heads_are_not_taken_as_stripped(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("[hl]f/*.nii.gz")):
        image = nib.as_closest_canonical(load_checked(path).image)
        if looks_stripped(image):
            continue  # whoever shared it took the skull away
        data = image.get_fdata(dtype=np.float32).copy()
        a, b = int(data.shape[1] * 0.7), int(data.shape[2] * 0.4)
        data[:, a:, :b] = 0
        data[data < np.percentile(data[data > 0], 25)] = 0  # background set to zero
        assert not looks_stripped(nib.Nifti1Image(data, image.affine)), path.name


@pytest.mark.slow
def test_orientation_of_storage_does_not_matter(shared_data: Path) -> None:
    image = load_checked(shared_data / "hf" / "colin27_ch2.nii.gz").image
    change = np.array([[2, -1], [0, 1], [1, -1]])
    turned = extract_brain(image.as_reoriented(change)).image
    straight = extract_brain(image).image.as_reoriented(change)
    np.testing.assert_array_equal(np.asarray(turned.dataobj), np.asarray(straight.dataobj))


def test_a_network_that_sees_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        def run_model(self, volume: np.ndarray) -> np.ndarray:
            raise AssertionError("Not enough foreground")

    monkeypatch.setattr("deepbet.BrainExtraction", lambda no_gpu: Blind())
    image = nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4))
    image.set_filename("sub-01_T1w.nii.gz")
    with pytest.raises(BadDataError, match=r"sub-01_T1w.*no brain") as caught:
        extract_brain(image)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_runs_without_home_or_writing(tmp_path: Path) -> None:
    code = (
        "import contextlib\nimport numpy as np\n"
        "from h2lo_bids.errors import BadDataError\n"
        "from h2lo_bids.imaging.brain import deepbet_mask\n"
        "with contextlib.suppress(BadDataError):\n"
        "    deepbet_mask(np.random.default_rng(0).random((48, 48, 48)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:torch", "-c", code],
        env={"HOME": "/nonexistent", "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
