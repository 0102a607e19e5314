"""From a query to the pairs of scans to train on, and why other subjects have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from h2lo_bids.bids.explain import empty_subject
from h2lo_bids.bids.findings import Findings, Problem, Skipped
from h2lo_bids.bids.gather import choose_subjects
from h2lo_bids.bids.orientation import TITLES, header_warnings, orientation
from h2lo_bids.bids.pairquery import PairQuery
from h2lo_bids.bids.pairs_choose import AmbiguousError, Match, UnpairedError, by_session, select
from h2lo_bids.bids.pairs_donor import mask_donor
from h2lo_bids.bids.pairs_explain import ambiguous, no_partner, nothing_pairs
from h2lo_bids.bids.pairs_precomputed import use_precomputed
from h2lo_bids.bids.pairs_sides import Key, Sides, gather_sides
from h2lo_bids.bids.participants import list_subjects
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.validate import read_description
from h2lo_bids.errors import H2loError, NoMatchError, UsageError
from h2lo_bids.io import check_content

__all__ = ["PairDiscovery", "PairQuery", "PairSource", "discover_pairs"]


@dataclass(frozen=True)
class PairSource:
    """The scans of one pair.

    Attributes
    ----------
    hf : Scan
        The high-field scan.
    lf : tuple of Scan
        The low-field scan, or the axial, coronal and sagittal one to fuse.
    fusion : str
        ``"none"`` for one scan, ``"mrr"`` for three.
    registered : bool
        Whether the low-field image is a derivative on the high-field grid.
    donor : Scan or None
        For T2w, the session's high-field T1w scan, which may lend its brain mask.
    """

    hf: Scan
    lf: tuple[Scan, ...]
    fusion: str
    registered: bool = False
    donor: Scan | None = None

    @property
    def subject(self) -> str:
        """Label without ``sub-``."""
        return self.hf.subject

    @property
    def contrast(self) -> str:
        """``"T1w"`` or ``"T2w"``."""
        return self.hf.suffix

    @property
    def name(self) -> str:
        """That of the high-field scan, unique in a dataset."""
        return self.hf.stem


@dataclass(frozen=True)
class PairDiscovery:
    """What a query found.

    Attributes
    ----------
    pairs : tuple of PairSource
        By subject, contrast and session.
    problems : tuple of Problem
        Each concerns one image or subject; the pairs are unaffected.
    skipped : tuple of Skipped
        Subjects without a partner first, then scans left out on purpose.
    notes, warnings : tuple of str
        As of :class:`~h2lo_bids.bids.discover.Discovery`.
    """

    pairs: tuple[PairSource, ...]
    problems: tuple[Problem, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def discover_pairs(query: PairQuery) -> PairDiscovery:
    """Find the high-field scans that a query asks for, with their low-field partners.

    Per subject and contrast: the high-field scan as at the participant level
    (1 T or more), and its partner of below 1 T from its own session or, where
    that has none, from the only other one; see
    :func:`h2lo_bids.bids.pairs_choose.by_session` and
    :func:`~h2lo_bids.bids.pairs_choose.select`. Nothing is guessed: what can
    be meant in two ways is an error.

    Parameters
    ----------
    query : PairQuery
        What is wanted.

    Returns
    -------
    PairDiscovery
        With at least one pair or problem.

    Raises
    ------
    MissingInputError
        A dataset cannot be read.
    InvalidBidsError
        A dataset is not BIDS (unless the query skips validation).
    UsageError
        Several scans could be meant; the message lists them and says which
        option decides.
    NoMatchError
        Nothing pairs; the message says what was found.
    """
    findings = Findings()
    skip = query.skip_bids_validation
    read_description(query.bids_dir, skip=skip, doubt=findings.doubt)
    existing = list_subjects(query.bids_dir)
    subjects = choose_subjects(query.raw(), existing, findings)
    sides = gather_sides(query, subjects, existing, findings)
    pairs, lonely = _pairs(query, subjects, sides, findings)
    if not pairs and not findings.problems:
        reasons = list(dict.fromkeys(item.reason for item in (*lonely, *findings.skipped)))
        reasons.sort(key=lambda text: "did you mean" not in text)
        raise NoMatchError(nothing_pairs(query, sides, subjects, reasons))
    for scan in (scan for pair in pairs for scan in (pair.hf, *pair.lf)):
        findings.hear(scan)
        findings.doubt(scan.path, *header_warnings(scan))
    return PairDiscovery(
        tuple(pairs),
        tuple(findings.problems),
        (*lonely, *findings.skipped),
        findings.told,
        findings.warnings,
    )


def _pairs(
    query: PairQuery, subjects: Iterable[str], sides: dict[Key, Sides], findings: Findings
) -> tuple[list[PairSource], list[Skipped]]:
    """Return the pairs whose content is there, and the subjects without one."""
    derived: set[str] = set()
    if query.fusion != "mrr":
        derived = use_precomputed(query, sides, findings)
    elif query.derivatives:
        findings.notes.append("--lf-fusion mrr: no fused images were looked for in --derivatives")
    lonely = [
        Skipped(
            query.bids_dir / f"sub-{label}",
            f"sub-{label}: {_empty(query, label)}",
        )
        for label in subjects
        if not any((label, contrast) in sides for contrast in query.contrasts)
    ]
    matches = _matches(query, sides, derived, findings, lonely)
    if query.fusion == "auto":
        matches = _alike(query, matches, lonely)
    pairs = [
        PairSource(*match, registered=match.hf.suffix in derived, donor=mask_donor(match.hf, query))
        for match in matches
        if _present(match, findings)
    ]
    return pairs, lonely


def _empty(query: PairQuery, label: str) -> str:
    return empty_subject(query.bids_dir / f"sub-{label}", query.session_labels, query.contrasts)


def _matches(
    query: PairQuery,
    sides: dict[Key, Sides],
    derived: set[str],
    findings: Findings,
    lonely: list[Skipped],
) -> list[Match]:
    """Match each subject's scans; raise once for all that is ambiguous."""
    matches: list[Match] = []
    doubts: dict[Key, AmbiguousError] = {}
    for (subject, contrast), own in sorted(sides.items()):
        if own.broken:
            continue
        tell: Callable[[Scan, str], None] = lambda scan, why: findings.skip(scan.path, why)  # noqa: E731
        folder = query.bids_dir / f"sub-{subject}"
        chosen = bool(query.conditions("hf", contrast))
        try:
            matched = by_session(own.high, own.low, chosen=chosen, tell=tell)
        except UnpairedError:
            reason = no_partner(contrast, own, query, contrast in derived)
            lonely.append(Skipped(folder, f"sub-{subject}: {reason}"))
            continue
        except AmbiguousError as doubt:
            doubts[subject, contrast] = doubt
            continue
        for hf, low in matched:
            try:
                fusion = "none" if contrast in derived else query.fusion
                matches.append(select(hf, low, fusion, tell))
            except UnpairedError as reason:
                lonely.append(Skipped(folder, f"sub-{subject}: {reason}"))
            except AmbiguousError as doubt:
                doubts[subject, contrast] = doubt
            except H2loError as error:
                findings.fail(hf.path, error)
    if doubts:
        raise UsageError(ambiguous(doubts, query))
    return matches


def _alike(query: PairQuery, matches: list[Match], lonely: list[Skipped]) -> list[Match]:
    """Leave out single scans of a contrast of which other subjects have three to fuse."""
    fused = {match.hf.suffix for match in matches if match.fusion == "mrr"}
    kept = []
    for match in matches:
        if match.fusion == "none" and match.hf.suffix in fused:
            way = TITLES.get(orientation(match.lf[0]) or "", "single")
            lonely.append(
                Skipped(
                    query.bids_dir / f"sub-{match.hf.subject}",
                    f"sub-{match.hf.subject}: only one (the {way}) low-field {match.hf.suffix}, "
                    "while others have three to fuse; use single scans with --lf-fusion none",
                )
            )
        else:
            kept.append(match)
    return kept


def _present(match: Match, findings: Findings) -> bool:
    """Check that the content of every image of a pair is there."""
    whole = True
    for scan in (match.hf, *match.lf):
        try:
            check_content(scan.path)
        except H2loError as error:
            findings.fail(scan.path, error)
            whole = False
    return whole
