from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from shapes import shelled, stored
from training_pairs import simulate_training_pairs

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain import extract_brain
from h2lo_bids.imaging.masks import dice, volume_ml
from h2lo_bids.imaging.normalise import Scaled, scale_brain
from h2lo_bids.imaging.profile import (
    MEASURES,
    OUTPUTS,
    Measure,
    RangeCheck,
    check_range,
    measure,
    measure_output,
    outside,
    ranges_of,
)
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, resample, resample_mask
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.training.pairs import Pair, training_range

SHAPE = (64, 64, 64)
ONE = (1.0, 1.0, 1.0)
RADIUS = np.sqrt(np.sum((np.indices(SHAPE) - 31.5) ** 2, axis=0))
MASK = RADIUS < 30
GOOD_OUTPUT = {"dark": 0.2, "middle": 0.5, "bright": 0.7, "q50": 0.5, "q95": 0.7, "cut_low": 0.0,
               "correlation": 0.9}  # fmt: skip


def shells(fluid: float, grey: float, white: float) -> np.ndarray:
    """Paint a ball: fluid in white matter in grey matter in fluid."""
    return np.select([RADIUS < 6, RADIUS < 20, RADIUS < 27, MASK], [fluid, white, grey, fluid])


# What each number means, against closed forms.


def test_noise_is_measured_and_structure_is_not() -> None:
    clean = shells(0.2, 0.5, 0.75)
    noise = 0.05 * np.random.default_rng(1).normal(size=SHAPE)
    assert measure(Scaled(clean), MASK, ONE, contrast="T1w")["noise"] == 0
    found = measure(Scaled(clean + noise), MASK, ONE, contrast="T1w")
    # A tenth of this small ball's voxels lie at an edge.
    assert found["noise"] == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_smoothness_is_that_of_the_coarsest_axis(noise: float) -> None:
    rng = np.random.default_rng(2)
    # White noise under a Gaussian kernel has an autocorrelation sqrt(2) wider than that.
    image = gaussian_filter(rng.normal(size=SHAPE), [1.2, 1.2, 2.5])
    image = image / image.std() + noise * rng.normal(size=SHAPE)
    found = measure(Scaled(image), MASK, (1.0, 1.0, 2.0), contrast="T1w")
    assert found["smoothness"] == pytest.approx(2.0 * 2.5 * 2.3548, rel=0.15)


def test_shares_levels_and_volume() -> None:
    image = shells(0.0, 0.5, 1.0)
    found = measure(Scaled(image, negative=0.25), MASK, (1.0, 1.0, 2.0), contrast="T1w")
    brain = image[MASK]
    assert found["cut_low"] == pytest.approx(np.mean(brain == 0))
    assert found["cut_high"] == pytest.approx(np.mean(brain == 1))
    assert found["volume_ml"] == pytest.approx(2 * MASK.sum() / 1000)
    assert [found[f"{k}_level"] for k in ("dark", "middle", "bright")] == [0.0, 0.5, 1.0]
    assert sum(found[f"{k}_share"] for k in ("dark", "middle", "bright")) == pytest.approx(1.0)
    assert found["q50"] == np.median(brain)
    assert found["negative"] == 0.25
    assert "field_ratio" not in found
    assert set(MEASURES) == found.keys() - {"order", "negative"} | {"field_ratio"}


def test_order_is_how_much_deeper_white_matter_lies() -> None:
    depths = 30 - RADIUS
    white, grey = ((a <= RADIUS) & (b > RADIUS) for a, b in ((6, 20), (20, 27)))
    truth = np.median(depths[white]) - np.median(depths[grey])
    for contrast, values in (("T1w", (0.2, 0.5, 0.75)), ("T2w", (0.8, 0.4, 0.25))):
        found = measure(Scaled(shells(*values)), MASK, ONE, contrast=contrast)
        assert found["order"] == pytest.approx(truth, abs=2.0)
    flair = measure(Scaled(shells(0.15, 0.75, 0.6)), MASK, ONE, contrast="T1w")
    assert flair["order"] == pytest.approx(-truth, abs=2.0)


def test_output_is_told_by_the_inputs_tissues() -> None:
    found = measure_output(shells(0.1, 0.3, 0.9), shells(0.2, 0.5, 0.75), MASK, ONE)
    assert [found[k] for k in ("dark", "middle", "bright")] == pytest.approx([0.1, 0.3, 0.9])
    values = [shells(*v)[MASK] for v in ((0.1, 0.3, 0.9), (0.2, 0.5, 0.75))]
    assert set(OUTPUTS) <= set(found)
    assert found["correlation"] == pytest.approx(np.corrcoef(*values)[0, 1], abs=1e-4)
    flat = measure_output(np.zeros(SHAPE), shells(0.2, 0.5, 0.75), MASK, ONE)
    assert (flat["correlation"], flat["cut_low"]) == (0.0, 1.0)


# Ranges and their margins.


