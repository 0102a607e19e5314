from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from shapes import stored

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain import brain_of, extract_brain
from h2lo_bids.imaging.masks import dice, volume_ml
from h2lo_bids.imaging.normalise import Scaled, scale_brain
from h2lo_bids.imaging.profile import (
    MEASURES,
    OUTPUTS,
    TISSUES,
    Measure,
    RangeCheck,
    check_range,
    measure,
    measure_output,
    outside,
    ranges_of,
)
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, resample_mask
from h2lo_bids.models.bundle import default_bundle

SHAPE = (64, 64, 64)
ONE = (1.0, 1.0, 1.0)
RADIUS = np.sqrt(np.sum((np.indices(SHAPE) - 31.5) ** 2, axis=0))
MASK = RADIUS < 30
VALUES = {"T1w": (0.2, 0.5, 0.75), "T2w": (0.8, 0.4, 0.25)}
"""Of fluid, grey matter and white matter."""


def shells(fluid: float, grey: float, white: float) -> np.ndarray:
    """Paint a ball: fluid in white matter in grey matter in fluid."""
    return np.select([RADIUS < 6, RADIUS < 20, RADIUS < 27, MASK], [fluid, white, grey, fluid])


# What each number means, against closed forms.


def test_noise_is_measured_and_structure_is_not() -> None:
    clean = shells(*VALUES["T1w"])
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
    assert [found[f"{k}_level"] for k in TISSUES] == [0.0, 0.5, 1.0]
    assert sum(found[f"{k}_share"] for k in TISSUES) == pytest.approx(1.0)
    assert (found["q50"], found["negative"]) == (np.median(brain), 0.25)
    # Without a receive field, as there is none measured.
    assert found.keys() ^ MEASURES.keys() == {"order", "negative", "field_ratio"}


def test_order_is_how_much_deeper_white_matter_lies() -> None:
    depths = 30 - RADIUS
    white, grey = ((a <= RADIUS) & (b > RADIUS) for a, b in ((6, 20), (20, 27)))
    truth = np.median(depths[white]) - np.median(depths[grey])
    flair = {"FLAIR": (0.15, 0.75, 0.6)}
    for contrast, values in (VALUES | flair).items():
        how, sign = (contrast, 1) if contrast in VALUES else ("T1w", -1)
        found = measure(Scaled(shells(*values)), MASK, ONE, contrast=how)
        assert found["order"] == pytest.approx(sign * truth, abs=2.0)


def test_output_is_told_by_the_inputs_tissues() -> None:
    made, given = shells(0.1, 0.3, 0.9), shells(*VALUES["T1w"])
    found = measure_output(made, given, MASK, ONE)
    assert [found[k] for k in TISSUES] == pytest.approx([0.1, 0.3, 0.9])
    alike = np.corrcoef(made[MASK], given[MASK])[0, 1]
    assert found["correlation"] == pytest.approx(alike, abs=1e-4)
    assert found.keys() - set(TISSUES) == OUTPUTS.keys()
    flat = measure_output(np.zeros(SHAPE), given, MASK, ONE)
    assert (flat["correlation"], flat["cut_low"]) == (0.0, 1.0)


# Ranges and their margins.


def test_ranges_find_what_lies_beyond_their_margins() -> None:
    # The larger of their own and a quarter of the spread.
    assert Measure("x", 0.1).limits(0.2, 0.4) == (-np.inf, pytest.approx(0.5))
    assert Measure("x", 0.1, True).limits(0.2, 1.0) == pytest.approx((0.0, 1.2))
    assert Measure("x", 0.0, True, 1.4).limits(1000, 1400) == pytest.approx((1000 / 1.4, 1960))
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


def told(profile: dict, ranges: dict | None, contrast: str = "T1w", **output: float) -> RangeCheck:
    """Check a profile, with an output that is sound but for what is given."""
    made = {"dark": 0.2, "middle": 0.5, "bright": 0.7, "correlation": 0.9, **output}
    how = {"scaling": "robust", "name": "sub-1_T1w.nii.gz"}
    return check_range(profile, made, ranges, contrast=contrast, **how)


