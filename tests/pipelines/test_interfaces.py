"""The thin interfaces on small arrays."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from shapes import ball, reoriented, stored

from h2lo_bids.errors import BadDataError, InputOutputError, MissingInputError, TemporaryError
from h2lo_bids.imaging.resample import array_lines
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.models.frame import Frame
from pipelines.engine import interface
from pipelines.lowfield_steps import AlignScan
from pipelines.outputs import WriteDerivative, WriteRecord
from pipelines.scan_steps import FindBrain, Prepare, RegisterToTemplate, Synthesize

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MODEL = {"frame": Frame((64,) * 3, (2.0,) * 3).to_dict(), "scaling": "max", "contrast": "T1w"}


def _save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> str:
    nib.save(stored(data, affine), path)
    return str(path)


def _ball(side: int = 60) -> np.ndarray:
    values = 100 + 50 * np.random.default_rng(0).random((side,) * 3, np.float32)
    return values * ball(values.shape, 0.44 * side)


@pytest.fixture
def head(tmp_path) -> dict[str, str]:
    """Return a ball and its mask, as most steps take them."""
    mask = _save(_ball() > 0, tmp_path / "inside.nii.gz")
    return {"checked": _save(_ball(), tmp_path / "ball.nii"), "mask_file": mask}


def test_a_given_mask_that_cannot_be_used_is_an_error_of_its_file(tmp_path, head):
    given = _save(0 * _ball(), tmp_path / "empty.nii")
    found = FindBrain(in_file=head["checked"], given_mask=given).run(cwd=tmp_path).outputs
    assert found.error.startswith(f"BadDataError: {given}: ")
    assert "one is computed" in found.error


def test_a_template_s_mask_may_be_on_another_grid_and_soft(tmp_path, monkeypatch, head):
    data, scan, registration = _ball(), head["checked"], "h2lo_bids.imaging.registration"
    monkeypatch.setattr(f"{registration}.register", lambda *_, **__: (Path(scan), Path(scan)))
    monkeypatch.setattr(f"{registration}.warp", lambda image, reference, _: reference)
    template = _save(np.where(data > 0, data, 1)[..., None], tmp_path / "template.nii")
    finer = np.kron(data > 0, np.full((2, 2, 2), 0.8, np.float32))
    mask = _save(finer, tmp_path / "mask.nii", from_matvec(np.eye(3), [-0.5] * 3))
    given = {"in_file": scan, "mask_file": head["mask_file"]}
    given |= {"template": template, "template_mask": mask}
    made = RegisterToTemplate(**given).run(cwd=tmp_path).outputs
    assert nib.load(made.mask_file).shape == data.shape  # of a template with an axis of one volume
    for file in (made.out_file, made.mask_file):
        header = nib.load(file).header
        assert header.get_xyzt_units()[0] == "mm"
        assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)
    given["template_mask"] = _save(1 - 0.9 * (data > 0), tmp_path / "no_mask.nii")
    with pytest.raises(BadDataError, match=r"no_mask\.nii: this brain mask"):
        RegisterToTemplate(**given).run(cwd=tmp_path)


def test_a_session_shares_its_mask_where_the_masks_agree(tmp_path, head):
    own = _ball() > 0
    close = own.copy()
    close[30] = 0
    donor = _save(close, tmp_path / "donor.nii.gz")
    for method, told, wanted in (("deepbet", "shared", close), ("given", "given", own)):
        node = Prepare(**head, method=method, donor_mask=donor, **MODEL)
        out = node.run(cwd=tmp_path).outputs
        np.testing.assert_array_equal(np.asarray(nib.load(out.mask_file).dataobj), wanted)
        assert out.method.startswith(told)


def test_an_offset_that_is_cut_from_a_pair_is_warned_of(tmp_path, head):
    """Of participant's images the range check says it, with what became of the offset."""
    data = _ball()
    offset = np.quantile(data[data > 0], 0.2)
    scan = _save(np.where(data > 0, data - offset, 0), tmp_path / "offset.nii")
    given = {**head, "checked": scan, "name": "/bids/a.nii"}

    def lines(node) -> list[str]:
        return [line.partition(";")[0] for line in node.run(cwd=tmp_path).outputs.warnings]

    noticed = ["/bids/a.nii: 20% of its brain is negative"]
    assert lines(Prepare(**given, **MODEL)) == noticed
    assert lines(Prepare(**given, native=True, **MODEL)) == []
    pair = {"high": scan, "high_mask": head["mask_file"], "registered": True}
    assert lines(AlignScan(**given, **pair)) == noticed
    assert lines(AlignScan(**given, **pair, number=1, reference=1)) == []
    plain = given | head
    assert lines(Prepare(**plain, **MODEL)) == lines(AlignScan(**plain, **pair)) == []


