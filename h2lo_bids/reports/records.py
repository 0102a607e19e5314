"""Records of what the reports show, and their files next to the figures.

``sub-01/figures/<scan>_desc-report_T1w.json`` holds one scan and its failures,
``sub-01/figures/sub-01_desc-summary.json`` what concerns the subject, so that
``--reports-only`` rebuilds the same page from the files in the output folder.
"""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import bids_app_spec
from h2lo_bids.bids.derivatives import derivative_path, result_path, session_paths
from h2lo_bids.bids.index import list_subjects
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.io import read_json, write_json
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE

FUSION = "fusion"
"""The step that is named for a scan without which the others were fused."""
_hints = cache(typing.get_type_hints)  # without it, four fifths of the time of reading a record


@dataclass(frozen=True)
class Figure:
    """One picture of a report."""

    kind: str  # key of bids_app_spec/report.yml, such as "brainmask"
    path: str  # POSIX, relative to the output folder
    note: str = ""  # what the caption adds for this scan, such as the display window
    space: str = ""  # standard space that it shows; empty for the scan itself


@dataclass(frozen=True)
class Failure:
    """An error, as the Errors section shows it."""

    node: str  # the step that failed
    message: str  # one line, with the remedy
    traceback: str = ""
    scan: str = ""  # its stem; empty for the whole subject


@dataclass(frozen=True)
class ModelInfo:
    """The trained model behind an image; fields as in the bundle's metadata."""

    name: str
    version: str = ""
    method: str = ""
    contrast: str = ""
    sha256: str = ""
    training_kind: str = "unknown"  # "simulated", "real", or "unknown": an imported checkpoint
    training_description: str = ""
    parameters: int = 0  # trained weights; 0 when unknown
    card: str = ""  # Markdown
    scaling: str = "max"  # how its input is scaled: "max" or "robust"

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any], card: str = "") -> ModelInfo:
        """Read a bundle's ``metadata.json``; absent fields stay at their defaults."""
        training = metadata.get("training_data") or {}
        texts = ("version", "method", "contrast", "sha256")
        return cls(
            name=str(metadata.get("name", "unnamed")),
            **{key: str(metadata.get(key, "")) for key in texts},
            training_kind=str(training.get("kind", "unknown")),
            training_description=str(training.get("description", "")),
            parameters=int(metadata.get("parameters") or 0),
            card=card,
            scaling=str(metadata.get("scaling", "max")),
        )


@dataclass(frozen=True)
class FoundScan:
    """One image of the subject in the dataset, used or not."""

    path: str  # relative to the dataset, POSIX
    field_strength: float | None = None  # tesla
    field_source: str = "assumed"  # key of `sources` in report.html.jinja
    use: str = "synthesized"  # or why not, such as "not used: low field"

    @property
    def session(self) -> str:
        """Session label without ``ses-``, or an empty string."""
        folders = self.path.split("/")
        return next((name[4:] for name in folders if name.startswith("ses-")), "")


@dataclass(frozen=True)
class ScanReport:
    """One scan that was processed."""

    stem: str  # file name without extension
    source: str  # relative to the dataset, POSIX
    entities: tuple[tuple[str, str], ...]  # in BIDS order, from the file name
    suffix: str  # "T1w" or "T2w"
    field_strength: float | None = None  # as in FoundScan
    field_source: str = "assumed"
    shape: tuple[int, ...] = ()  # voxels
    spacing: tuple[float, ...] = ()  # mm
    mask_method: str = ""  # in words, as in the mask's sidecar
    mask_volume: float | None = None  # ml
    model: ModelInfo | None = None
    device: str = ""
    precision: str = ""
    seed: int | None = None
    seconds: tuple[tuple[str, float], ...] = ()  # wall-clock time of each step, in order
    outputs: tuple[str, ...] = ()  # images written, relative to the output folder, POSIX
    # Of each low-field image: name, standard deviation of the noise, and the signal of white
    # matter, grey matter and fluid over it.
    signal_to_noise: tuple[tuple[str, float, float, float, float], ...] = ()
    levels: tuple[float, ...] = ()  # signal of the three tissues in the first of them
    templates: tuple[tuple[str, str], ...] = ()  # standard space, and where its image comes from
    # How its field strength was derived, and where sidecar, name and header disagree.
    metadata_warnings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()  # differences from the model's training pairs
    likeness: str = ""  # to them: "yes", "no", "unknown"; empty if not checked
    figures: tuple[Figure, ...] = ()  # in any order; the page knows where each kind goes
    regions: tuple[tuple[str, ...], ...] = ()  # of labels: a heading, then the largest lesions
    task: str = SYNTHESIZE
    parts: tuple[str, ...] = ()  # of enhancement: scans that the image was made from
    # Of enhancement: path, error and message of each scan that could not be used.
    lost: tuple[tuple[str, str, str], ...] = ()

    @property
    def enhances(self) -> bool:
        """Whether this is a low-field scan that was enhanced."""
        return self.task == ENHANCE

    @property
    def session(self) -> str:
        """Session label without ``ses-``, or an empty string."""
        return dict(self.entities).get("ses", "")


