"""A subject's scores in both regions, their mix and their file."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import rows_of
from samples import cohort, made_up

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.evaluation import metrics
from h2lo_bids.evaluation.catalogue import CATALOGUE
from h2lo_bids.evaluation.scores import (
    REGIONS,
    SCORED,
    read_scores,
    score,
    select,
    under,
    write_scores,
)


def volumes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    hf = rng.random((5, 14, 15))
    hf[:, :4] = 0
    hf[2] = 0  # a slice of background
    return np.clip(hf + 0.2 * rng.standard_normal(hf.shape), -1, 2), 0.8 * hf**2, hf


def test_both_conventions_are_scored_and_differ_only_beyond_the_range() -> None:
    """A release's figure by hand: unclipped, its error is 0.5 in each of a tenth of the voxels."""
    target = np.full((4, 10, 10), 0.5)
    target[:, 0] = 1.0
    target[0, 1, 1] = 0.0
    predicted = np.where(target == 1, 1.5, target)
    for s in score(predicted, target, np.ones_like(target), subject="01", method="m"):
        assert s.values["psnr"] == math.inf
        assert s.values["ssim"] == pytest.approx(100)
        (raw,) = under([s], "release")
        assert raw.values["psnr"] == pytest.approx(-10 * math.log10(0.1 * 0.5**2))
        expected = np.corrcoef(predicted.ravel(), target.ravel())[0, 1]
        assert raw.values["ncc"] == pytest.approx(expected)
        changed = {name for name, value in s.values.items() if raw.values[name] != value}
        assert changed == {"psnr", "ssim", "ncc"}
        with pytest.raises(BadDataError, match="scored by an earlier version"):
            under([replace(s, unclipped={})], "release")
    within = score(target.clip(0.2, 0.9), target, target, subject="01", method="m")
    assert [s.values for s in under(within, "release")] == [s.values for s in within]


def test_regions_count_their_voxels_and_the_paper_mixes_them() -> None:
    predicted, target, hf = volumes()
    inside, whole = score(predicted, target, hf, subject="01", method="h2lo", fold=2)
    assert (inside.region, whole.region) == REGIONS
    image = np.clip(predicted, 0, 1)
    similar = metrics.ssim_map(image, target)
    for found, chosen in ((inside, hf > 0.01), (whole, None)):
        expected = metrics.image_metrics(image, target, chosen, similar)
        expected |= metrics.histogram_metrics(image, target, chosen)
        assert found.values == expected | {"nmi": metrics.nmi(image, target, chosen)}
        assert tuple(found.values) == SCORED == tuple(CATALOGUE)
    (mixed,) = select([inside, whole])
    assert mixed.region == "paper"
    of_paper = metrics.evaluate(predicted, target, hf)  # of values outside the range, too
    assert tuple(of_paper) == metrics.METRICS
    assert mixed.values == pytest.approx(of_paper | {"nmi": inside.values["nmi"]})
    later = replace(inside, values={}), replace(whole, values={})
    assert select([inside, whole, *later]) == (mixed,)  # a subject counts once
    with pytest.raises(BadDataError, match=r"subject 01: .* lack a region"):
        select([inside])


def test_what_cannot_be_scored_names_the_subject(refused) -> None:
    predicted, target, hf = volumes()
    for images, complaint in (
        ((predicted, target, 0 * hf), "subject 07: no voxel"),
        ((predicted * np.nan, target, hf), "subject 07: x gave NaN"),
    ):
        assert complaint in refused(BadDataError, score, *images, subject="07", method="x")


def test_scores_come_back_digit_by_digit(tmp_path: Path) -> None:
    scores = [*cohort(), *made_up("3_GE", "h2lo", None, 1 / 3)]
    path = write_scores(tmp_path / "x_scores.tsv", scores)
    assert read_scores(path) == tuple(scores)
    last = rows_of(path)[-1]
    assert (last["participant_id"], last["session_id"], last["fold"]) == ("sub-3", "ses-GE", "n/a")
    write_scores(path, made_up("1", "h2lo", 0, 1.0, psnr=math.inf, ncc=math.nan))
    assert {row["psnr"] + row["ncc"] for row in rows_of(path)} == {"n/an/a"}
    assert math.isnan(read_scores(path)[0].values["psnr"])


def test_damaged_scores_are_one_line(tmp_path: Path, refused) -> None:
    path = write_scores(tmp_path / "s.tsv", cohort())
    whole = path.read_text()
    half = whole[: len(whole) // 2].rsplit("\t", 2)[0]
    spoilt = [("foreground", "brain"), ("psnr", "snr"), ("\t0\t", "\tzero\t")]
    for text in (half, *(whole.replace(*words, 1) for words in spoilt)):
        path.write_text(text)
        assert re.search(r"s\.tsv: line \d+ is not", refused(BadDataError, read_scores, path))
    path.unlink()
    assert "s.tsv: cannot be read" in refused(MissingInputError, read_scores, path)
