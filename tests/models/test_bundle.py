"""Bundles and released checkpoints, whole and broken."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from problems import SMALL, tiny_options

from h2lo_bids import io
from h2lo_bids.errors import (
    BadDataError,
    H2loError,
    MissingInputError,
    TemporaryError,
    UsageError,
)
from h2lo_bids.imaging.synthstrip import load_network
from h2lo_bids.models.bundle import (
    load_bundle,
    load_model,
    member_files,
    members,
    read_extra,
    save_bundle,
)
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.models.registry import METHODS, build_model, family_of, make_model

FRAME = Frame((16, 18, 20))
T1W = {"contrast": "T1w", "frame": FRAME, "metadata": {}, "card": ""}


def assert_same(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_a_bundle_comes_back_as_it_was_from_any_folder(saved, model, monkeypatch):
    monkeypatch.chdir(saved.path.parent)
    again = load_bundle("m", contrast="T2w")
    assert again == saved
    assert (again.contrast, again.frame, again.card) == ("T2w", FRAME, "# é\n")
    assert again.metadata["parameters"] == 581_409
    assert again.metadata["training_data"] == {"kind": "simulated"}
    assert again.sha256 == hashlib.sha256(again.weights_path.read_bytes()).hexdigest()
    assert [*saved.path.parent.iterdir()] == [saved.path]
    monkeypatch.chdir("/")  # as in a notebook whose synthesis reads the weights again
    loaded = load_model(again)
    assert_same(loaded, model)
    assert not loaded.training
    before = [path.read_bytes() for path in sorted(saved.path.iterdir())]
    more = dict(reversed(saved.metadata.items()))  # written by its keys
    save_bundle(saved.path, loaded, **T1W | {"contrast": "T2w", "metadata": more, "card": "# é\n"})
    assert [path.read_bytes() for path in sorted(saved.path.iterdir())] == before


def test_a_save_replaces_the_old_bundle_or_leaves_it(saved, model, tmp_path, monkeypatch, refused):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", full)
    assert "No space left" in refused(H2loError, save_bundle, saved.path, model, **T1W)
    assert load_bundle(saved.path) == saved
    monkeypatch.undo()
    again = save_bundle(saved.path, H2lo(), **T1W)
    assert again.contrast == "T1w"
    assert [*tmp_path.iterdir()] == [saved.path]


def test_weights_that_were_cut_or_changed_are_refused(saved, refused):
    content = bytearray(saved.weights_path.read_bytes())
    content[-5] ^= 1
    for damaged in (content, content[:-1000]):
        saved.weights_path.write_bytes(damaged)
        for read, given in ((load_bundle, saved.path), (load_model, saved)):
            message = refused(BadDataError, read, given)
            assert f"{saved.weights_path}: truncated or changed" in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.net.4.bias", None, "encoder.net.4.bias"),
        ("encoder.net.99.bias", torch.zeros(1), "encoder.net.99.bias"),
        ("trunk.net.3.weight", torch.zeros(128, 255), "(128, 255), expected (128, 256)"),
        ("encoder.net.0.bias", torch.full((32,), float("nan")), "not finite"),
    ],
)
def test_weights_of_another_model_are_named(model, name, value, message, refused):
    state = {k: v for k, v in {**model.state_dict(), name: value}.items() if v is not None}
    assert message in refused(BadDataError, build_model, "h2lo", {}, state, "weights")


def test_weights_for_which_memory_is_too_small_are_not_called_damaged(saved, monkeypatch, refused):
    (checkpoint := saved.path / "T1w.pth").touch()
    for name in ("torch.load", "safetensors.torch.load"):
        monkeypatch.setattr(name, lambda *_, **__: np.empty(1 << 50))
    for read, given in ((load_model, saved), (load_bundle, checkpoint), (load_network, checkpoint)):
        assert "memory ran out" in refused(TemporaryError, read, given)


@pytest.mark.parametrize("name", ["metadata.json", "weights.safetensors"])
def test_an_absent_file_is_named(saved, name, refused):
    (saved.path / name).unlink()
    for path in (saved.path, saved.path / "nothing" / name):
        assert name in refused(MissingInputError, load_bundle, path)
    (saved.path / name).symlink_to("../.git/annex/objects/key")  # as in a clone by DataLad
    assert f"datalad get {saved.path / name}" in refused(MissingInputError, load_bundle, saved.path)
    (saved.path / name).unlink()
    (saved.path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "run: git lfs pull" in refused(MissingInputError, load_bundle, saved.path)


def test_further_files_are_kept_checked_and_stay_in_the_bundle(model, tmp_path, refused):
    folder = tmp_path / "m"
    extras = {"members/0.safetensors": b"abc", "notes.txt": b"n"}
    b = save_bundle(folder, model, **T1W, extras=extras)
    assert read_extra(b, "members/0.safetensors") == b"abc"
    (folder / "notes.txt").write_bytes(b"m")
    assert "notes.txt: truncated or changed" in refused(BadDataError, load_bundle, folder)
    (folder / "notes.txt").unlink()
    assert "notes.txt" in refused(MissingInputError, load_bundle, folder)
    path = folder / "metadata.json"
    for name in ("", "../x", "/x", "a/../b", "a\\b", "a\0"):
        path.write_text(json.dumps({**b.metadata, "files": {name: "0"}}))
        assert "not a further file" in refused(BadDataError, load_bundle, folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("anchor", "nose", "anchor is one of"), ("shape", [1, 2, 3], "three sides"),
     ("spacing", [1, 1, 0], "positive spacings"), ("orientation", "RAL", "'RAL'"),
     ("scaling", "later", "unknown scaling 'later'")],
)  # fmt: skip
def test_a_frame_or_a_scaling_that_is_none_is_refused(saved, key, value, said, refused):
    path = saved.path / "metadata.json"
    record = json.loads(path.read_text())
    (record if key == "scaling" else record["frame"])[key] = value
    path.write_text(json.dumps(record))
    line = refused(BadDataError, load_bundle, saved.path)
    assert line.startswith(f"{path}: ")
    assert said in line


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back_from_its_bundle(tmp_path, method):
    model = make_model(METHODS[method], tiny_options(method).architecture)
    for value in model.parameters():
        torch.nn.init.normal_(value)
    b = save_bundle(tmp_path / "m", model, method=method, **T1W)
    loaded = load_model(load_bundle(b.path))
    assert (b.method, b.task) == (method, "enhance" if method == "pfsr" else "synthesize")
    assert loaded.architecture == model.architecture
    assert family_of(loaded) == METHODS[method]
    assert_same(loaded, model)
    assert b.metadata["parameters"] == sum(p.numel() for p in loaded.parameters())
    other = {"enhance": "synthesize", "synthesize": "enhance"}[b.task]
    with pytest.raises(UsageError, match=f"cannot be used to {other}; pass --task {b.task}"):
        load_bundle(b.path, task=other)


def test_members_come_back_in_their_order(tmp_path):
    def save(name, seed, **more):
        torch.manual_seed(seed)
        small = H2lo(SMALL).eval()
        return small, save_bundle(tmp_path / name, small, **T1W | more)

    folds = [save(f"fold-{n}", n) for n in range(12)]
    extras = member_files([b.path for _, b in folds])
    _, whole = save("final", 99, extras=extras)
    loaded = members(load_bundle(whole.path))
    for member, (model, _) in zip(loaded, folds, strict=True):
        assert_same(member, model)
    assert members(folds[0][1]) == ()
    _, other = save("other", 3, frame=Frame((16, 18, 21)))
    with pytest.raises(UsageError, match="its frame is not that of"):
        member_files([whole.path, other.path])
