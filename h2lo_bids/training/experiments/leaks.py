"""No test subject may have had a part in what is scored on it, under any name."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import connected_components

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import weigh_by_axis
from h2lo_bids.models.bundle import EMBEDDED, Bundle, default_bundle
from h2lo_bids.training.pairs import Pair, PreparedPair, read_prepared
from h2lo_bids.vocabulary import CONTRASTS

if TYPE_CHECKING:
    from h2lo_bids.training.experiments.cohort import Cohort

SAME = 0.8
"""Likeness of two brains above which they are of one person.

Measured in T1w and T2w on 56 simulated people (three of each of 16 label maps, eight of one
template) and in T1w on 5 real ones: different people stay below 0.67, real ones below 0.60. One
person stays above 0.86 through another scanner and protocol, 2 % noise, 16 bits, 20 % more bias,
resampling through 4 mm, a shift, a mask that is 2 mm wider or narrower, or a head turned by 3
degrees. A head turned by 5 degrees falls to 0.76: a second scan of a person may go unnoticed.
"""
OTHER, UNLIKE = 0.67, 0.36
"""Likeness of brains of one label, as many sites have a sub-01, above which they are of one person,
and below which of two; between them it is unknown: a head turned by 12 degrees falls to 0.37.
"""

_STEP = 8.0
_FINE, _COARSE = 3.0, 8.0
"""Grid, and standard deviations of the two Gaussians whose difference is kept, in mm."""
_SITES = (21, 25, 23)
_INSIDE = 0.9
_LEVELS = 7


def fingerprint(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Describe a brain by int8 (21, 25, 23), -7 to 7, that depend on its anatomy alone.

    It is the difference of two Gaussian averages over the mask, sampled every 8 mm around the
    mask's centroid, so that the image's scale and the grid's place and extent do not count; 0
    near the outline and outside. Axes towards right, anterior and superior, `spacing` in mm.
    """
    found = np.argwhere(mask)
    if not len(found):
        return np.zeros(_SITES, np.int8)
    box = bounding_box(mask)
    inside = np.asarray(mask[box], np.float32)
    centre = (found - found.min(0)).mean(0)
    values = np.asarray(image[box], np.float32) * inside
    values = values.clip(0, np.percentile(values[inside > 0], 99.5))
    weights = [_gaussians(inside.shape, centre, spacing, sigma) for sigma in (_FINE, _COARSE)]
    covered = [weigh_by_axis(inside, w) for w in weights]
    means = [weigh_by_axis(values, w) / c.clip(1e-3) for w, c in zip(weights, covered, strict=True)]
    detail = np.where(covered[0] > _INSIDE * covered[0].max(), means[0] - means[1], 0)
    spread = np.sqrt(np.mean(detail[detail != 0] ** 2)) if detail.any() else 1.0
    return np.rint(2 * detail / spread).clip(-_LEVELS, _LEVELS).astype(np.int8)


def _gaussians(
    shape: tuple[int, ...], centre: np.ndarray, spacing: Sequence[float], sigma: float
) -> list[np.ndarray]:
    """Return for each axis the weights of its voxels at each site."""
    weights = []
    for n, middle, side, sites in zip(shape, centre, spacing, _SITES, strict=True):
        at = _STEP * (np.arange(sites) - sites // 2)
        away = at[:, None] - side * (np.arange(n) - middle)
        density = np.exp(-((away / sigma) ** 2) / 2) * side / sigma / np.sqrt(2 * np.pi)
        weights.append(density.astype(np.float32))
    return weights


def likeness(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """Return how much n fingerprints agree with m others, or with their mirror images: (n, m)."""
    own, theirs = _unit(some), _unit(others)
    flipped = _unit([other[::-1] for other in others])
    return np.maximum(own @ theirs.T, own @ flipped.T)


def _unit(found: Sequence[np.ndarray]) -> np.ndarray:
    rows = np.stack(found).reshape(len(found), -1).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1)


def encode(found: np.ndarray) -> str:
    """Write a fingerprint as text, for JSON."""
    return base64.b64encode(zlib.compress(found.tobytes(), 9)).decode()


def decode(text: str) -> np.ndarray:
    """Read a fingerprint from `encode`'s text, or raise `ValueError`."""
    size = int(np.prod(_SITES))
    try:
        # Bounded: the text may come from anyone.
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error, TypeError) as err:
        raise ValueError(f"not a fingerprint: {err}") from err
    if len(content) != size:
        raise ValueError("not a fingerprint: of another size")
    return np.frombuffer(content, np.int8).reshape(_SITES)


def brain_of(pair: PreparedPair) -> np.ndarray:
    """Return the fingerprint of a pair's high-field image: the recorded one, if there is one."""
    try:
        return decode(pair.brain)
    except ValueError:  # prepared by an earlier version
        volumes = read_prepared(pair)
        return fingerprint(volumes.high_field, volumes.mask, pair.frame.spacing)


