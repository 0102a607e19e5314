"""The authors' released checkpoints."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.models.bundle import load_bundle, load_model

ARGS = {
    "feature_dim": 128,
    "encoder_base_channels": 32,
    "trunk_type": "siren",
    "decoder_depth": 4,
    "decoder_width": 256,
    "omega": 30.0,
}


def release(path, model, *, bias_shape=(), args=ARGS, **extra):
    state = {**model.state_dict(), "bias": model.state_dict()["bias"].reshape(bias_shape)}
    torch.save({"model_state_dict": state, "args": args, "epoch": 500, **extra}, path)
    return path


def assert_same(bundle, model):
    torch.testing.assert_close(load_model(bundle).state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("bias_shape", [(), (1,)])
def test_a_released_checkpoint_loads(tmp_path, model, bias_shape):
    path = release(tmp_path / "h2lo_T1w_fold0.pth", model, bias_shape=bias_shape)
    b = load_bundle(path, contrast="T1w")
    assert (b.contrast, b.frame.anchor) == ("T1w", "array")
    assert b.metadata["training_data"]["kind"] == "unknown"
    assert_same(b, model)
    with pytest.raises(UsageError, match="trained for T1w"):
        load_bundle(path, contrast="T2w")


def test_numpy_scalars_in_a_training_checkpoint_load(tmp_path, model):
    figures = {"val_psnr": np.float64(28.4), "val_ssim": np.float32(0.9), "steps": np.int64(3)}
    path = release(tmp_path / "x_T1w.pth", model, optimizer_state_dict={"state": {}}, **figures)
    assert_same(load_bundle(path), model)
    # A NumPy 1 file says numpy.core.multiarray where NumPy 2 says numpy._core.
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    target = tmp_path / "old_T1w.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for item in source.infolist():
            data = source.read(item).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            archive.writestr(item, data)
    assert_same(load_bundle(target), model)


@pytest.mark.parametrize("told", ["T1w", "t1w", "T1"])
def test_the_contrast_is_the_file_s_own_or_of_its_name_or_the_caller(tmp_path, model, told):
    plain = release(tmp_path / "best.pth", model)
    assert load_bundle(plain, contrast="T2w").contrast == "T2w"
    with pytest.raises(UsageError, match="or in its file name"):
        load_bundle(plain)
    path = release(tmp_path / "T2w_best.pth", model, args={**ARGS, "contrast": told})
    assert load_bundle(path).contrast == load_bundle(path, contrast="T1w").contrast == "T1w"
    with pytest.raises(UsageError, match="trained for T1w"):
        load_bundle(path, contrast="T2w")


@pytest.mark.parametrize("args", [{"args": {}}, {}])
def test_weights_without_arguments_are_of_the_release_s_sizes(tmp_path, model, args):
    """Those of the release's own parser: its weights alone do not say omega."""
    path = tmp_path / "h2lo_T1w.pth"
    torch.save({"model_state_dict": model.state_dict(), **args}, path)
    found = load_bundle(path)
    assert found.architecture == {
        "n_basis": 128, "channels": 32, "trunk": "siren", "width": 256, "omega": 30.0,
    }  # fmt: skip
    assert_same(found, model)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, model, refused):
    made, path = tmp_path / "made", tmp_path / "T1w.pth"
    for content in ({"model_state_dict": model.state_dict(), "args": os.mkdir}, os.mkdir):
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            assert "mkdir" in refused(BadDataError, load_bundle, path)
    path.write_text(f"cos\nmkdir\n(V{made}\ntR.")  # a pickle that calls it
    assert "mkdir" in refused(BadDataError, load_bundle, path)
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"model_state_dict": {}},
        {"args": [1]},
        {"args": {**ARGS, "decoder_depth": 5}},
        {"args": {**ARGS, "trunk_type": "rnn"}},
        {"args": {**ARGS, "decoder_width": "wide"}},
        {"args": {**ARGS, "contrast": "FLAIR"}},
    ],
)
def test_other_checkpoints_are_refused(tmp_path, content, refused):
    path = tmp_path / "other_T1w.pth"
    torch.save({"model_state_dict": {"bias": torch.zeros(())}, **content}, path)
    assert str(path) in refused(BadDataError, load_bundle, path)


def test_weights_are_read_once_until_they_change(saved, model, tmp_path, monkeypatch):
    read, whole = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or whole(path))
    files = saved.weights_path, release(tmp_path / "h2lo_T1w.pth", model)
    for number in (1, 2):
        for file in files:
            os.utime(file, (number, number))
        for path in (saved.path, saved.path, files[1], files[1]):
            load_model(load_bundle(path))
        assert [read.count(file.name) for file in files] == [number, number]
