"""Model files to damage, and their readers."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path


def _model() -> object:
    import torch

    from h2lo_bids.models.h2lo import H2lo, H2loArchitecture

    torch.manual_seed(0)
    return H2lo(H2loArchitecture(channels=2, n_basis=4, width=8))


def _saved(folder: Path) -> Path:
    """Write a small bundle once."""
    from h2lo_bids.models.bundle import save_bundle
    from h2lo_bids.models.frame import Frame

    place = folder / "model"
    if not place.exists():
        described = {"name": "x", "version": "1", "value_range": [0, 1], "license": "CC0"}
        described["training_data"] = {"kind": "real", "description": "none"}  # type: ignore[assignment]
        save_bundle(
            place,
            _model(),  # type: ignore[arg-type]
            contrast="T1w",
            frame=Frame((8, 8, 8)),
            metadata=described,
            card="# card",
            extras={"notes/more.txt": b"x"},
        )
    return place


def _read_metadata(data: bytes, folder: Path) -> None:
    from h2lo_bids.models.bundle import load_bundle, load_model, members
    from h2lo_bids.reports.records import ModelInfo

    place = _saved(folder)
    (place / "metadata.json").write_bytes(data)
    bundle = load_bundle(place)
    ModelInfo.from_metadata(bundle.metadata, bundle.card)
    load_model(bundle)
    members(bundle)


def _metadata() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return [(_saved(Path(folder)) / "metadata.json").read_bytes()]


def _weights() -> list[bytes]:
    import safetensors.torch

    return [safetensors.torch.save(_model().state_dict())]  # type: ignore[attr-defined]


def _read_weights(data: bytes, folder: Path) -> None:
    from h2lo_bids.models.bundle import load_bundle, load_model

    place = _saved(folder)
    (place / "weights.safetensors").write_bytes(data)
    record = json.loads((place / "metadata.json").read_text())
    record["sha256"] = hashlib.sha256(data).hexdigest()  # a liar's digest is right
    (place / "metadata.json").write_text(json.dumps(record))
    load_model(load_bundle(place))


def _lying_weights() -> list[bytes]:
    """Safetensors whose header was rewritten."""
    (whole,) = _weights()
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    first, second = [name for name in header if name != "__metadata__"][:2]
    lies = []
    for change in (
        {first: {**header[first], "data_offsets": [0, 2**60]}},
        {first: {**header[first], "data_offsets": header[second]["data_offsets"]}},
        {first: {**header[first], "shape": [2**40, 2**40]}},
        {first: {**header[first], "dtype": "F64"}},
    ):
        text = json.dumps({**header, **change}).encode()
        lies.append(struct.pack("<Q", len(text)) + text + whole[8 + size :])
    return [whole, *lies, struct.pack("<Q", 2**62) + whole[8:], struct.pack("<Q", 10**8)]


def _checkpoints() -> list[bytes]:
    import torch

    sizes = {"feature_dim": 4, "encoder_base_channels": 2, "decoder_width": 8}
    content = {"model_state_dict": _model().state_dict(), "args": sizes, "epoch": 3}  # type: ignore[attr-defined]
    found = []
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        found.append(stream.getvalue())
    return found


def _read_checkpoint(data: bytes, folder: Path) -> None:
    from h2lo_bids.models.bundle import load_bundle, load_model
    from h2lo_bids.reports.records import ModelInfo

    path = folder / "T1w.pth"
    path.write_bytes(data)
    bundle = load_bundle(path)
    ModelInfo.from_metadata(bundle.metadata, bundle.card)
    load_model(bundle)
