"""Columns of the trial's tables, with what they mean: their JSON sidecars."""

from __future__ import annotations

from typing import Any

from h2lo_bids.trial.observer import CHANNELS

Columns = dict[str, dict[str, Any]]


def _columns(**given: str | tuple[str, str]) -> Columns:
    return {
        name: {"Description": text} if isinstance(text, str) else
        {"Description": text[0], "Units": text[1]}
        for name, text in given.items()
    }  # fmt: skip


_PLACE = {
    "volume": ("Volume of the part in the brain", "mm^3"),
    "diameter": ("Diameter of the ball of this volume", "mm"),
}
REGIONS = _columns(
    image="desc of the image that is measured",
    res="Its res entity; n/a on the scan's own grid",
    label="Name given with --labels",
    region="Region",
    lesion="Number of the lesion, the largest first; n/a for the whole region",
    **_PLACE,
    x=("Centre, right", "mm"),
    y=("Centre, anterior", "mm"),
    z=("Centre, superior", "mm"),
    hf_mean="Mean in the high-field image",
    hf_sd="Standard deviation there",
    hf_contrast="Mean less that of the ring (healthy white matter 1 to 5 mm away) over the ring's",
    hf_cnr="Mean less that of the ring over the image's noise",
    mean="Mean in the image, voxels weighted by the share that is filled",
    sd="Standard deviation there",
    contrast="As hf_contrast",
    cnr="As hf_cnr",
)
RATINGS = _columns(
    condition="Condition of the trial; highfield is the high-field image",
    lesion="Number of the lesion, the largest first",
    place="0 for the lesion; from 1 for its healthy places",
    kind="lesion; or mirror (other hemisphere) or matched (like tissue and depth)",
    realisation="Number of the noisy image",
    **_PLACE,
    length=("Longest extent of the lesion in any direction", "mm"),
    hf_contrast="Contrast of the lesion in the high-field image",
    cnr="Rating of the CNR observer",
    **{f"channel{n}": "Output of a Laguerre-Gauss channel" for n in range(1, CHANNELS + 1)},
    segmented=("Volume by the midpoint segmenter", "mm^3"),
)
_STUDY: dict[str, str | tuple[str, str]] = {
    "contrast": "T1w or T2w", "label": "Name given with --labels", "condition": "Condition",
    "observer": "hotelling or cnr",
}  # fmt: skip
_SHARE: dict[str, str | tuple[str, str]] = {
    "sensitivity": "At 90 % specificity, mean over lesions and realisations",
    "sensitivity_low": "95 % interval by Wilson over lesions",
    "sensitivity_high": "Its upper end",
}
DETECTABILITY = _columns(
    **_STUDY,
    subjects="Participants",
    lesions="Lesions",
    healthy="Healthy places",
    auc="Area under the ROC curve, mean over realisations",
    delong_low="95 % interval by DeLong over lesions and places",
    delong_high="Its upper end",
    boot_low="95 % interval by the bootstrap over participants",
    boot_high="Its upper end",
    dprime="d' of normal classes with this area",
    **_SHARE,
    diameter80=(
        "Diameter seen with 80 % probability by the logistic fit; n/a where it does not rise",
        "mm",
    ),
    diameter80_low=(
        "95 % interval, errors clustered by participant; n/a where hardly any lesion is missed",
        "mm",
    ),
    diameter80_high=("Its upper end", "mm"),
    intercept="Of the logit against the logarithm of the diameter",
    slope="Its slope",
    subjects_seen="Participants with a lesion that, in half the realisations or more, is rated "
    "above all their healthy places",
    smallest=("Length of the smallest such lesion, mean over these participants", "mm"),
    smallest_sd=("Its standard deviation", "mm"),
)
SENSITIVITY = _columns(
    **_STUDY,
    by="diameter (mm) or contrast (absolute, high field)",
    low="Lower end of the bin",
    high="Upper end of the bin; n/a where it has none",
    lesions="Lesions in it",
    **_SHARE,
)
VOLUMES = _columns(
    **{name: text for name, text in _STUDY.items() if name != "observer"},
    subjects="Participants",
    bias=("Segmented less true volume of a participant, mean", "ml"),
    loa_low=("Limit of agreement", "ml"),
    loa_high=("Limit of agreement", "ml"),
    icc="Intraclass correlation ICC(2,1); n/a where all have one true volume",
)
COMPARISONS = _columns(
    **_STUDY,
    versus="The other condition",
    subjects="Participants with both",
    difference="Sensitivity of a participant, condition less the other, mean",
    sd="Its standard deviation",
    needed80="Participants that a paired t-test needs at power 0.8, 5 % two-sided",
    needed90="The same at power 0.9",
)
DOSE = _columns(
    **{name: text for name, text in _STUDY.items() if name != "condition"},
    quantity="What differs between the conditions",
    odds="Odds of seeing a lesion per unit of it, at the same diameter",
    low="95 % interval",
    high="Its upper end",
    p="Of no effect",
)
