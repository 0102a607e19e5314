"""Datasets of small stripped heads, of one or both field strengths, and untrained models."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

import h2lo_bids
from h2lo_bids.bids.dataset import find_validator
from h2lo_bids.cli.outputs import RUN
from h2lo_bids.cli.run import main
from h2lo_bids.processes import Job, Pool

SIDE, SPACING = 40, 4.0
ACQUIRED = {"EchoTime": 0.003, "RepetitionTime": 2.5, "FlipAngle": 8}
"""Of a scan, and of nothing that is made of it."""
BAD = "05"
"""The subject whose low-field image is damaged."""


def importable() -> dict[str, str]:
    """Return an environment in which this checkout can be imported from anywhere."""
    return {"PYTHONPATH": str(Path(h2lo_bids.__file__).resolve().parents[1])}


def shell(script: str, *before: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in which this checkout can be imported."""
    command, env = [*before, "bash", "-ec", script], {**os.environ, **importable()}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def start(bids: Path, out: Path, level: str, *words, code=None, popen=False):
    """Run the program as users do and check its exit code, or with `popen` only start it."""
    given = (sys.executable, "-m", "h2lo_bids.cli.run", bids, out, level, *words)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    how = {"args": [*map(str, given)], "env": {**os.environ, **importable()}, **pipes}
    if popen:
        return subprocess.Popen(**how)
    return _checked(subprocess.run(**how, check=False, timeout=1800), code)


def run(bids: Path, out: Path, level: str, *words, code=None):
    """Run the program in this process, which is quicker, and check its exit code."""
    given = (bids, out, level, *words)
    return _checked(subprocess.CompletedProcess(given, *call(*given)), code)


def _checked(done: subprocess.CompletedProcess[str], code: int | None):
    assert "Traceback" not in done.stdout + done.stderr
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


def call(*words: object, program: Callable[..., int] = main) -> tuple[int, str, str]:
    """Run a program, usually h2lo, in this process; return its exit code, output and errors."""
    with (
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        patch("h2lo_bids.cli.execution.Pool", KeptPool),
        patch("h2lo_bids.bids.dataset.find_validator", lambda: None),  # that of `start` is found
    ):
        try:
            code = program([*map(str, words)])
        except SystemExit as ended:  # by --help
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def promised(bids: Path, out: Path, level: str, *words) -> tuple[int, set[str]]:
    """Return exit code and files of a dry run."""
    code, text, _ = call(bids, out, level, *words, "--dry-run")
    lines = [line.removeprefix("write ") for line in text.splitlines() if line[:6] == "write "]
    listed = [str(Path(line.removesuffix(" (exists)")).relative_to(out)) for line in lines]
    assert len(set(listed)) == len(listed)
    return code, set(listed)


def written(out: Path) -> set[str]:
    """Return the files of a run, but for what coordinates it: locks and the work folder."""
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    runs = [p.parent.name for p in out.glob("logs/*/config.toml")]
    assert len(runs) == 1
    named = {name.replace(runs[0], RUN) for name in files}
    return {name for name in named if not name.startswith((".h2lo-work/", "logs/locks/"))}


LIBRARIES = ("h2lo_bids.cli.subject", "pipelines.participant", "pipelines.pairs", "ants",
             "lightning_fabric", __name__)  # fmt: skip
"""What some runs import ahead, and others do not."""


class KeptPool(Pool):
    """Has the server of earlier runs in this process serve those with the same threads.

    Each job is a fork of a server that nothing has changed, in the environment of its own run.
    """

    servers: ClassVar[dict[str, Pool]] = {}

    def __init__(self, env: Mapping[str, str], imports: Sequence[str] = ()) -> None:
        self.environment = dict(env)
        threads = env["OMP_NUM_THREADS"]  # libraries heed it when they are imported
        if threads not in self.servers:
            path = {"PYTHONPATH": f"{importable()['PYTHONPATH']}:{Path(__file__).parent}"}
            self.servers[threads] = Pool({**env, **path}, (*imports, *LIBRARIES))
        self.server = self.servers[threads]

    def run(self, jobs: Iterable[Job], **hooks) -> None:
        work = f"{__name__}:in_environment"
        told = (replace(j, work=work, args=(self.environment, j.work, j.args)) for j in jobs)
        self.server.run(told, **hooks)

    def close(self) -> None:
        """Leave the server to the next run."""


