"""One input image, as the rest of the program sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Scan:
    """One T1w or T2w image of one subject.

    Attributes
    ----------
    path : Path
        The image, ``.nii`` or ``.nii.gz``.
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    suffix : str
        ``"T1w"`` or ``"T2w"``.
    entities : tuple of (str, str)
        Short names and labels in the order of the file name, as written
        there (``run-01`` stays ``"01"``), ``sub`` and ``ses`` included.
    field_strength : float or None
        Tesla, corrected (see :mod:`h2lo_bids.bids.fieldstrength`).
    field_source : str
        As `h2lo_bids.bids.fieldstrength.FieldStrength.source`.
    metadata : dict
        The sidecars' content after BIDS inheritance.
    notes, warnings : tuple of str
        What discovery derived, and what it found contradictory or assumed.
    dataset : str
        What BIDS URIs call the dataset that the image lies in: ``"raw"``, ``"lf"``
        (a second root of low-field scans), or the name of a derivative.
    """

    path: Path
    subject: str
    session: str | None
    suffix: str
    entities: tuple[tuple[str, str], ...]
    field_strength: float | None = None
    field_source: str = "assumed"
    metadata: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    notes: tuple[str, ...] = field(default=(), hash=False, compare=False)
    dataset: str = "raw"
    warnings: tuple[str, ...] = field(default=(), hash=False, compare=False)

    @property
    def strength(self) -> str:
        """Field strength and what it is known by, e.g. ``3 T by ImagingFrequency``."""
        if self.field_strength is None:
            return "unknown field strength, assumed to be high field"
        source = "a label" if self.field_source == "label" else self.field_source
        return f"{self.field_strength:g} T by {source}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes and warnings, for the report."""
        return (*self.notes, *self.warnings)

    @property
    def stem(self) -> str:
        """File name without extension, e.g. ``sub-01_ses-HF_acq-x_T1w``."""
        return "_".join([*(f"{key}-{value}" for key, value in self.entities), self.suffix])

    @property
    def root(self) -> Path:
        """Root of the dataset: what holds the subject's folder."""
        for parent in self.path.parents:
            if parent.name == f"sub-{self.subject}":
                return parent.parent
        return self.path.parent

    @property
    def relative_path(self) -> str:
        """POSIX path relative to the dataset's root."""
        return PurePosixPath(*self.path.relative_to(self.root).parts).as_posix()

    @property
    def uri(self) -> str:
        """BIDS URI in the derivative, whose ``DatasetLinks`` name the dataset."""
        return f"bids:{self.dataset}:{self.relative_path}"
