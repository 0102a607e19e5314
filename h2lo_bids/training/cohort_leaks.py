"""No test subject may have had a part in any stage of what is scored on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import EMBEDDED, Bundle, default_bundle
from h2lo_bids.training.cohort import CohortScan, source_files
from h2lo_bids.training.leaks import seen_in_training
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.training.scoring import training_subjects
from h2lo_bids.vocabulary import CONTRASTS


def check_no_leak(
    tested: Sequence[PreparedPair],
    cohort: Sequence[CohortScan],
    bundles: Sequence[Bundle] = (),
    *,
    out_dir: Path,
    applied: bool = False,
) -> None:
    """Refuse a cohort, or the models that made its images, that saw a test subject.

    Parameters
    ----------
    tested
        Pairs of a fold's test subjects; with none there is nothing to check.
    cohort
        Scans to pretrain on. None may be of a test subject: by its label, by the
        scan that it was made from, or by that scan's very bytes.
    bundles
        The models that made the low-field images. Each must say whom it was trained
        and chosen on, and no test subject may be among them.
    out_dir
        Where the pairs are, by whose ``dataset_description.json`` their sources are found.
    applied
        Whether `bundles` make the images of the cohort, so that those which it
        brings are of no account. Otherwise the model of each image must be among
        `bundles`, or one that comes with the package.

    Raises
    ------
    UsageError
        In one line: who leaks, where, and what to do.
    """
    people = {pair.subject for pair in tested}
    if not people:
        return
    for bundle in bundles:
        _check_bundle(bundle, people, tested)
    if not applied:
        _check_makers(cohort, bundles)
    if not cohort:
        return
    own = {path for pair in tested for path in source_files(pair.sources, out_dir)}
    sizes, digests = {path.stat().st_size for path in own}, {_sha256(path) for path in own}
    for scan in cohort:
        if scan.subject in people:
            raise UsageError(
                f"{scan.high}: sub-{scan.subject} is a test subject, too; leave the subject out "
                "of the cohort, or rename it if it is another person"
            )
        for path in source_files(scan.sources, scan.root):
            if path in own or (path.stat().st_size in sizes and _sha256(path) in digests):
                raise UsageError(
                    f"{scan.high}: was made from the scan of a test subject ({path}); "
                    "leave it out of the cohort"
                )


def _check_bundle(bundle: Bundle, people: set[str], tested: Sequence[PreparedPair]) -> None:
    seen = training_subjects(bundle)
    if leaked := sorted(seen & people):
        raise UsageError(
            f"model {bundle.path}: was trained on sub-{leaked[0]}, a test subject; use a model "
            "that was fitted without the fold's test subjects"
        )
    for pair, label in seen_in_training(bundle, tested).items():
        raise UsageError(
            f"model {bundle.path}: was trained on sub-{label}, whose high-field image is that of "
            f"the test subject sub-{pair.subject}; use a model that was fitted without it"
        )
    training = bundle.metadata.get("training_data") or {}
    if not seen and training.get("kind") != "none":
        raise UsageError(
            f"model {bundle.path}: does not say whom it was trained on, so that test subjects "
            "may be among them; take another model"
        )


def _check_makers(cohort: Sequence[CohortScan], bundles: Sequence[Bundle]) -> None:
    known = {bundle.sha256 for bundle in bundles}
    known |= {default_bundle(c, method=m).sha256 for c in CONTRASTS for m in EMBEDDED}
    for scan in cohort:
        for image in scan.low:
            if image.sha256 not in known:
                raise UsageError(
                    f"{image.path}: was made by model {image.model} ({image.sha256[:12]}), and "
                    "whom that was trained on is unknown here; give its bundle with --model"
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