@dataclass(frozen=True)
class SubjectReport:
    """Everything on one subject's page."""

    subject: str  # without sub-
    scans: tuple[ScanReport, ...] = ()
    found: tuple[FoundScan, ...] = ()
    failures: tuple[Failure, ...] = ()
    command: str = ""  # the command line of the run
    versions: tuple[tuple[str, str], ...] = ()  # of software, this program first
    grids: tuple[str, ...] = ()  # one phrase for each further output grid
    task: str = SYNTHESIZE  # of the latest run, which may have made nothing

    @property
    def failed(self) -> set[str]:
        """Stems of the scans that failed: those whose image was made without one part did not."""
        return {failure.scan for failure in self.failures if failure.node != FUSION}

    @property
    def session_pages(self) -> dict[str, str]:
        """The name of each session's page, where the scans are too many for the subject's."""
        paths = session_paths("", self.subject, (scan.session for scan in self.scans))
        return {session: path.name for session, path in paths.items()}

    def of_session(self, session: str) -> SubjectReport:
        """Return what concerns one session."""
        return replace(
            self,
            scans=tuple(scan for scan in self.scans if scan.session == session),
            found=tuple(scan for scan in self.found if scan.session == session),
            failures=tuple(f for f in self.failures if f"_ses-{session}_" in f.scan),
        )


def from_json(kind: type, value: Any) -> Any:
    """Rebuild a record, or a part of one, from JSON; raise `TypeError` or `ValueError` if unfit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # with None
        return None if value is None else from_json(arguments[0], value)
    if kind is float and isinstance(value, int):
        return float(value)
    wanted: Any = dict if is_dataclass(kind) else list if origin is tuple else origin or kind
    if not isinstance(value, wanted):
        raise TypeError(f"expected {wanted.__name__}, found {type(value).__name__}")
    if is_dataclass(kind):
        known = {item.name for item in fields(kind)} & set(value)
        return kind(**{name: from_json(_hints(kind)[name], value[name]) for name in known})
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        return tuple(from_json(part, item) for part, item in zip(arguments, value, strict=True))
    return value


def figure_paths(out_dir: Path, stem: str, group: str, space: str | None = None) -> dict[str, Path]:
    """Return the pictures of one scan by kind; `group` is a key of ``figures`` in io_spec.json."""
    kinds = bids_app_spec.load("io_spec.json")["figures"][group]
    return {kind: figure_file(out_dir, stem, kind, ".svg", space) for kind in kinds}


def figure_file(
    out_dir: Path, stem: str, desc: str, extension: str, space: str | None = None
) -> Path:
    """Return the path of a file of one scan, such as ``..._desc-detail_T1w.svg`` of ``..._T1w``."""
    name = parse_name(stem + extension)
    if name is None:
        raise ValueError(f"{stem}: is not the stem of a BIDS file name")
    more = {"suffix": name.suffix, "extension": extension, "datatype": "figures"}
    return derivative_path(out_dir, name.entities, desc=desc, space=space, **more)


def write_scan_failure(out_dir: Path, stem: str, *failures: Failure) -> None:
    """Store how a scan failed; what an earlier run made of the scan stays on the page."""
    path = figure_file(out_dir, stem, "report", ".json")
    content = _read(path, dict) if path.is_file() else {}
    listed = [asdict(replace(item, scan=stem)) for item in failures]
    write_json(path, {**content, "failures": listed})


def scan_failed(out_dir: Path, stem: str) -> bool:
    """Return whether the latest run of a scan failed, as far as that is stored."""
    path = figure_file(out_dir, stem, "report", ".json")
    return path.is_file() and bool(_read(path, _ScanRecord).failures)


def save_subject_report(out_dir: Path, report: SubjectReport) -> None:
    """Store the subject's summary and every scan's record, without earlier failures of a scan."""
    for scan in report.scans:
        write_json(figure_file(out_dir, scan.stem, "report", ".json"), {"scan": asdict(scan)})
    for stem in dict.fromkeys(failure.scan for failure in report.failures if failure.scan):
        write_scan_failure(out_dir, stem, *(f for f in report.failures if f.scan == stem))
    general = tuple(failure for failure in report.failures if not failure.scan)
    summary = asdict(replace(report, scans=(), failures=general))
    del summary["scans"]
    write_json(result_path(out_dir, "subject_summary", sub=report.subject), summary)


def recorded_subjects(out_dir: Path) -> tuple[str, ...]:
    """List the participants of an output folder, but those of whom it has no records."""
    labels = list_subjects(out_dir)
    return tuple(label for label in labels if (out_dir / f"sub-{label}/figures").is_dir())


def load_subject_report(out_dir: Path, subject: str) -> SubjectReport:
    """Read what an earlier run stored, scans by file name, for ``--reports-only``."""
    folder = Path(out_dir) / f"sub-{subject}" / "figures"
    summary = result_path(out_dir, "subject_summary", sub=subject)
    paths = sorted(folder.glob(f"sub-{subject}_*desc-report_*.json"))
    if not paths and not summary.is_file():
        raise MissingInputError(
            f"{folder}: no stored report of sub-{subject}; run once without --reports-only"
        )
    report = _read(summary, SubjectReport) if summary.is_file() else SubjectReport(subject)
    records = [_read(path, _ScanRecord) for path in paths]
    failures = [failure for record in records for failure in record.failures]
    return replace(
        report,
        subject=subject,
        scans=tuple(record.scan for record in records if record.scan is not None),
        failures=(*report.failures, *failures),
    )


@dataclass(frozen=True)
class _ScanRecord:
    """What the record of a scan holds."""

    scan: ScanReport | None = None
    failures: tuple[Failure, ...] = ()


def _read(path: Path, kind: Any) -> Any:
    try:
        return from_json(kind, read_json(path))
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from error
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BadDataError(
            f"{path}: not a stored report ({reason}); delete it and run without --reports-only"
        ) from error
