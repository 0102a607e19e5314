"""What a report is made of: plain, frozen values, and their JSON form.

Everything here survives the trip to disk and back, so that ``--reports-only``
rebuilds the same page from the files in the output folder.
"""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One picture of a report.

    Attributes
    ----------
    kind : str
        Key of ``bids_app_spec/report.yml``, e.g. ``"brainmask"``.
    path : str
        POSIX path relative to the output folder.
    note : str
        What the caption adds for this scan, e.g. the display window.
    space : str
        Standard space that it shows; empty for the scan's own.
    """

    kind: str
    path: str
    note: str = ""
    space: str = ""


@dataclass(frozen=True)
class Failure:
    """Something that went wrong, as the Errors section tells it.

    Attributes
    ----------
    node : str
        The step that failed.
    message : str
        One line, with the remedy.
    traceback : str
        Shown folded; may be empty.
    scan : str
        Stem of the scan concerned, or empty for the whole subject.
    """

    node: str
    message: str
    traceback: str = ""
    scan: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """The trained model behind an image.

    Attributes
    ----------
    name, version, method, contrast : str
        As in the bundle's metadata.
    sha256 : str
        Of the weights.
    training_kind : str
        ``"simulated"``, ``"real"`` or ``"unknown"`` (an imported checkpoint).
    training_description : str
        One sentence on the training data.
    parameters : int
        Number of trained weights; 0 when unknown.
    card : str
        The model card, Markdown.
    scaling : str
        How its input is scaled: ``"max"`` or ``"robust"``.
    """

    name: str
    version: str = ""
    method: str = ""
    contrast: str = ""
    sha256: str = ""
    training_kind: str = "unknown"
    training_description: str = ""
    parameters: int = 0
    card: str = ""
    scaling: str = "max"

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any], card: str = "") -> ModelInfo:
        """Read a bundle's ``metadata.json``; absent fields stay at their defaults."""
        training = metadata.get("training_data") or {}
        return cls(
            name=str(metadata.get("name", "unnamed")),
            version=str(metadata.get("version", "")),
            method=str(metadata.get("method", "")),
            contrast=str(metadata.get("contrast", "")),
            sha256=str(metadata.get("sha256", "")),
            training_kind=str(training.get("kind", "unknown")),
            training_description=str(training.get("description", "")),
            parameters=int(metadata.get("parameters") or 0),
            card=card,
            scaling=str(metadata.get("scaling", "max")),
        )


@dataclass(frozen=True)
class FoundScan:
    """One image that discovery met, whether it was used or not.

    Attributes
    ----------
    path : str
        Relative to the dataset, POSIX.
    session : str
        Without ``ses-``; empty when there is none.
    field_strength : float or None
        Tesla.
    field_source : str
        How it is known: ``ImagingFrequency``, ``MagneticFieldStrength``, ``assumed``.
    use : str
        What became of it, e.g. ``"synthesized"``, ``"not used: low field"``.
    """

    path: str
    session: str = ""
    field_strength: float | None = None
    field_source: str = "assumed"
    use: str = "synthesized"