def test_an_array_of_another_extent_than_the_model_s_is_warned_of(tmp_path, head):
    """A checkpoint of the authors takes the scan's array, here 60 voxels of 2 mm, for its frame."""
    for kind in ({"shape": (124,) * 3, "anchor": "array"}, {"shape": (140,) * 3}):
        assert array_lines(Frame(**kind), (120,) * 3, "a.nii") == []
    frame = Frame((140,) * 3, anchor="array").to_dict()
    step = Prepare(**head, native=True, name="a.nii", **MODEL | {"frame": frame})
    (line,) = step.run(cwd=tmp_path).outputs.warnings
    assert "here 120 x 120 x 120 mm" in line


def test_each_grid_has_the_facts_of_its_own_scaling(tmp_path):
    """On voxels of 2 and 3 mm the receive field measures differently."""
    data = _ball(40) * np.linspace(0.95, 1.05, 40)
    scan, mask = _save(data, tmp_path / "a.nii"), _save(data > 0, tmp_path / "m.nii")
    coarse = {"frame": Frame((30,) * 3, (3.0,) * 3).to_dict(), "contrast": "T1w"}
    step = Prepare(checked=scan, mask_file=mask, native=True, scaling="robust", **coarse)
    found = step.run(cwd=tmp_path).outputs
    frame, own = (
        facts["IntensityScaling"]["ReceiveFieldRatio"]
        for facts in (found.scaling, found.native_scaling)
    )
    assert frame == pytest.approx(found.profile["field_ratio"], abs=5e-4)
    assert frame != own


def _write(folder: Path, **inputs) -> dict:
    """Write a file to the output folder; return its sidecar."""
    (folder / "x.nii.gz").write_bytes(b"content")
    given = {"in_file": folder / "x.nii.gz", "out_dir": folder / "out", "out_name": "b.nii.gz"}
    WriteDerivative(**given, **inputs).run(cwd=folder)
    return json.loads((folder / "out" / "b.json").read_text())


def test_two_runs_never_mix_a_sidecar_with_the_other_s_image(tmp_path, monkeypatch):
    """The second run begins when the first has written its sidecar, and may write it all."""
    from pipelines import outputs

    write, second = outputs.atomic_write_bytes, ThreadPoolExecutor(1)
    begun: list[Future] = []

    def make(name: str) -> None:
        source = tmp_path / f"{name}.nii.gz"
        source.write_bytes(name.encode())
        outputs.write_derivative(
            tmp_path, str(source), str(tmp_path), "sub-01/x.nii.gz", {"Made": name}
        )

    def late(path, data):
        if not begun:
            begun.append(second.submit(make, "b"))
            wait(begun, timeout=1)
        write(path, data)

    monkeypatch.setattr(outputs, "atomic_write_bytes", late)
    make("a")
    begun[0].result()
    folder = tmp_path / "sub-01"
    made = json.loads((folder / "x.json").read_text())["Made"]
    assert made == (folder / "x.nii.gz").read_text()


def test_a_sidecar_names_its_device_and_no_mask_that_was_not_taken(tmp_path):
    known = {"Sources": ["bids:raw:a"], "Device": "cuda"}
    found = {"device": "cpu", "mask_method": "deepbet 1", "mask_sources": ["bids::other"]}
    told = {**known, "Device": "cpu", "BrainExtractionMethod": "deepbet 1"}
    assert _write(tmp_path, sidecar=known, **found) == told


