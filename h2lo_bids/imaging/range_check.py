"""Checks and warnings of images unlike those that their model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from h2lo_bids.imaging.normalise import LEVELS, NEGATIVE_SHARE, Scaled
from h2lo_bids.imaging.profile import (
    MEASURES,
    OUTPUTS,
    TISSUES,
    InputRange,
    Measure,
    Outlier,
    outside,
)

NAMES = {
    "T1w": ("cerebrospinal fluid", "grey matter", "white matter"),
    "T2w": ("white matter", "grey matter", "cerebrospinal fluid"),
}
"""Of the three tissues, from dark to bright."""
LEAST_ORDER = -2.0
"""White matter lies deeper than grey matter: by -0.6 to 8 mm in real heads, with lesions in
slices of 5 mm the least; by -3 mm or less where the contrast is another."""
_TOLD = 3
_REMEDIES = {
    "noise": "give a scan of less noise",
    "smoothness": "give a scan of thinner slices",
    "volume_ml": "check its brain mask",
    "field_ratio": "correct its bias field first",
}
_USUAL = "check that it is a {} image without contrast agent, and its brain mask"


@dataclass(frozen=True)
class RangeCheck:
    """Whether an input and its output are like the training pairs."""

    facts: dict[str, Any]  # ``InputCheck`` and ``OutputCheck``, for a sidecar
    warnings: tuple[str, ...]  # one line each
    verdict: str  # "yes", "no", or "unknown" where the model does not give their range


def check_range(
    profile: Mapping[str, float],
    output: Mapping[str, float],
    ranges: InputRange | None,
    *,
    contrast: str,
    scaling: str,
    name: str,
) -> RangeCheck:
    """Compare an input and its output with the pairs that the model was trained on.

    `profile` and `output` are those of `h2lo_bids.imaging.profile`. Without the `ranges` of
    the model's bundle only what needs none is looked at: the share of negative voxels, and
    the order of the tissues in the input and in the output.
    """
    given = outside(profile, ranges.inputs) if ranges else ()
    made = outside(output, ranges.targets, OUTPUTS) if ranges else ()
    tissues = [output[tissue] for tissue in TISSUES]
    kept = tissues[0] < tissues[1] < tissues[2]
    depth = profile["order"]
    unlike = bool(given or made) or not kept or depth < LEAST_ORDER
    lines = []
    if (negative := profile.get("negative", 0.0)) >= NEGATIVE_SHARE:
        what = "was taken away" if scaling == "robust" else "is cut to 0: give the image without it"
        lines.append(
            f"{name}: {negative:.0%} of its brain is negative; the offset, as MP2RAGE UNI and "
            f"z-scored images have it, {what}"
        )
    if given or depth < LEAST_ORDER:
        lines.append(_input_line(name, given, depth, contrast))
    if made or not kept:
        crossed = [] if kept else [_crossed(tissues, contrast)]
        lines.append(
            f"{name}: its output is not like the images that the model was trained on: "
            f"{', '.join([*crossed, *_listed(made, OUTPUTS)])}; look at both in the report before "
            "you use it"
        )
    return RangeCheck(
        {
            "InputCheck": {**_facts(given, ranges), "TissueOrderKept": depth >= LEAST_ORDER},
            "OutputCheck": {
                **_facts(made, ranges),
                "TissueLevels": {
                    _key(tissue): round(value, 4)
                    for tissue, value in zip(NAMES[contrast], tissues, strict=True)
                },
                "TissueOrderKept": kept,
            },
        },
        tuple(lines),
        "no" if unlike else "yes" if ranges else "unknown",
    )


def _input_line(name: str, given: Sequence[Outlier], depth: float, contrast: str) -> str:
    """Name what an input differs by from the training pairs, and what to do."""
    usual = _USUAL.format(contrast)
    remedies = [_REMEDIES.get(one.name, usual) for one in given[:_TOLD]]
    differences = _listed(given, MEASURES)
    if depth < LEAST_ORDER:
        shown = f"what is as bright as white matter lies {-depth:.0f} mm above the grey"
        differences.insert(0, shown)
        remedies.insert(0, usual)
    return (
        f"{name}: is not like the inputs that the model was trained on: {', '.join(differences)}; "
        f"{', '.join(dict.fromkeys(remedies))}, or fit a model to such scans"
    )


def scaling_facts(made: Scaled, contrast: str, scaling: str) -> dict[str, Any]:
    """Return ``IntensityScaling``, which says in a sidecar how an input was scaled."""
    fluid, white = LEVELS[contrast]
    facts: dict[str, Any] = {"Method": scaling, "NegativeVoxels": round(made.negative, 4)}
    if scaling == "robust":
        facts |= {"CerebrospinalFluidLevel": fluid, "WhiteMatterLevel": white}
    if made.field_ratio is not None:
        facts["ReceiveFieldRatio"] = round(made.field_ratio, 3)
    return {"IntensityScaling": facts | {"BiasFieldCorrection": made.field_corrected}}


def _listed(found: Sequence[Outlier], known: Mapping[str, Measure]) -> list[str]:
    parts = [
        f"{known[one.name].title} {one.value:.3g} ({one.lowest:.3g} to {one.highest:.3g})"
        for one in found[:_TOLD]
    ]
    more = len(found) - len(parts)
    return [*parts, f"{more} more"] if more else parts


def _crossed(levels: Sequence[float], contrast: str) -> str:
    """Name the two tissues that changed places, the darker one of the input first."""
    pair = 0 if levels[0] >= levels[1] else 1
    dark, bright = NAMES[contrast][pair : pair + 2]
    return f"{dark} ({levels[pair]:.2f}) is not darker than {bright} ({levels[pair + 1]:.2f})"


def _facts(found: Sequence[Outlier], ranges: InputRange | None) -> dict[str, Any]:
    if ranges is None:
        return {}
    beyond = {
        _key(one.name.replace("_", " ")): {
            "Value": float(f"{one.value:.4g}"), "TrainingRange": [one.lowest, one.highest]
        }
        for one in found
    }  # fmt: skip
    return {"InRange": not found, "OutOfRange": beyond, "TrainingPairs": ranges.pairs}


def _key(words: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in words.split())