def in_environment(env: dict[str, str], work: str, args: tuple, send) -> object:
    """Do a job of a run that had this environment."""
    os.environ.clear()
    os.environ.update(env)
    module, _, name = work.partition(":")
    return getattr(importlib.import_module(module), name)(*args, send)


def assert_valid_bids(folder: Path) -> None:
    """Let the BIDS validator, which `make test` installs, find no error in a dataset."""
    validator = find_validator()
    assert validator, "bids-validator-deno is missing; install the extra `test`"
    command = [str(validator), str(folder), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def assert_whole_derivative(folder: Path) -> None:
    """Let outputs be valid BIDS, and their sidecars name sources that are there or declared."""
    (folder / ".tmp-abc_x.nii.gz").touch()  # of another run
    assert_valid_bids(folder)
    links = json.loads((folder / "dataset_description.json").read_text())["DatasetLinks"]
    sidecars = [json.loads(path.read_text()) for path in folder.glob("sub-*/**/anat/*.json")]
    assert sidecars
    for content in sidecars:
        assert not {"MagneticFieldStrength", *ACQUIRED} & set(content)
        for scheme, dataset, *path in (uri.split(":", 2) for uri in content["Sources"]):
            assert scheme != "bids" or dataset in links or (folder / path[0]).is_file()


def rows_of(table: Path) -> list[dict[str, str]]:
    """Read a table of values that are separated by tabs, or by commas where its name says so."""
    with table.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="," if table.suffix == ".csv" else "\t"))


def results(out: Path) -> dict[str, bytes]:
    """Return the bytes of what fits of two folds compute, besides times."""
    names = ["splits.tsv", "splits.json", "models/h2lo_T1w/weights.safetensors"]
    names += [p.name for p in out.glob("group_*")]
    same = ("scores.tsv", "scores.json", "pictures.npz", "bundle/weights.safetensors")
    names += [f"folds/T1w/h2lo/fold-{k}/{name}" for k in (0, 1) for name in same]
    return {name: (out / name).read_bytes() for name in names}


def head(seed: int, shape=(SIDE, SIDE, SIDE)) -> np.ndarray:
    """Make an ellipsoid with a smooth pattern inside and zero outside."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = sum((a / s) ** 2 for a, s in zip(axes, (0.6, 0.75, 0.65), strict=True))
    waves = sum(np.cos(5 * a * rng.uniform(0.5, 1.5) + rng.uniform(0, 6)) for a in axes)
    return np.where(radius < 1, 600 + 100 * waves, 0).astype(np.float32)


def write_scan(path: Path, seed: int = 0, data: np.ndarray | None = None, tesla: float = 3) -> Path:
    """Write one scan and its sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = head(seed) if data is None else data
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -SPACING * (SIDE - 1) / 2
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    path.with_name(path.name.split(".")[0] + ".json").write_text(
        json.dumps({"MagneticFieldStrength": tesla, **ACQUIRED})
    )
    return path