@pytest.mark.parametrize(("lost", "method"), [((0,), "given as"), ((0, 2), "shared with")])
def test_a_fused_image_names_the_scans_that_were_used_alone(tmp_path, lost, method):
    scans = ["bids:raw:axi", "bids:raw:cor", "bids:raw:sag"]
    used = [scan for number, scan in enumerate(scans) if number not in lost]
    errors = ["BadDataError: x" if number in lost else "" for number in range(3)]
    known = {"Fusion": "mrr", "RegistrationMethod": "rigid", "SpatialReference": scans[0]}
    known |= {"Sources": [*scans, "bids::mask"]}
    masks = {"mask_method": method, "mask_sources": ["a", "b", "c"]}
    content = _write(tmp_path, sidecar=known, errors=errors, **masks)
    assert content["Sources"] == [*used, "bids::mask", "b"]  # that of the first one used
    assert content["SpatialReference"] == used[0]
    assert content["Fusion"] == ("mrr" if len(used) > 1 else "none")
    assert ("RegistrationMethod" in content) == (len(used) > 1)


@pytest.mark.parametrize(
    ("trained", "lost", "warned"),
    [
        (["none"], [], False),  # as of scans that were fused before
        (["mrr"], [0, 2], True),
        (["mrr", "none"], [1, 2], False),
        (["mrr"], [0], False),
    ],
)
def test_an_input_of_another_kind_than_the_model_was_trained_on_is_warned_of(
    tmp_path, head, trained, lost, warned
):
    errors = ["BadDataError: x" if number in lost else "" for number in range(3)]
    step = WriteRecord(
        record={}, out_dir=str(tmp_path), mask=head["checked"], mask_method="given",
        outputs=[], figures=[], figure_files=[], device="cpu", parts=["a", "b", "c"],
        errors=errors, coverage=[1.0] * errors.count(""), trained=trained,
    )  # fmt: skip
    record = step.run(cwd=tmp_path).outputs.record
    assert record["source"] == "abc"[errors.index("")]
    assert any("the input is a single scan" in line for line in record["warnings"]) == warned


def test_a_full_disk_is_no_fault_of_the_scan_that_is_aligned(tmp_path, monkeypatch, head):
    given = {**head, "high": head["checked"], "high_mask": head["mask_file"]}
    raised: list[Exception] = [BadDataError("odd"), InputOutputError("full")]

    def align(*_, **__):
        raise raised.pop(0)

    monkeypatch.setattr("h2lo_bids.imaging.alignment.align", align)
    step = AlignScan(**given, number=1, reference=2)
    assert step.run(cwd=tmp_path).outputs.error == "BadDataError: odd"  # fused without it
    with pytest.raises(InputOutputError, match="full"):  # made again by the next run
        step.run(cwd=tmp_path)


def test_threads_are_set_before_the_work_begins(tmp_path, monkeypatch):
    seen = {}

    def looks(folder, threads=1):
        seen.update(os.environ, threads=str(threads))
        return {}

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
             "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, "9")
    interface(looks)(num_threads=2).run(cwd=tmp_path)
    assert {seen[name] for name in ("threads", *names)} == {"2"}


def test_an_image_on_the_same_grid_is_taken_over(tmp_path):
    """Of the same mask on the same voxels; else the model, which is not there, is asked for."""
    mask = _ball(20) > 0
    made = np.random.default_rng(3).random(mask.shape, np.float32)
    given = {
        "model": str(tmp_path / "absent"), "sha256": "ab", "architecture": {}, "frame": {"a": 1},
        "contrast": "T1w",
        "volume": _save(made, tmp_path / "volume.nii"),
        "mask_file": _save(mask, tmp_path / "mask.nii"),
        "twin": _save(made, tmp_path / "twin.nii"), "twin_device": "cuda",
    }  # fmt: skip
    turned = {"twin": str(tmp_path / "turned.nii"), "twin_mask": str(tmp_path / "its_mask.nii")}
    for name, values in (("twin", made), ("twin_mask", mask)):
        reoriented(stored(values, AFFINE), "LIA").to_filename(turned[name])
    found = Synthesize(**given | turned).run(cwd=tmp_path).outputs
    np.testing.assert_array_equal(nib.load(found.out_file).get_fdata(), made)
    assert found.device == "cuda"
    mask[10, 10, 10] = False
    with pytest.raises(MissingInputError, match="no such model"):
        Synthesize(**given, twin_mask=_save(mask, tmp_path / "other.nii")).run(cwd=tmp_path)
    given["model"] = str(default_bundle("T1w", method="identity").path)  # of other weights
    with pytest.raises(TemporaryError, match="was replaced while this run was using it"):
        Synthesize(**given).run(cwd=tmp_path)
