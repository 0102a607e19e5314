"""Pairs on a model's frame: in memory, as fits read them, and on disk, as they were prepared."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from h2lo_bids import __version__
from h2lo_bids.bids.derivatives import find_records, paths_of_record, record_end, scan_entities
from h2lo_bids.errors import BadDataError, UsageError, of_the_machine
from h2lo_bids.imaging.normalise import Scaled, scale_brain
from h2lo_bids.imaging.profile import measure, measure_output, ranges_of
from h2lo_bids.io import atomic_path, atomic_write_text, digest, read_json, stamp
from h2lo_bids.models.frame import Frame
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE

FRAME_MM = (208.0, 256.0, 256.0)
"""Extent of the paper's grid."""


@dataclass(frozen=True)
class Pair:
    """A high-field volume and its low-field partner on the model's frame, both (X, Y, Z).

    Whatever fits, applies and scores a model takes `hf` for its input and `lf` for its target.
    To enhance, the two change places: see `swapped`. Both are in [0, 1], in float16 where many
    pairs are kept in memory, and `hf` is 0 outside the brain, as the product is.
    """

    name: str
    hf: np.ndarray = field(hash=False, compare=False, repr=False)
    lf: np.ndarray = field(hash=False, compare=False, repr=False)
    mask: np.ndarray = field(hash=False, compare=False, repr=False)
    task: str = SYNTHESIZE
    kept: Path | None = None  # the file that the volumes are mapped from
    # The input as the files are, where it was scaled for a model.
    plain: np.ndarray | None = field(default=None, hash=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.hf.ndim != 3 or not self.hf.shape == self.lf.shape == self.mask.shape:
            shapes = f"{self.hf.shape}, {self.lf.shape}, {self.mask.shape}"
            raise BadDataError(f"pair {self.name}: volumes and mask need one 3-D shape: {shapes}")
        if not (np.isfinite(self.hf).all() and np.isfinite(self.lf).all()):
            raise BadDataError(f"pair {self.name}: NaN or infinite voxels")
        if not self.mask.any():
            raise BadDataError(f"pair {self.name}: its brain mask is empty")

    def swapped(self) -> Pair:
        """Return the pair for the other task: input and target change places."""
        task = SYNTHESIZE if self.task == ENHANCE else ENHANCE
        return replace(self, hf=self.lf, lf=self.hf, task=task)

    def scaled(self, scaling: str, contrast: str, spacing: Sequence[float]) -> Pair:
        """Return the pair with its input scaled by `h2lo_bids.imaging.normalise.scale_brain`."""
        if scaling == "max":  # as the files are
            return self
        made = scale_brain(
            np.asarray(self.hf, np.float32), self.mask, spacing,
            contrast=contrast, scaling=scaling, name=f"pair {self.name}",
        )  # fmt: skip
        return replace(self, hf=made.volume, plain=self.hf)

    @property
    def high_field(self) -> np.ndarray:
        """The high-field volume, whichever part it plays; it decides the foreground."""
        return self.lf if self.task == ENHANCE else self.hf

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.hf.shape  # type: ignore[return-value]


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Return a digest of names and voxels, by which a resumed run knows its data."""
    found = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        found.update(f"{pair.name} {pair.shape}".encode())
        for volume, kind in ((pair.hf, np.float32), (pair.lf, np.float32), (pair.mask, bool)):
            found.update(np.ascontiguousarray(volume, kind).view(np.uint8).data)
    return found.hexdigest()


def prepared_range(pairs: Sequence[PreparedPair], cache: Path, scaling: str) -> dict[str, Any]:
    """Return a bundle's ``input_range``: what its pairs are like, each measured once in a cache."""
    found = []
    for pair in pairs:
        kept = _kept(pair, cache, f"{scaling}, {pair.task}").with_suffix(".json")
        try:
            measured = json.loads(kept.read_text())
        except (OSError, ValueError):  # absent or damaged
            read = read_prepared(pair)
            measured = measure_pair(read, pair.contrast, pair.frame.spacing, scaling)
            atomic_write_text(kept, json.dumps(measured))
        found.append(measured)
    return ranges_of(*zip(*found, strict=True))


def measure_pair(
    pair: Pair, contrast: str, spacing: Sequence[float], scaling: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure the input and the target of a pair as the files hold it."""
    # Of a scaled pair ``field_ratio`` cannot be measured.
    made = Scaled(np.asarray(pair.hf, np.float32))
    if scaling != "max":
        made = scale_brain(made.volume, pair.mask, spacing, contrast=contrast, name=pair.name)
    return (
        measure(made, pair.mask, spacing, contrast=contrast),
        measure_output(pair.lf, made.volume, pair.mask, spacing),
    )


def common_shape(pairs: Sequence[Pair]) -> tuple[int, int, int]:
    """Return the one shape of all pairs, or raise `BadDataError`."""
    shapes = {pair.shape for pair in pairs}
    if len(shapes) != 1:
        listed = ", ".join(f"{p.name} {p.shape}" for p in pairs)
        raise BadDataError(f"training pairs need one common grid, not: {listed}")
    return shapes.pop()


def keep_pair(path: Path, *volumes: np.ndarray) -> None:
    """Write input, target, mask and, of a scaled pair, the plain input for `map_pair`.

    In half precision: finer than the noise in [0, 1].
    """
    with atomic_path(path) as partial, partial.open("wb") as stream:
        np.save(stream, np.stack(volumes).astype(np.float16))


def map_pair(path: Path, name: str, task: str = SYNTHESIZE) -> Pair:
    """Map a pair into memory, so that many need no more of it than few, and processes share it."""
    try:
        hf, lf, mask, *plain = np.lib.format.open_memmap(path, mode="r")
        pair = Pair(name, hf, lf, mask > 0, SYNTHESIZE, path, *plain)
    except (OSError, ValueError, TokenError, BadDataError) as err:  # numpy parses a header
        raise BadDataError(f"{path}: cannot be read ({err}); remove it and run again") from err
    return pair.swapped() if task == ENHANCE else pair


@dataclass(frozen=True)
class PreparedPair:
    """A pair on disk: three NIfTI images on one grid, brains in [0, 1] and 0 outside the mask."""

    subject: str
    session: str | None
    contrast: str
    hf: Path
    lf: Path
    mask: Path
    record: Path  # the low-field image's sidecar, written last
    frame: Frame
    simulated: bool
    fusion: str
    sources: tuple[str, ...]  # BIDS URIs of the scans, the high-field one first
    fingerprint: str  # digest of inputs and settings
    doubts: tuple[str, ...]  # why the registration check flags it; empty for a good pair
    name: str
    """The subject, with the session or all entities where it has several pairs of a contrast."""
    task: str = SYNTHESIZE  # to enhance, it is read with input and target swapped
    noise: tuple[tuple[float, tuple[float, ...]], ...] = ()
    """Of each low-field scan, see `h2lo_bids.evaluation.realism.scan_noise`."""
    registered: bool = False  # before, by other software, which may have fused several scans
    brain: str = field(default="", compare=False, repr=False)
    """Fingerprint of the high-field brain, as text; empty where the record has none."""


def training_frame(resolution: float = 1.0) -> Frame:
    """Return the frame of a run: the paper's extent, in voxels of one size in mm."""
    x, y, z = (round(extent / resolution) for extent in FRAME_MM)
    return Frame((x, y, z), (resolution, resolution, resolution))


def find_prepared(
    out_dir: Path,
    *,
    contrast: str,
    subjects: tuple[str, ...] | None = None,
    sources: Collection[str] | None = None,
) -> tuple[PreparedPair, ...]:
    """Find the pairs that were prepared, of some subjects or high-field scans (by BIDS URI)."""
    # A damaged one is absent: it is prepared again. Names are as if there were no others.
    found = []
    for record in find_records(out_dir, contrast):
        label = record.relative_to(out_dir).parts[0].removeprefix("sub-")
        if subjects is None or label in subjects:
            pair = _read_record(record, contrast)
            if pair is not None and (sources is None or pair.sources[0] in sources):
                found.append(pair)
    return tuple(sorted(_named(found), key=lambda p: (p.subject, p.session or "", p.record.name)))


def read_prepared(prepared: PreparedPair) -> Pair:
    """Load the volumes of a pair, float32, for its task, or raise `BadDataError`."""
    paths, shape = (prepared.hf, prepared.lf, prepared.mask), prepared.frame.shape
    hf, lf, mask = (_read(path, shape) for path in paths)
    try:
        pair = Pair(prepared.name, hf, lf, mask > 0)
    except BadDataError as err:
        raise BadDataError(f"{prepared.lf}: {err}; remove it and run again") from err
    return pair.swapped() if prepared.task == ENHANCE else pair


def common_frame(pairs: Sequence[PreparedPair]) -> Frame:
    """Return the frame that all pairs share, or raise `UsageError`."""
    first = pairs[0]
    for pair in pairs:
        if pair.frame != first.frame:
            raise UsageError(
                f"{pair.record}: on another grid than {first.record.name}; "
                "prepare all pairs with one --resolution"
            )
    return first.frame


def pairs_fingerprint(pairs: Sequence[PreparedPair]) -> str:
    """Return a digest of what some pairs were made from, whatever their order."""
    made = [(p.contrast, p.subject, p.session, p.record.name, p.fingerprint) for p in pairs]
    return digest(sorted(made, key=str), 16)


def open_prepared(pairs: Sequence[PreparedPair], cache: Path, scaling: str = "max") -> list[Pair]:
    """Map pairs into memory from a cache that is made anew where their files have changed."""
    opened = []
    for pair in pairs:
        kept = _kept(pair, cache, scaling)
        if not kept.exists():
            # As divided by their maxima, both tasks share the file.
            read = read_prepared(replace(pair, task=SYNTHESIZE))
            hf = read.scaled(scaling, pair.contrast, pair.frame.spacing).hf
            keep_pair(kept, hf, read.lf, read.mask, *[read.hf] * (scaling != "max"))
        opened.append(map_pair(kept, pair.name, pair.task))
    return opened


def _kept(pair: PreparedPair, cache: Path, kind: str) -> Path:
    """Return where a cache keeps something of a pair, until one of the pair's files changes."""
    try:
        stamps = [stamp(path) for path in (pair.hf, pair.lf, pair.mask)]
    except OSError as err:
        raise BadDataError(f"{err.filename}: cannot be read ({err.strerror})") from err
    return cache / f"{pair.name}_{digest([__version__, kind, pair.fingerprint, stamps])}.npy"


def _read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    import nibabel as nib

    try:
        data = np.asarray(nib.load(path).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    except Exception as err:  # gzip, zlib, nibabel and the system each raise their own
        text = f"{path}: cannot be read ({err}); remove it and run again"
        raise of_the_machine(err) or BadDataError(text) from err
    if data.shape != shape:
        raise BadDataError(
            f"{path}: has {data.shape} voxels, not {shape} as its record says; "
            "remove it and run again"
        )
    return data


def _read_record(record: Path, contrast: str) -> PreparedPair | None:
    """Read a pair's record; None if it is damaged, or one of the pair's files is missing."""
    try:
        values = read_json(record)
        labels = dict(scan_entities(record))
        registered = str(values.get("RegistrationMethod")).startswith("none")
        if not values["SourceScans"]:
            raise ValueError("no source is named")
        paths: dict[str, Any] = {**paths_of_record(record, contrast), "record": record}
        pair = PreparedPair(
            **paths,
            subject=labels["sub"],
            session=labels.get("ses"),
            contrast=contrast,
            frame=Frame.from_dict(values["Frame"]),
            simulated=bool(values["Simulated"]),
            fusion=_text(values["Fusion"]),
            sources=tuple(_text(uri) for uri in values["SourceScans"]),
            fingerprint=_text(values["Fingerprint"]),
            # An image that was registered before was interpolated, and tells no scan's noise.
            noise=tuple(
                (float(scan["Deviation"]), tuple(map(float, scan["Voxel"])))
                for scan in (() if registered else values.get("ScanNoise", ()))
            ),
            registered=registered,
            doubts=tuple(_text(r) for r in values["RegistrationCheck"]["Reasons"]),
            name=labels["sub"],
            brain=str(values.get("BrainFingerprint", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return pair if all(path.is_file() for path in paths.values()) else None


def _text(value: Any) -> str:
    """Take what logs and pages will show; far more than a path is no such text."""
    text = str(value)
    if len(text) > 2000:
        raise ValueError(f"a value of {len(text)} characters")
    return text


def _named(pairs: list[PreparedPair]) -> list[PreparedPair]:
    """Name each pair so that no two have one name."""
    subjects = Counter(pair.subject for pair in pairs)
    both = Counter((pair.subject, pair.session) for pair in pairs)

    def name(pair: PreparedPair) -> str:
        if subjects[pair.subject] == 1:
            return pair.subject
        if both[pair.subject, pair.session] == 1:
            return f"{pair.subject}_{pair.session}" if pair.session else pair.subject
        return pair.record.name.removesuffix(record_end(pair.contrast)).removeprefix("sub-")

    return [replace(pair, name=name(pair)) for pair in pairs]