def _describe(root: Path) -> None:
    """Write what stands at the root of a dataset."""
    root.mkdir(parents=True)
    description = {"Name": "heads", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    (root / "README").write_text("Small heads that a test made of ellipsoids.\n" * 5)


def write_dataset(root: Path, subjects: int = 1, suffixes=("T1w", "T2w")) -> Path:
    """Write a dataset with one scan per contrast of each subject."""
    _describe(root)
    for number in range(1, subjects + 1):
        for suffix in suffixes:
            name = f"sub-{number:02d}_{suffix}.nii.gz"
            write_scan(root / f"sub-{number:02d}" / "anat" / name, seed=number)
    return root


def add_subject(bids: Path, label: str) -> Path:
    """Copy the first subject; give the new one's folder."""
    new = bids / f"sub-{label}"
    shutil.copytree(bids / "sub-01", new)
    for file in [path for path in new.rglob("*") if path.is_file()]:
        file.rename(file.with_name(file.name.replace("sub-01", new.name)))
    return new


def _save(folder: Path, network, contrast: str, metadata: dict, **more) -> Path:
    """Save an untrained network with a small frame."""
    from h2lo_bids.models.bundle import save_bundle
    from h2lo_bids.models.frame import Frame

    given = {"frame": Frame((SIDE,) * 3, (SPACING,) * 3), "card": "# Untrained\n", **more}
    return save_bundle(folder, network, contrast=contrast, metadata=metadata, **given).path


def _operator(seed: int):
    import torch

    from h2lo_bids.models.h2lo import H2lo, H2loArchitecture

    torch.manual_seed(seed)
    model = H2lo(H2loArchitecture(channels=4, n_basis=8, width=16))
    model.bias.data.fill_(0.5)  # so that little is cut at 0 or 1
    return model


def write_bundle(folder: Path, contrast: str, seed: int = 0, **more) -> Path:
    """Save an untrained operator whose metadata are whole, or those that are given."""
    metadata = {
        "name": f"untrained {contrast}",
        "version": "0",
        "value_range": [0, 1],
        "source_field_strength": 3.0,
        "target_field_strength": 0.064,
        "training_data": {"kind": "simulated", "description": "none", "licence": "CC0"},
    }
    return _save(folder, _operator(seed), contrast, more.pop("metadata", metadata), **more)


def write_enhancer(folder: Path, contrast: str, **more) -> Path:
    """Save an untrained network, which is the identity."""
    from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture

    network = Pfsr(PfsrArchitecture(features=2, groups=1, blocks=1, reduction=1))
    told = {"name": "untrained", "value_range": [0, 1], "training_data": {"kind": "simulated"}}
    return _save(folder / f"pfsr_{contrast}", network, contrast, told, method="pfsr", **more)


def white_noise(deviation: float, spacing: tuple[float, ...], shape: tuple[int, ...]):
    """Return a model of white noise of two subjects, of one deviation at every intensity."""
    from h2lo_bids.synthesis.noise import PROBES, NoiseModel

    return NoiseModel(
        intensities=(0.0, 1.0), deviations=(deviation,) * 2, quantiles=tuple(PROBES),
        frequencies=((0.0, 1.0),) * 3, power=(0.0,) * 8, spacing=spacing, shape=shape, subjects=2,
    )  # fmt: skip


def write_whole_bundle(folder: Path, contrast: str) -> Path:
    """Save an untrained operator with a noise model and two members."""
    from h2lo_bids.models.bundle import member_files

    noise = white_noise(0.05, (SPACING,) * 3, (16, 16, 16))
    members = [
        _save(folder / f"fold-{n}", _operator(n), contrast, {"name": f"fold-{n}"}) for n in range(2)
    ]
    metadata = {"name": "whole", "training_data": {"kind": "none"}, "noise": asdict(noise)}
    return _save(folder / "whole", _operator(9), contrast, metadata, extras=member_files(members))


def write_masks(root: Path, bids: Path) -> Path:
    """Write a lesion mask for every scan of `write_dataset`: three boxes in the brain."""
    mask = np.zeros((SIDE,) * 3)
    for x, y, z, size in ((14, 18, 20, 3), (24, 24, 18, 2), (15, 25, 24, 4)):
        mask[x : x + size, y : y + size, z : z + size] = 1
    for scan in bids.glob("sub-*/anat/*_T1w.nii.gz"):
        name = scan.name.replace("_T1w", "_label-lesion_mask")
        write_scan(root / scan.parent.relative_to(bids) / name, data=mask)
    return root


def write_pairs(root: Path, subjects: int = 5) -> Path:
    """Write subjects with one scan of each field strength; the last one is damaged."""
    _describe(root)
    for number in range(1, subjects + 1):
        label = f"{number:02d}"
        high = head(number)
        blobs = gaussian_filter(np.random.default_rng(number).normal(size=high.shape), 2.0)
        # With structure enough to be registered.
        high = np.where(high > 0, high + 2000 * blobs, 0).clip(0).astype(np.float32)
        low = np.where(high > 0, 300 + 0.4 * gaussian_filter(high, 1.0), 0).astype(np.float32)
        for session, tesla, data in (("HF", 3.0, high), ("LF", 0.064, low)):
            stem = root / f"sub-{label}/ses-{session}/anat/sub-{label}_ses-{session}_T1w"
            write_scan(stem.with_suffix(".nii.gz"), data=data, tesla=tesla)
    damaged = root / f"sub-{BAD}/ses-LF/anat/sub-{BAD}_ses-LF_T1w.nii.gz"
    damaged.write_bytes(b"\x1f\x8bnothing")
    return root


def make(path: Path, when: float | None = None, text: str = "") -> None:
    """Write a file, by its stamp at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if when is not None:
        os.utime(path, (when, when))


def record(
    folder: Path, stage: str, name: str, state: str = "0 5_0", when: float | None = None
) -> None:
    """Record how a task ended, as its script does."""
    make(folder / "state" / stage / name, when, f"{state}\n")