def same_people(pairs: Iterable[PreparedPair]) -> tuple[tuple[str, ...], ...]:
    """Group the subjects who are one person by their images."""
    pairs = tuple(pairs)
    labels = sorted({pair.subject for pair in pairs})
    if len(labels) < 2:
        return ()
    owners = [labels.index(pair.subject) for pair in pairs]
    brains = [brain_of(pair) for pair in pairs]
    alike = np.eye(len(labels), dtype=bool)
    for one, other in np.argwhere(likeness(brains, brains) > SAME):
        alike[owners[one], owners[other]] = True
    count, person = connected_components(alike, directed=False)
    groups = [
        tuple(label for label, k in zip(labels, person, strict=True) if k == number)
        for number in range(count)
    ]
    return tuple(group for group in groups if len(group) > 1)


def training_subjects(bundle: Bundle) -> frozenset[str]:
    """Return the labels that a bundle was fitted or chosen on, as far as it says."""
    named = bundle.metadata.get("training_data", {}).get("subjects")
    parts = [v for k, v in named.items() if k != "test"] if isinstance(named, dict) else [named]
    names = [name for part in parts if isinstance(part, list) for name in part]
    return frozenset(str(name).removeprefix("sub-") for name in names)


def seen_in_training(
    bundle: Bundle, pairs: Iterable[PreparedPair], least: float = OTHER
) -> dict[PreparedPair, str]:
    """Return those of some pairs whose person a model has seen, with the label in its training."""
    # The pair's own label if it is among several; under it the likeness `least` is enough.
    pairs = tuple(pairs)
    told = bundle.metadata.get("training_data", {}).get("fingerprints") or {}
    try:
        known = [(str(label), decode(t)) for label, texts in told.items() for t in texts]
    except (AttributeError, TypeError, ValueError) as err:
        raise BadDataError(f"{bundle.path}: its fingerprints are damaged; get it again") from err
    if not known or not pairs:
        return {}
    alike = likeness([brain_of(pair) for pair in pairs], [brain for _, brain in known])
    found = {}
    for pair, row in zip(pairs, alike, strict=True):
        ordered = [(known[k][0], row[k]) for k in np.argsort(-row)]
        labels = [own for own, r in ordered if r > (least if own == pair.subject else SAME)]
        if labels:
            found[pair] = pair.subject if pair.subject in labels else labels[0]
    return found


def check_images(cohort: Sequence[Pair], tested: Sequence[Pair], spacing: Sequence[float]) -> None:
    """Refuse a cohort that holds a test subject under another name."""
    if not cohort or not tested:
        return
    brains = [
        [fingerprint(pair.high_field, pair.mask, spacing) for pair in part]
        for part in (cohort, tested)
    ]
    for row, column in np.argwhere(likeness(*brains) > SAME):
        raise UsageError(
            f"the cohort's {cohort[row].name} and the test subject {tested[column].name} have "
            "the same high-field image; remove this subject from the cohort"
        )


def check_no_leak(
    tested: Sequence[PreparedPair], cohort: Cohort | None, bundles: Sequence[Bundle]
) -> None:
    """Refuse a cohort, or models that made its images or start a fit, that saw a test subject."""
    people = {pair.subject for pair in tested}
    if not people:
        return
    for bundle in bundles:
        _check_bundle(bundle, people, tested)
    known = {bundle.sha256 for bundle in bundles}
    known |= {default_bundle(c, method=m).sha256 for c in CONTRASTS for m in EMBEDDED}
    for scan in cohort.scans if cohort else ():
        if scan.subject in people:
            raise UsageError(
                f"{scan.high}: sub-{scan.subject} is a test subject, too; leave the subject out "
                "of the cohort, or rename it if it is another person"
            )
        for image in () if cohort and cohort.bundle else scan.low:
            if image.sha256 not in known:
                raise UsageError(
                    f"{image.path}: was made by model {image.model} ({image.sha256[:12]}), and "
                    "whom that was trained on is unknown here; give its bundle with --model"
                )


def _check_bundle(bundle: Bundle, people: set[str], tested: Sequence[PreparedPair]) -> None:
    seen, found = training_subjects(bundle), seen_in_training(bundle, tested, UNLIKE)
    training = bundle.metadata.get("training_data") or {}
    # Where there is a fingerprint, it says when it is another sub-01.
    leaked = people & seen - {*(training.get("fingerprints") or ())}
    leaked |= {label for pair, label in found.items() if label == pair.subject}
    if leaked:
        raise UsageError(
            f"model {bundle.path}: was trained on sub-{min(leaked)}, a test subject, or one of "
            "that label; use a model that was fitted without the fold's test subjects, or rename "
            f"sub-{min(leaked)} if it is another person"
        )
    for pair, label in found.items():
        raise UsageError(
            f"model {bundle.path}: was trained on sub-{label}, whose high-field image is that of "
            f"the test subject sub-{pair.subject}; use a model that was fitted without it"
        )
    if not seen and training.get("kind") != "none":
        raise UsageError(
            f"model {bundle.path}: does not say whom it was trained on, so that test subjects "
            "may be among them; take another model"
        )
