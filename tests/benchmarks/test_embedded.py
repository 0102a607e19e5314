"""The command that fits the embedded models, on tiny pairs in place of whole heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import embedded
import nibabel as nib
import numpy as np
import pytest
from problems import ball_pair, history
from training_pairs import TrainingPair

from h2lo_bids.models.bundle import load_bundle

SHAPE = (30, 34, 32)
LITTLE = {"validation_crops": 4, "batch": 1, "crop": 12}


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of label maps whose simulation is a tiny pair."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for n in range(1, 4):
        (folder / f"head_{n:02d}.nii.gz").touch()

    def small(
        path: Path, *, contrasts: tuple[str, ...], seed: int, inputs: int, distorted: bool
    ) -> dict:
        assert distorted == (seed == 1003)  # only what is tested on is as real pairs are
        pair = ball_pair(path.name, seed, SHAPE)
        # Scanners that differ in gain and offset, which robust scaling takes away.
        seen = tuple(100 * (n + 1) * pair.hf + n * pair.mask for n in range(inputs))
        return {c: TrainingPair(seen, 9 * pair.lf, pair.mask) for c in contrasts}

    def axial(path: Path, *, contrast: str, seed: int) -> tuple:
        pair = ball_pair(path.name, seed, SHAPE)
        affine = np.diag([1.6, 1.6, 5.0, 1.0])
        return nib.Nifti1Image(pair.lf, affine), nib.Nifti1Image(pair.mask.astype("u1"), affine)

    plan = embedded.embedded_options
    # Each pair costs a bias field, each crop of the validation a pass of the whole model.
    few = replace(embedded.SIMULATIONS["train"], variants=2, inputs=1)
    monkeypatch.setattr(embedded, "embedded_options", lambda *how: replace(plan(*how), **LITTLE))
    monkeypatch.setitem(embedded.SIMULATIONS, "train", few)
    monkeypatch.setattr(embedded, "simulate_training_pairs", small)
    monkeypatch.setattr(embedded, "simulate_axial_scan", axial)
    return folder


def run(labels: Path, out: Path, *more: str) -> int:
    values = ["--labels", str(labels), "--out", str(out), "--contrast", "T2w", "--steps", "4"]
    # Not every processor multiplies in bfloat16.
    return embedded.main([*values, "--precision", "fp32", *more])


def test_split_keeps_people_apart(tmp_path):
    for number in range(1, 9):
        (tmp_path / f"head_{number:02d}.nii.gz").touch()
    split = embedded.split_labels(tmp_path)
    numbers = {part: [n for n, _ in maps] for part, maps in split.items()}
    assert numbers == {"train": [1, 2, 3, 4, 5, 6], "validation": [7], "test": [8]}
    for path in tmp_path.iterdir():
        path.rename(path.with_name(f"._{path.name}"))  # what macOS writes beside files
    assert embedded.main(["--labels", str(tmp_path), "--out", str(tmp_path / "o")]) == 66


@pytest.mark.slow
def test_command_writes_a_bundle_with_its_figures(labels, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(labels, out, "--pairs-only") == 0
    kept = sorted((out / "work/pairs/T2w").iterdir())
    assert len(kept) == 2 + 1 + 1
    # Stopped, it goes on to the bundle.
    assert run(labels, out, "--max-steps", "2") == 0
    assert not (out / "h2lo_T2w").exists()
    assert run(labels, out) == 0
    assert [r["step"] for r in history(out / "work/T2w")] == ["1", "2", "3", "4"]
    bundle = load_bundle(out / "h2lo_T2w", contrast="T2w")
    m = bundle.metadata
    assert m["training_data"]["kind"] == "simulated"
    assert m["training_data"]["subjects"]["test"] == ["head_03.nii.gz"]
    assert (m["parameters"], bundle.scaling, bundle.frame.anchor) == (581_409, "robust", "brain")
    assert (m["noise"]["subjects"], m["noise"]["scan"] > 0) == (1, True)
    mean = m["held_out"]["mean"]
    assert set(mean) == {"h2lo", "identity"}
    # The identity's figure of the first scanner, computed apart from the package: both
    # images are divided by their maximum.
    pair = ball_pair("head_03.nii.gz", embedded.PAIR_SEED + 3, SHAPE)
    hf, lf = (
        (v * pair.mask / (v * pair.mask).max()).astype(np.float16) for v in (pair.hf, pair.lf)
    )
    error = np.mean((hf.astype(float) - lf.astype(float)) ** 2)
    first = m["held_out"]["subject head_03_seed-1003_max-3-distorted_1"]
    assert first["identity"]["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    for phrase in (
        "simulated pairs, not on real low-field scans", "Not for diagnosis", "HF image",
        f"{mean['h2lo']['psnr']:.2f}",
    ):  # fmt: skip
        assert phrase in bundle.card
    kept[0].write_bytes(b"")
    assert run(labels, out) == 65
    assert kept[0].name in capsys.readouterr().err