def test_margins_are_the_larger_of_their_own_and_a_quarter_of_the_spread() -> None:
    assert Measure("x", 0.1).limits(0.2, 0.4) == (-np.inf, pytest.approx(0.5))
    assert Measure("x", 0.1, True).limits(0.2, 1.0) == pytest.approx((0.0, 1.2))
    assert Measure("x", 0.0, True, 1.4).limits(1000, 1400) == pytest.approx((1000 / 1.4, 1960))


def test_ranges_find_what_lies_beyond() -> None:
    ranges = ranges_of([{"noise": 0.02, "q50": 0.4}, {"noise": 0.04}], [{"q50": 0.5, "dark": 0}])
    inputs, targets = {"noise": [0.02, 0.04], "q50": [0.4, 0.4]}, {"q50": [0.5, 0.5]}
    assert ranges == {"pairs": 2, "inputs": inputs, "targets": targets}
    assert outside({"noise": 0.049, "q50": 0.21, "other": 9}, inputs) == {}
    assert outside({"noise": 0.051, "q50": 0.1}, inputs | {"later": 1}) == {
        "noise": (0.051, 0.02, 0.04), "q50": (0.1, 0.4, 0.4),
    }  # fmt: skip
    assert list(outside({"q50": 0.29}, targets, OUTPUTS)) == ["q50"]
    for damaged in ([0.1], ["a", "b"], None):
        with pytest.raises(BadDataError, match="input_range is damaged"):
            outside({"q50": 0.1}, {"q50": damaged})


def test_what_is_told() -> None:
    ranges = {
        "pairs": 5,
        "inputs": {"noise": [0.02, 0.04]},
        "targets": {"correlation": [0.9, 0.95]},
    }

    def told(profile: dict, ranges: dict | None, **output: float) -> RangeCheck:
        return check_range(
            {"order": 5.0, "noise": 0.03, **profile}, GOOD_OUTPUT | output, ranges,
            contrast="T1w", scaling="robust", name="sub-1_T1w.nii.gz",
        )  # fmt: skip

    assert told({}, ranges).warnings == ()
    assert (told({}, ranges).verdict, told({}, None).verdict) == ("yes", "unknown")
    assert told({}, None).facts["InputCheck"] == {"TissueOrderKept": True}
    noisy = told({"noise": 0.2}, ranges)
    assert len(noisy.warnings) == 1
    for part in ("sub-1_T1w.nii.gz", "noise 0.2 (0.02 to 0.04)", "less noise"):
        assert part in noisy.warnings[0]
    assert noisy.facts["InputCheck"]["TrainingPairs"] == 5
    assert noisy.facts["InputCheck"]["OutOfRange"] == {
        "Noise": {"Value": 0.2, "TrainingRange": [0.02, 0.04]}
    }
    assert (noisy.facts["InputCheck"]["InRange"], noisy.verdict) == (False, "no")
    crossed = told({}, None, middle=0.8)
    assert "grey matter (0.80) is not darker than white matter (0.70)" in crossed.warnings[0]
    assert not crossed.facts["OutputCheck"]["TissueOrderKept"]
    assert "correlation with the input 0.5" in told({}, ranges, correlation=0.5).warnings[0]
    assert "offset" in told({"negative": 0.3}, None).warnings[0]
    for damaged in ("junk", None, [5]):
        with pytest.raises(BadDataError, match=r"input_range is damaged \(pairs\)"):
            told({}, ranges | {"pairs": damaged})
    assert told({"negative": 0.3}, ranges).verdict == "yes"
    assert "lies 4 mm farther out than the grey" in told({"order": -4.0}, None).warnings[0]


# Planted faults, against the range of simulated pairs.


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Pair]]:
    head = shelled({6: 4, 20: 2, 27: 3, 30: 24, 31.5: 515}, 64, 1.0)
    found: dict[str, list[Pair]] = {"T1w": [], "T2w": []}
    how = {"frame_shape": SHAPE, "strength": 0.0, "inputs": 2}
    for seed in (1, 2):
        for contrast, pair in simulate_training_pairs(head, seed=seed, **how).items():
            found[contrast] += [
                Pair(str(seed), hf / hf.max(), pair.lf / pair.lf.max(), pair.mask)
                for hf in pair.inputs
            ]
    return found


def thick_slices(image: np.ndarray, thickness: float) -> np.ndarray:
    """Average along z and interpolate back, as scan and conforming do."""
    affine = np.diag([1.0, 1.0, thickness, 1.0])
    affine[2, 3] = (thickness - 1) / 2
    shape = (*SHAPE[:2], int(SHAPE[2] / thickness))
    slices = resample(stored(image, np.eye(4)), shape, affine, order=1)
    return np.asarray(resample(slices, SHAPE, np.eye(4)).dataobj)


