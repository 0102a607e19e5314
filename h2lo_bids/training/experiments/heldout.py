"""Scores, realism and pictures of a held-out pair."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation import realism
from h2lo_bids.evaluation.benchmark import DETAIL
from h2lo_bids.evaluation.catalogue import OWN, STRANGER
from h2lo_bids.evaluation.metrics import foreground, histogram
from h2lo_bids.evaluation.realism import HALF_PITCH_MM, Appearance
from h2lo_bids.evaluation.scores import Realism, Score, score, write_realism, write_scores
from h2lo_bids.io import atomic_path
from h2lo_bids.models.registry import Model
from h2lo_bids.synthesis.noise import scan_seed
from h2lo_bids.synthesis.options import DEFAULTS, EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.training.experiments.leaks import same_people
from h2lo_bids.training.pairs import Pair, PreparedPair, read_prepared
from h2lo_bids.vocabulary import IDENTITY

SCORES, PICTURES, REALISM = "scores.tsv", "pictures.npz", "realism.tsv"
Figures = dict[str, float]


def predict_pair(
    model: Model, pair: Pair, options: EngineOptions = DEFAULTS, seed: int = 42
) -> np.ndarray:
    """Make a pair's target on its grid: float32 (X, Y, Z), not clipped, 0 outside the brain."""
    return predict(model, pair.hf, pair.mask, options=options, seed=scan_seed(seed, pair.name))


def score_pair(
    pair: Pair, image: np.ndarray, *, method: str = IDENTITY, fold: int | None = None
) -> tuple[Score, ...]:
    """Score what was made of a pair's target, or the pair's input itself, in each region."""
    return score(image, pair.lf, pair.high_field, subject=pair.name, method=method, fold=fold)


@dataclass
class Scored:
    """Scores, realism and pictures of some test subjects."""

    scores: list[Score] = field(default_factory=list)
    realism: list[Realism] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    detail: list[dict[str, Figures]] = field(default_factory=list)

    def write(self, folder: Path, titles: Mapping[str, str]) -> None:
        """Write them as files of a folder; pictures as one ``.npz`` file, always the same bytes."""
        write_scores(folder / SCORES, self.scores, titles)
        if self.realism:
            write_realism(folder / REALISM, self.realism, titles)
        with atomic_path(folder / PICTURES) as temporary:
            np.savez_compressed(temporary, **dict(sorted(self.pictures.items())))  # type: ignore[arg-type]


def stranger_to(prepared: PreparedPair, pairs: Sequence[PreparedPair]) -> Pair | None:
    """Load the pair of the next other person that can be read; None if there is none."""
    at = list(pairs).index(prepared)
    for other in (*pairs[at + 1 :], *pairs[:at]):
        if other.subject != prepared.subject and other.frame == prepared.frame:
            with contextlib.suppress(BadDataError):  # reported in its own turn
                if not same_people((prepared, other)):
                    return read_prepared(other)
    return None


def realism_of(
    pair: Pair,
    made: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    *,
    stranger: Pair | None = None,
    fold: int | None = None,
    references: Sequence[Appearance] = (),
) -> list[Realism]:
    """Measure how real images of a pair, cut to [0, 1], look; the target's row is the first."""
    from scipy.ndimage import binary_fill_holes

    shared = pair.mask if stranger is None else pair.mask & stranger.mask
    window = realism.tapered(shared, spacing)
    # A low-field image that was stripped by itself is 0 in part of the high-field brain.
    inside = pair.mask & binary_fill_holes(np.asarray(pair.lf) > 0)
    target = realism.appearance(pair.lf, inside, spacing)

    def measure(kind: str, name: str, image: np.ndarray, own: Appearance) -> Realism:
        values = {**own.values(), **nearest(own, references)}
        values |= zip(OWN, realism.band_correlation(image, pair.hf, window, spacing), strict=True)
        if stranger is not None:
            other = realism.band_correlation(image, stranger.hf, window, spacing)
            values |= zip(STRANGER, other, strict=True)
        if own is not target:
            values["spectrum_db"] = realism.spectrum_distance(own, target)
        return Realism(kind, name, pair.name, fold, values)

    rows = [measure("target", "", pair.lf, target)]
    for name, image in made.items():
        cut = np.clip(image, 0, 1)
        rows.append(measure("synthesized", name, cut, realism.appearance(cut, inside, spacing)))
    return rows


def detail_of(
    pair: Pair, images: Mapping[str, np.ndarray], spacing: Sequence[float]
) -> dict[str, Figures]:
    """Correlate images, cut to [0, 1], with a pair's target in the bands of `DETAIL`, by image."""
    # A mere change of contrast hardly changes these correlations.
    window, figures = realism.tapered(pair.mask, spacing), {}
    for name, image in images.items():
        bands = realism.band_correlation(np.clip(image, 0, 1), pair.lf, window, spacing)
        by_band = dict(zip(HALF_PITCH_MM, bands, strict=True))
        figures[name] = {
            key: by_band[band] for key, band in DETAIL.items() if not math.isnan(by_band[band])
        }
    return figures


def nearest(own: Appearance, references: Sequence[Appearance]) -> dict[str, float]:
    """Return the distances of an image from the nearest reference; empty without one."""
    if not references:
        return {}
    spectra = [realism.spectrum_distance(own, other) for other in references]
    return {
        "reference_spectrum_db": min((d for d in spectra if not math.isnan(d)), default=math.nan),
        "reference_histogram": min(realism.histogram_distance(own, other) for other in references),
    }


def pictures_of(pair: Pair, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Cut the slices through the middle of the brain and count the histograms, in float16."""
    # The axial, coronal and sagittal slice are padded to the longest side of the grid, (3, n, n).
    volumes = {"hf": pair.hf, "lf": pair.lf, "predicted": np.clip(predicted, 0, 1)}
    x, y, z = (int(at.min() + at.max()) // 2 for at in np.nonzero(pair.mask))
    where = foreground(pair.high_field)
    pictures = {
        f"{pair.name}/{kind}": _slices(volume, x, y, z).astype(np.float16)
        for kind, volume in volumes.items()
    }
    counts = np.stack([histogram(volume, where) for volume in volumes.values()])
    return {**pictures, f"{pair.name}/histograms": counts.astype(np.float16)}


def _slices(volume: np.ndarray, x: int, y: int, z: int) -> np.ndarray:
    side, cuts = max(volume.shape), (volume[:, :, z], volume[:, y, :], volume[x])
    margins = [[((side - n) // 2, (side - n + 1) // 2) for n in cut.shape] for cut in cuts]
    return np.stack([np.pad(cut, margin) for cut, margin in zip(cuts, margins, strict=True)])
