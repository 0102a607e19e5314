"""Which methods of a table were scored on all that the others were scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from h2lo_bids.evaluation.scores import IDENTITY, Score

MARK = "†"
"""Stands behind the name of a method that lacks folds or subjects."""


def incomplete(scores: Sequence[Score]) -> tuple[str, ...]:
    """Name the methods that lack a fold or a subject that another one has.

    Their means are over other subjects, and so are not to be compared.

    Parameters
    ----------
    scores
        Of one contrast.

    Returns
    -------
    tuple of str
        In order of appearance.
    """
    covered = _covered(scores)
    most = set().union(*covered.values()) if covered else set()
    return tuple(name for name, own in covered.items() if own != most)


def coverage_notes(
    scores: Sequence[Score],
    titles: Mapping[str, str],
    folds: Sequence[int] = (),
    wanted: Sequence[str] = (),
) -> tuple[str, ...]:
    """Tell which folds and subjects are missing, one sentence per method.

    Parameters
    ----------
    scores
        Of one contrast.
    titles
        How the table calls the methods.
    folds
        Those that were planned; without them, those that any method has.
    wanted
        Methods that were asked for.

    Returns
    -------
    tuple of str
        Empty if nothing is missing.
    """
    covered = _covered(scores)
    everyone = set().union(*covered.values()) if covered else set()
    planned = sorted({*folds, *(fold for _, fold in everyone if fold is not None)})
    lines = []
    for name in dict.fromkeys([*covered, *wanted]):
        own = covered.get(name, set())
        title = titles.get(name, name)
        done = {fold for _, fold in own}
        lacking = [fold for fold in planned if fold not in done]
        if not own:
            lines.append(f"{title}: no fold is finished; it is not in the table.")
            continue
        if lacking and name != IDENTITY:
            lines.append(
                f"{title} {MARK}: {len(planned) - len(lacking)} of {len(planned)} folds; "
                f"{_folds(lacking)} not finished."
            )
        missed = [(who, fold) for who, fold in everyone - own if fold in done]
        for who, fold in sorted(missed, key=lambda item: (item[1] or 0, item[0])):
            where = "" if fold is None else f" of fold {fold}"
            lines.append(f"{title} {MARK}: sub-{who}{where} not scored.")
    return tuple(lines)


def _covered(scores: Sequence[Score]) -> dict[str, set[tuple[str, int | None]]]:
    found: dict[str, set[tuple[str, int | None]]] = {}
    for s in scores:
        found.setdefault(s.method, set()).add((s.subject, s.fold))
    return found


def _folds(lacking: Sequence[int]) -> str:
    word = "fold" if len(lacking) == 1 else "folds"
    return f"{word} {', '.join(map(str, lacking))} {'is' if len(lacking) == 1 else 'are'}"