def test_what_is_told() -> None:
    ranges = ranges_of([{"noise": 0.02}, {"noise": 0.04}], [{"correlation": 0.9}])
    sound = {"order": 5.0, "noise": 0.03}
    found = told(sound, ranges)
    assert (found.verdict, found.warnings) == ("yes", ())
    found = told(sound, None)
    assert (found.verdict, found.facts["InputCheck"]) == ("unknown", {"TissueOrderKept": True})
    found = told(sound | {"noise": 0.2}, ranges)
    assert (found.verdict, len(found.warnings)) == ("no", 1)
    for part in ("sub-1_T1w.nii.gz", "noise 0.2 (0.02 to 0.04)", "less noise"):
        assert part in found.warnings[0]
    assert found.facts["InputCheck"] == {
        "InRange": False,
        "OutOfRange": {"Noise": {"Value": 0.2, "TrainingRange": [0.02, 0.04]}},
        "TrainingPairs": 2,
        "TissueOrderKept": True,
    }
    crossed = told(sound, None, middle=0.8)
    assert "grey matter (0.80) is not darker than white matter (0.70)" in crossed.warnings[0]
    assert not crossed.facts["OutputCheck"]["TissueOrderKept"]
    assert "correlation with the input 0.5" in told(sound, ranges, correlation=0.5).warnings[0]
    assert "lies 4 mm farther out than the grey" in told({"order": -4.0}, None).warnings[0]
    offset = told(sound | {"negative": 0.3}, ranges)
    assert (offset.verdict, "offset" in offset.warnings[0]) == ("yes", True)
    for damaged in ("junk", None, [5]):
        with pytest.raises(BadDataError, match=r"input_range is damaged \(pairs\)"):
            told(sound, ranges | {"pairs": damaged})


# Planted faults, against the range of painted heads of several sequences.


def painted(fluid: float, grey: float, white: float, noise: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(3)
    image = gaussian_filter(shells(fluid, grey, white), 0.6) + noise * rng.normal(size=SHAPE)
    return image.astype(np.float32)


def thick_slices(image: np.ndarray, thickness: float) -> np.ndarray:
    return gaussian_filter(image, (0, 0, thickness / 2.355))


def profiled(image: np.ndarray, mask: np.ndarray, contrast: str) -> dict[str, float]:
    """Measure an input as the product does."""
    return measure(scale_brain(image, mask, ONE, contrast=contrast), mask, ONE, contrast=contrast)


def test_planted_faults_are_noticed_and_sound_heads_are_not() -> None:
    ranges = {}
    for contrast, (fluid, grey, white) in VALUES.items():
        seen = [painted(fluid, grey * k, white, noise) for k, noise in ((0.9, 0.01), (1.1, 0.03))]
        seen += [thick_slices(image, 3.0) for image in seen]
        ranges[contrast] = ranges_of([profiled(image, MASK, contrast) for image in seen])
        sound = told(
            profiled(painted(*VALUES[contrast]), MASK, contrast), ranges[contrast], contrast
        )
        assert (sound.verdict, sound.warnings) == ("yes", ())

    def caught(image: np.ndarray, contrast: str, what: str) -> bool:
        found = told(profiled(image, MASK, contrast), ranges[contrast], contrast)
        return found.verdict == "no" and what in found.warnings[0]

    flair, ct, inversions = (0.1, 0.7, 0.55), (8, 37, 30), ((0.7, 0.08, 0.35), (0.55, 0.8, 0.75))
    for values in (VALUES["T2w"], flair, ct, *inversions):
        assert caught(painted(*values), "T1w", "farther out than the grey"), values
    for values in (VALUES["T1w"], flair, ct):
        assert caught(painted(*values), "T2w", "farther out than the grey"), values
    head, places = painted(*VALUES["T1w"]), np.moveaxis(np.indices(SHAPE), 0, -1)
    spot = np.linalg.norm(places - [34, 36, 42], axis=-1) < 11
    field = np.exp(np.linspace(-0.4, 0.4, SHAPE[0]))[:, None, None]
    assert caught(np.where(spot, np.float32(1.2), head), "T1w", "cut at 1")  # a contrast agent
    assert caught(np.abs(painted(*VALUES["T1w"], 0.14)), "T1w", "less noise")
    assert caught(thick_slices(head, 8.0), "T1w", "thinner slices")
    assert caught(field * head, "T1w", "receive field")


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
        checked = load_checked(path)
        assert all("disagree" in line for line in checked.warnings)
        scan = checked.image
        found = brain_of(scan, threads=1)
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
            own = profiled(np.asarray(image.dataobj), np.asarray(mask.dataobj) > 0, contrast)
            ranges = bundle.metadata["input_range"] | {"targets": {}}
            assert told(own, ranges, contrast).warnings == ()
