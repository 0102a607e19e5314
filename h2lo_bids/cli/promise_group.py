"""What the levels that work on pairs would write, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from h2lo_bids.bids.pairnames import pair_paths
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.cli.promise import RUN, Promise, log_of, of_pair_images, of_result, of_run
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import SYNTHESIZE


def of_pairs(settings: Settings, found: PairDiscovery) -> Iterator[Promise]:
    """Name the prepared pairs, and what every run writes.

    Parameters
    ----------
    settings
        What is asked for.
    found
        The pairs.
    """
    for pair in found.pairs:
        paths = pair_paths(settings.out_dir, pair.hf, pair.contrast)
        yield from of_pair_images(paths, pair.hf.relative_path)
    for subject in dict.fromkeys(pair.subject for pair in found.pairs):
        yield from of_result(settings, "subject_log", run=RUN, sub=subject)
    yield from of_run(settings, failures=bool(found.problems))


def of_group(settings: Settings, found: PairDiscovery) -> Iterator[Promise]:
    """Name the pairs, and what comes of fits to them.

    Raises
    ------
    UsageError
        If the folds cannot be made of the pairs that were found.
    """
    folds = folds_of(settings, found)
    yield from _cross_validation(settings, found, folds)
    if settings.fold or settings.no_final:
        return
    for contrast, numbers in folds.items():
        names = {"method": settings.methods[0], "contrast": contrast}
        yield from of_result(settings, "model", **names)
        for number, _ in enumerate(() if settings.fits_enhancer else numbers):
            yield from of_result(settings, "member", **names, number=number)
        yield log_of(settings, f"models/{settings.methods[0]}_{contrast}")


def of_benchmark(settings: Settings, found: PairDiscovery) -> Iterator[Promise]:
    """Name what `of_group` does but models, and the table of all methods.

    Raises
    ------
    UsageError
        As `of_group`.
    """
    folds = folds_of(settings, found)
    yield from _cross_validation(settings, found, folds)
    if folds and not settings.fold:
        key = "enhancement_benchmark" if settings.fits_enhancer else "benchmark"
        yield from of_result(settings, key)
        for contrast in folds:
            yield from of_result(settings, f"{key}_contrast", contrast=contrast)


def of_evaluation(settings: Settings, found: PairDiscovery) -> Iterator[Promise]:
    """Name the pairs, and what comes of scoring models on them.

    Raises
    ------
    H2loError
        If a model cannot be read, or there are no pairs for it.
    """
    yield from of_pairs(settings, found)
    if not found.pairs:
        return
    from h2lo_bids.cli.modelchoice import named_models

    for contrast, models in named_models(settings, tuple(people_of(found))).items():
        for name, bundle in models:
            yield from of_result(settings, "evaluated", contrast=contrast, model=name)
            if bundle.task == SYNTHESIZE:
                yield from of_result(settings, "evaluated_realism", contrast=contrast, model=name)
        yield from of_result(settings, "evaluation_tables", contrast=contrast)
    yield from of_result(settings, "group_report")


def people_of(found: PairDiscovery) -> dict[str, list[str]]:
    """Return the subjects of each contrast's pairs, both sorted."""
    people: dict[str, set[str]] = {}
    for pair in found.pairs:
        people.setdefault(pair.contrast, set()).add(pair.subject)
    return {contrast: sorted(people[contrast]) for contrast in sorted(people)}


def folds_of(settings: Settings, found: PairDiscovery) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the folds of each contrast."""
    from h2lo_bids.cli.planwork import divide_subjects

    return {
        contrast: tuple(fold.index for fold in divide_subjects(settings, contrast, subjects))
        for contrast, subjects in people_of(found).items()
    }


def _cross_validation(
    settings: Settings, found: PairDiscovery, folds: dict[str, tuple[int, ...]]
) -> Iterator[Promise]:
    """Name the pairs, the folds, and what is collected from them."""
    yield from of_pairs(settings, found)
    some = any(folds.values())
    if some:
        yield from of_result(settings, "splits")
    for contrast, numbers in folds.items():
        for name in settings.arms:
            yield from _fits(settings, contrast, name, numbers)
    if settings.fold or not folds:
        return
    prefix = "enhancement" if settings.fits_enhancer else "group"
    yield from of_result(settings, f"{prefix}_report")
    if some:
        yield from of_result(settings, "citation")
    for contrast, numbers in folds.items():
        if numbers:
            yield from of_result(settings, f"{prefix}_tables", contrast=contrast)


def _fits(settings: Settings, contrast: str, name: str, folds: Iterable[int]) -> Iterator[Promise]:
    key = "external_fold" if name in dict(settings.external) else "fold"
    for fold in folds:
        if not settings.fold or fold in settings.fold:
            yield from of_result(settings, key, contrast=contrast, method=name, fold=fold)
            if not settings.fits_enhancer:
                yield from of_result(
                    settings, "fold_realism", contrast=contrast, method=name, fold=fold
                )
            yield log_of(settings, f"folds/{contrast}/{name}/fold-{fold}")