@dataclass(frozen=True)
class ScanReport:
    """One scan that was processed.

    Attributes
    ----------
    stem : str
        File name without extension, e.g. ``sub-01_ses-HF_T1w``.
    source : str
        Path relative to the dataset, POSIX.
    entities : tuple of (str, str)
        In BIDS order, from the file name.
    suffix : str
        ``"T1w"`` or ``"T2w"``.
    field_strength, field_source
        As in :class:`FoundScan`.
    shape : tuple of int
        Voxels.
    spacing : tuple of float
        Millimetres.
    mask_method : str
        How the brain was found: ``deepbet``, ``synthstrip`` (a version may
        follow), ``given``, ``shared``, ``stripped`` or ``skip``.
    mask_volume : float or None
        Millilitres.
    model : ModelInfo or None
        What synthesized the image.
    device, precision : str
        E.g. ``"cpu"``, ``"fp32"``.
    seed : int or None
        Of the run.
    seconds : tuple of (str, float)
        Wall-clock time of each step, in order.
    outputs : tuple of str
        Images written, relative to the output folder, POSIX.
    signal_to_noise : tuple of (str, float, float, float, float)
        Of each low-field image: its name, the standard deviation of its noise, and
        white matter, grey matter and fluid over that.
    templates : tuple of (str, str)
        Each standard space the scan was registered to, and where its image comes from.
    warnings : tuple of str
        Shown in a box above the figures.
    noticed : tuple of str
        By what its input and output differ from the model's training pairs; shown at the
        top of the page, too.
    likeness : str
        Whether they are like those: ``"yes"``, ``"no"``, ``"unknown"``; empty if not checked.
    figures : tuple of Figure
        In any order; the page knows where each kind goes.
    task : str
        What was done with it: ``"synthesize"`` or ``"enhance"``.
    parts : tuple of str
        Of enhancement: the scans that the image was made from, relative to the dataset.
    lost : tuple of (str, str, str)
        Of enhancement: path, error and message of each scan that was left out, as it
        could not be used.
    """

    stem: str
    source: str
    entities: tuple[tuple[str, str], ...]
    suffix: str
    field_strength: float | None = None
    field_source: str = "assumed"
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    mask_method: str = ""
    mask_volume: float | None = None
    model: ModelInfo | None = None
    device: str = ""
    precision: str = ""
    seed: int | None = None
    seconds: tuple[tuple[str, float], ...] = ()
    outputs: tuple[str, ...] = ()
    signal_to_noise: tuple[tuple[str, float, float, float, float], ...] = ()
    templates: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()
    likeness: str = ""
    figures: tuple[Figure, ...] = ()
    task: str = "synthesize"
    parts: tuple[str, ...] = ()
    lost: tuple[tuple[str, str, str], ...] = ()

    @property
    def enhances(self) -> bool:
        """Whether this is a low-field scan that was enhanced."""
        return self.task == "enhance"

    @property
    def session(self) -> str:
        """Session label without ``ses-``, or an empty string."""
        return dict(self.entities).get("ses", "")


@dataclass(frozen=True)
class SubjectReport:
    """Everything on one subject's page.

    Attributes
    ----------
    subject : str
        Without ``sub-``.
    scans : tuple of ScanReport
        Those that were processed.
    found : tuple of FoundScan
        Everything that discovery met, used or not.
    failures : tuple of Failure
        What went wrong.
    command : str
        The command line of the run.
    versions : tuple of (str, str)
        Software and its version, this program first.
    facts : dict
        For the Methods text, see :func:`h2lo_bids.reports.methods.describe`.
    """

    subject: str
    scans: tuple[ScanReport, ...] = ()
    found: tuple[FoundScan, ...] = ()
    failures: tuple[Failure, ...] = ()
    command: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def sessions(self) -> tuple[str, ...]:
        """Session labels met, in the order of discovery."""
        labels = [*(scan.session for scan in self.found), *(scan.session for scan in self.scans)]
        return tuple(dict.fromkeys(label for label in labels if label))


def to_json(record: Any) -> dict[str, Any]:
    """Turn a record into what :mod:`json` writes."""
    return asdict(record)


def from_json(kind: type, value: Any) -> Any:
    """Rebuild a record, or one of its parts, from what :mod:`json` reads.

    Fields that this version does not know are ignored, so that a report
    written by a later version still opens.

    Parameters
    ----------
    kind : type
        A dataclass of this module, or the annotation of one of its fields.
    value
        What was read.

    Raises
    ------
    TypeError, ValueError, KeyError
        The value does not fit.
    """
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, found {type(value).__name__}")
        known = {item.name for item in fields(kind)} & set(value)
        return kind(**{name: from_json(hints[name], value[name]) for name in known})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        inner = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else from_json(inner[0], value)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, found {type(value).__name__}")
        if arguments[-1] is Ellipsis:
            return tuple(from_json(arguments[0], item) for item in value)
        return tuple(from_json(part, item) for part, item in zip(arguments, value, strict=True))
    expected = origin or kind
    if kind is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, expected):
        raise TypeError(f"expected {expected.__name__}, found {type(value).__name__}")
    return value
