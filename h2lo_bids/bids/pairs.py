"""From a query to the pairs of scans to train on, and why other subjects have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from h2lo_bids.bids.explain import empty_subject
from h2lo_bids.bids.gather import (
    Findings,
    Problem,
    Skipped,
    choose_subjects,
)
from h2lo_bids.bids.index import list_subjects
from h2lo_bids.bids.pair_matching import (
    AmbiguousError,
    Match,
    UnpairedError,
    by_session,
    mask_donor,
    select,
)
from h2lo_bids.bids.pair_sides import Key, PairQuery, Sides, gather_sides, use_precomputed
from h2lo_bids.bids.query import words_of
from h2lo_bids.bids.scan import (
    TITLES,
    Scan,
    header_warnings,
    orientation,
)
from h2lo_bids.bids.validate import read_description
from h2lo_bids.errors import H2loError, NoMatchError, UsageError
from h2lo_bids.io import check_content


@dataclass(frozen=True)
class PairSource:
    """The scans of one pair."""

    hf: Scan
    lf: tuple[Scan, ...]  # one, or the axial, coronal and sagittal one to fuse
    fusion: str  # "none" for one scan, "mrr" for three
    registered: bool = False  # the low-field image is a derivative on the high-field grid
    donor: Scan | None = None  # of T2w: the session's T1w scan, which may lend its brain mask

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
    """What a query found."""

    pairs: tuple[PairSource, ...]
    problems: tuple[Problem, ...] = ()
    skipped: tuple[Skipped, ...] = ()  # subjects without a partner first
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def discover_pairs(query: PairQuery) -> PairDiscovery:
    """Find the high-field scans that a query asks for, with their low-field partners.

    Per subject and contrast: the high-field scan as at the participant level
    (1 T or more), and its partner of below 1 T from its own session or, where
    that has none, from the only other one (`by_session`, `select`). Nothing is
    guessed: what can be meant in two ways is an error.
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
        findings.add_notes(scan)
        findings.doubt(scan.path, *header_warnings(scan))
    return PairDiscovery(
        tuple(pairs),
        tuple(findings.problems),
        (*lonely, *findings.skipped),
        findings.all_notes,
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


_MOST = 6


def ambiguous(doubts: Mapping[Key, AmbiguousError], query: PairQuery) -> str:
    """Say in one line what could be meant, whom it concerns, and which option decides."""
    subject, contrast = min(doubts)
    doubt = doubts[subject, contrast]
    kind = "high-field" if doubt.side == "hf" else "low-field"
    affected = len({name for name, _ in doubts})
    said = query.hf if doubt.side == "hf" else query.lf
    words = " ".join([*said, doubt.words])
    option = f"--{doubt.side} {_quoted(words)}" if doubt.words else "--bids-filter-file"
    return (
        f"sub-{subject}: {len(doubt.candidates)} {kind} {contrast} scans could be meant "
        f"({_names(doubt.candidates)}); {affected} {_plural('subject', affected)} affected; "
        f"choose, for example with {option}" + (f", or {doubt.also}" if doubt.also else "")
    )


def no_partner(contrast: str, own: Sides, query: PairQuery, precomputed: bool) -> str:
    """Say what a subject has and lacks."""
    if not own.high and not own.low:
        return f"no {contrast} of either field that is asked for"
    if not own.high:
        asked = _asked("hf", contrast, query)
        return f"no high-field {contrast} (1 T or more){asked} beside {_names(own.low)}"
    where = ""
    if precomputed:
        where = f" in --derivatives {' '.join(name for name, _ in query.derivatives)}"
    elif query.lf_dir is not None:
        where = f" in {query.lf_dir}"
    asked = _asked("lf", contrast, query)
    return f"no low-field {contrast}{asked}{where} beside {_names(own.high)}"


def _asked(side: str, contrast: str, query: PairQuery) -> str:
    conditions = query.conditions(side, contrast)
    return f" with {words_of(conditions)}" if conditions else ""


def nothing_pairs(
    query: PairQuery, sides: Mapping[Key, Sides], subjects: Sequence[str], reasons: Sequence[str]
) -> str:
    """Say in one line what was found, when nothing pairs."""
    high = [scan for own in sides.values() for scan in own.high]
    low = [scan for own in sides.values() for scan in own.low]
    found = f"{_count(high, 'high-field')} and {_count(low, 'low-field')}"
    why = f"; {'; '.join(reasons[:2])}" if reasons else ""
    remedy = ""
    if not low:
        remedy = (
            "; low-field scans (below 1 T) may also come from --lf-dir DIR or "
            "--derivatives NAME=PATH, and those without a field strength are chosen with --lf"
        )
    elif not high:
        remedy = "; high-field scans (1 T or more) are chosen with --hf"
    people = f"{len(subjects)} {_plural('subject', len(subjects))}"
    return f"{query.bids_dir}: nothing pairs; {people} with {found}{why}{remedy}"


def _count(scans: Sequence[Scan], kind: str) -> str:
    if not scans:
        return f"no {kind} scan"
    contrasts = Counter(scan.suffix for scan in scans)
    visits = sorted({f"ses-{scan.session}" for scan in scans if scan.session})
    where = f" in {', '.join(visits[:_MOST])}" if visits else ""
    return " and ".join(f"{n} {kind} {name}" for name, n in sorted(contrasts.items())) + where


def _names(scans: Sequence[Scan]) -> str:
    """Name scans without their subject, which is said already."""
    names = [scan.stem.removeprefix(f"sub-{scan.subject}_") for scan in scans]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _quoted(words: str) -> str:
    return f'"{words}"' if " " in words else words


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