def painted(fluid: float, grey: float, white: float, noise: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(3)
    image = gaussian_filter(shells(fluid, grey, white), 0.6) + noise * rng.normal(size=SHAPE)
    return image.astype(np.float32)


def enhanced(image: np.ndarray) -> np.ndarray:
    """Let a twentieth of the brain take up contrast agent."""
    spot = np.sqrt(np.sum((np.indices(SHAPE).T - [42.0, 36.0, 34.0]).T ** 2, axis=0)) < 11
    return np.where(spot, 1.6 * np.quantile(image[MASK], 0.75), image).astype(np.float32)


def noisy(image: np.ndarray) -> np.ndarray:
    level = np.quantile(image[MASK], 0.6)
    return np.abs(image + 0.2 * level * np.random.default_rng(4).normal(size=SHAPE))


FAULTS = {
    "T2w labelled T1w": ("T1w", lambda hf: hf["T2w"]),
    "T1w labelled T2w": ("T2w", lambda hf: hf["T1w"]),
    "FLAIR labelled T1w": ("T1w", lambda hf: painted(0.1, 0.7, 0.55)),
    "FLAIR labelled T2w": ("T2w", lambda hf: painted(0.1, 0.7, 0.55)),
    "INV1 labelled T1w": ("T1w", lambda hf: painted(0.7, 0.08, 0.35)),
    "INV2 labelled T1w": ("T1w", lambda hf: painted(0.55, 0.8, 0.75)),
    "CT labelled T1w": ("T1w", lambda hf: painted(8, 37, 30, 2)),
    "CT labelled T2w": ("T2w", lambda hf: painted(8, 37, 30, 2)),
    "contrast agent": ("T1w", lambda hf: enhanced(hf["T1w"])),
    "noise of 20 %": ("T1w", lambda hf: noisy(hf["T1w"])),
    # Sequences of the simulator that blur as thin slices do keep 5 mm within their range.
    "slices of 8 mm": ("T1w", lambda hf: thick_slices(hf["T1w"], 8.0)),
}


def checked(image: np.ndarray, mask: np.ndarray, contrast: str, ranges: dict) -> RangeCheck:
    """Check an input as the product does."""
    scaled = scale_brain(image, mask, ONE, contrast=contrast)
    return check_range(
        measure(scaled, mask, ONE, contrast=contrast), GOOD_OUTPUT, ranges | {"targets": {}},
        contrast=contrast, scaling="robust", name="the scan",
    )  # fmt: skip


@pytest.mark.slow
def test_planted_faults_are_noticed_and_sound_heads_are_not(pairs: dict[str, list[Pair]]) -> None:
    ranges = {
        contrast: training_range(
            [*own, *(Pair("thick", thick_slices(p.hf, 3.0), p.lf, p.mask) for p in own)],
            contrast, ONE,
        )
        for contrast, own in pairs.items()
    }  # fmt: skip
    mask = pairs["T1w"][0].mask
    hf = {contrast: own[0].hf for contrast, own in pairs.items()}

    for contrast, image in hf.items():
        mixed = 0.5 * image + 0.5 * pairs[contrast][-1].hf
        found = checked(mixed, mask, contrast, ranges[contrast])
        assert (found.verdict, found.warnings) == ("yes", ())
    for name, (contrast, make) in FAULTS.items():
        assert checked(make(hf), mask, contrast, ranges[contrast]).verdict == "no", name


SEEN_ML = {
    "colin27_ch2": (1800, 2100),
    "openms_long_patient01_study2_T1W": (1250, 1500),
    "openms_long_patient01_study2_T2W": (1250, 1500),
    "MS017_T1": (1350, 1700),
}
"""Brain volumes of heads with skulls, as read off the contours by eye."""


@pytest.mark.slow
def test_real_heads_show_their_brain_and_are_like_those_of_the_embedded_models(shared_data) -> None:
    files = [p for p in shared_data.glob("hf/*.nii.gz") if "lesions" not in p.name]
    for path in (*files, shared_data / "lf/MS017_T1.nii.gz"):
        scan = load_checked(path).image
        found = extract_brain(scan, threads=1)
        brain = np.asarray(found.image.dataobj)
        if seen := SEEN_ML.get(path.name.split(".")[0]):
            assert (found.method, found.notes) == ("deepbet", ())
            assert seen[0] < volume_ml(brain, scan.affine) < seen[1]
            bare = extract_brain(stored(scan.get_fdata() * brain, scan.affine))
            assert bare.method == "stripped"
            assert dice(np.asarray(bare.image.dataobj), brain) > 0.995
        if path in files:
            contrast = "T2w" if "_T2" in path.name else "T1w"
            bundle = default_bundle(contrast)
            image = conform(scan, bundle.frame, mask=found.image)
            mask = resample_mask(found.image, image.shape, image.affine)
            told = checked(
                np.asarray(image.dataobj), np.asarray(mask.dataobj) > 0, contrast,
                bundle.metadata["input_range"],
            )  # fmt: skip
            assert told.verdict == "yes", told.warnings
