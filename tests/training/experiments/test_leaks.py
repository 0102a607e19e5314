"""One person under two names is found by the image, and other people are not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import write_bundle
from prepared_pairs import FRAME, fold_of, write_pairs
from problems import small_options
from scipy import ndimage
from training_pairs import draw_high_field, signal_of_other

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.models.bundle import Bundle, load_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.phantom.anatomy import load_labels, make_subject, vary
from h2lo_bids.phantom.physics import HIGH_FIELD, signal_of
from h2lo_bids.phantom.scans import high_field_scan, nominal_look
from h2lo_bids.training.experiments import leaks
from h2lo_bids.training.experiments.crossvalidation import BUNDLE, run_fold
from h2lo_bids.training.experiments.leaks import SAME, brain_of, encode, seen_in_training

SHAPE, SIDE = (52, 64, 64), 4.0


@cache
def subject_of(labels: Path, person: int) -> tuple:
    """Return a simulated subject and its brain."""
    rng = np.random.default_rng([person, 0])
    head, mask = vary(load_labels(labels), rng, shape=SHAPE, spacing=SIDE)
    return make_subject(head, mask, rng), mask


def scan(labels: Path, person: int, contrast: str, other: bool = False) -> tuple[np.ndarray, ...]:
    """Return an image of a subject and its brain, in one of two scanners."""
    subject, mask = subject_of(labels, person)
    noise = np.random.default_rng([person, 1 + other])
    if other:
        values = signal_of_other(draw_high_field(contrast, noise), subject.tissues)
    else:
        values = signal_of(HIGH_FIELD[contrast], subject.tissues)
    return high_field_scan(subject, values, noise, nominal_look(contrast, noise)), mask


def print_of(image: np.ndarray, mask: np.ndarray, side: float = SIDE) -> np.ndarray:
    return leaks.fingerprint(image, mask, (side, side, side))


def between(one: np.ndarray, other: np.ndarray) -> float:
    return float(leaks.likeness([one], [other])[0, 0])


def altered(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return prints of an image as other hands may pass it on."""
    noisy = image + 0.02 * image.max() * np.random.default_rng(1).normal(size=image.shape)
    half = ndimage.affine_transform(image, np.eye(3), offset=0.5, order=1)
    bright = image.copy()
    bright[tuple(np.argwhere(mask)[1000])] *= 10
    return {
        "scaled 16 bits": print_of(np.rint(image / image.max() * 2000).astype(np.int16), mask),
        "flipped": print_of(image[::-1], mask[::-1]),
        "cropped": print_of(image[3:-3, 3:-5, 2:-3], mask[3:-3, 3:-5, 2:-3]),
        "padded": print_of(*(np.pad(v, ((9, 0), (0, 5), (4, 1))) for v in (image, mask))),
        "noisy and another mask": print_of(
            noisy, ndimage.binary_erosion(mask) | (mask & (noisy > 0.3))
        ),
        "resampled": print_of(half, ndimage.shift(mask.astype(float), -0.5, order=1) > 0.5),
        "a bright voxel": print_of(bright, mask),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_one_person_is_found_and_others_are_not(shared_data, contrast):
    maps = sorted((shared_data / "labels").glob("*.nii.gz"))[::8]
    people = [(m, n) for m in maps for n in (1, 2)]  # two people of each label map
    prints = []
    for person in people:
        own = scan(*person, contrast)
        prints.append(print_of(*own))
        others = {**altered(*own), "another scanner": print_of(*scan(*person, contrast, True))}
        found = {name: between(prints[-1], other) for name, other in others.items()}
        assert min(found.values()) > SAME, found
    alike = leaks.likeness(prints, prints)
    assert (alike - np.eye(len(people))).max() < SAME - 0.1


def test_real_people_are_told_apart(shared_data):
    prints = []
    for name in ("openms_cross_patient19_T1", "openms_cross_patient26_T1"):
        image = nib.as_closest_canonical(nib.load(shared_data / "hf" / f"{name}.nii.gz"))
        data = np.asarray(image.dataobj, np.float32)
        prints.append(print_of(data - data.min(), data != 0, 1.0))
        noisy = (
            data - data.min() + np.random.default_rng(2).normal(0, 0.02 * np.ptp(data), data.shape)
        )
        assert between(prints[-1], print_of(noisy[::-1], (data != 0)[::-1], 1.0)) > SAME + 0.1
    assert between(*prints) < SAME - 0.1


def test_text_is_read_back_and_nothing_else():
    found = np.random.default_rng(0).integers(-7, 8, (21, 25, 23)).astype(np.int8)
    assert np.array_equal(leaks.decode(encode(found)), found)
    for text in ("", "x", "eJw=", encode(found[:5]), encode(np.zeros((99, 99, 99), np.int8))):
        with pytest.raises(ValueError, match="not a fingerprint"):
            leaks.decode(text)
    empty = print_of(np.ones((9, 9, 9)), np.zeros((9, 9, 9), bool))
    assert between(empty, empty) == 0  # nothing is like it


def test_subjects_of_one_person_are_grouped(tmp_path):
    pairs = write_pairs(tmp_path, 5)
    assert leaks.same_people(pairs) == ()
    assert leaks.same_people(()) == ()
    twins = {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}
    copies = [replace(pair, hf=pairs[twins[k]].hf) for k, pair in enumerate(pairs)]
    assert leaks.same_people(copies) == (("01", "03", "05"), ("02", "04"))
    # What the record says is believed, so that no image is read.
    text = encode(np.ones((21, 25, 23), np.int8))
    recorded = [replace(pair, hf=tmp_path / "gone", brain=text) for pair in pairs[:2]]
    assert leaks.same_people(recorded) == (("01", "02"),)


def test_a_model_knows_whom_it_has_seen(tmp_path):
    pairs = write_pairs(tmp_path, 3)

    def bundle(told):
        metadata = {"training_data": {"fingerprints": told}}
        return Bundle(tmp_path, "h2lo", "T1w", {}, Frame(), "", metadata, "")

    text, renamed = encode(brain_of(pairs[1])), replace(pairs[1], subject="77")
    assert seen_in_training(bundle(None), pairs) == {}
    assert seen_in_training(bundle({"02": [text]}), pairs) == {pairs[1]: "02"}
    assert seen_in_training(bundle({"02": [text]}), [renamed]) == {renamed: "02"}
    assert seen_in_training(bundle({"01": [text], "02": [text]}), pairs[1:]) == {pairs[1]: "02"}
    for damaged in ({"02": ["x"]}, {"02": 3}, ["x"], "x"):
        with pytest.raises(BadDataError, match="fingerprints are damaged"):
            seen_in_training(bundle(damaged), pairs)


def test_whom_a_model_has_seen_is_known_to_those_that_start_from_it(tmp_path):
    pairs = write_pairs(tmp_path / "out", 6)
    told = {"subjects": ["01"], "fingerprints": {"01": [encode(brain_of(pairs[0]))]}}
    path = write_bundle(tmp_path / "m", "T1w", frame=FRAME, metadata={"training_data": told})
    options = small_options(steps=1, starts_from=(first := load_bundle(path)).sha256)
    fold = Fold(0, ("03", "04"), ("05",), ("06",))
    job = fold_of(pairs, tmp_path, fold=fold, options=options, initial=first)
    second = load_bundle(run_fold(job) / BUNDLE)
    seen = {"01", "03", "04", "05"}
    assert leaks.training_subjects(second) == seen
    assert {pair.subject for pair in seen_in_training(second, pairs)} == seen
