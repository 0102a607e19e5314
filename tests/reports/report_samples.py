"""Made-up heads and reports, and what a page holds, as Python's own parser sees it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import nibabel as nib
import numpy as np
from shapes import ellipsoid, reoriented

from h2lo_bids.reports.records import Failure, FoundScan, ModelInfo, ScanReport, SubjectReport

CARD = """# A model

**Trained on simulated pairs.** See [the paper](https://arxiv.org/abs/2603.24968).

| Subject | PSNR |
|---|---|
| 13 | 30.1 |
"""

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}</style></title>"
"""Text that a page has to show as it is."""
LOADS = {"src", "href", "data", "poster", "srcset", "action", "formaction", "background"}


CENTRE = np.array([5.0, -10.0, 15.0])


def make_ball(spacing, codes="RAS", spot=None, tilt=0.0) -> SimpleNamespace:
    """Sample a ball of 40 mm radius; ``spot`` brightens 6 mm around a world position."""
    shape = tuple(int(np.ceil(128 / step)) for step in spacing)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = CENTRE - middle
    inside = ellipsoid(40, CENTRE, affine, shape)
    data = np.where(inside, 0.5, 0.05).astype(np.float32)
    if spot is not None:
        data[ellipsoid(6, spot, affine, shape)] = 1.0
    images = (nib.Nifti1Image(array, affine) for array in (data, inside.astype(np.uint8)))
    image, mask = (reoriented(image, codes) for image in images)
    return SimpleNamespace(image=image, mask=mask)


def make_scan(stem="sub-01_ses-HF_T1w", suffix="T1w", figures=()) -> ScanReport:
    model = ModelInfo(
        f"h2lo_{suffix}",
        "1",
        "h2lo",
        suffix,
        sha256=("a" if suffix == "T1w" else "b") * 64,
        training_kind="simulated" if suffix == "T1w" else "real",
        training_description="Sixteen heads.",
        parameters=581_409,
        card=CARD,
    )
    return ScanReport(
        stem,
        f"sub-01/ses-HF/anat/{stem}.nii.gz",
        (("sub", "01"), ("ses", "HF")),
        suffix,
        field_strength=3.0,
        field_source="MagneticFieldStrength",
        shape=(64, 64, 32),
        spacing=(2.0, 2.0, 4.0),
        mask_method="deepbet 1.0.2",
        mask_volume=1400.0,
        model=model,
        device="cpu",
        precision="fp32",
        seed=7,
        seconds=(("synthesize", 61.0), ("figures", 2.5)),
        outputs=("sub-01/ses-HF/anat/x.nii.gz",),
        signal_to_noise=(("x_desc-lowfield_T1w.nii.gz", 0.0123, 61.5, 42.5, 20.1),),
        levels=(0.7568, 0.5231, 0.2471),
        warnings=("A note of its own.",),
        templates=(("MNI", ""), ("MNI2", "")) if suffix == "T1w" else (),
        figures=figures,
    )


def make_report(scans) -> SubjectReport:
    found = (
        FoundScan("sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz", 3.0, "MagneticFieldStrength"),
        FoundScan("sub-01/ses-LF/lf.nii.gz", 0.0635, "ImagingFrequency", "not used: low field"),
    )
    trace, stem = "Traceback\n  line 3", "sub-01_ses-HF_run-2_T1w"
    failures = (
        Failure("synthesize", "it broke; mend it", trace, stem),
        Failure("report", "so did this"),
    )
    versions = (("h2lo-bids", "0.1.0"), ("nipype", "1.11.0"), ("deepbet", "1.0.2"))
    command = "h2lo bids out participant -w " + "very-long-folder/" * 12
    return SubjectReport("01", tuple(scans), found, failures, command, versions)


def points(path: str) -> np.ndarray:
    """Give the points of a path of SVG."""
    return np.array(re.findall(r"[-\d.]+", path), float).reshape(-1, 2)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data

    def values(self, name: str, tag: str = "") -> list[str]:
        """Return the values of an attribute, of every tag or of one."""
        return [value for t, n, value in self.attributes if n == name and tag in ("", t)]

    @property
    def anchors(self) -> set[str]:
        """Places on the page that its links lead to."""
        return {value[1:] for value in self.values("href", "a") if value[0] == "#"}


def assert_sealed(page: Page) -> None:
    """Let a page load nothing but its own pictures, and run nothing but its own script."""
    (policy,) = (v for v in page.values("content") if "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    # The policy refuses attributes that run or style.
    assert [n for _, n, _ in page.attributes if n == "style" or n.startswith("on")] == []
    loaded = [(tag, value) for tag, name, value in page.attributes if name in LOADS and tag != "a"]
    assert [item for item in loaded if not item[1].startswith(("data:", "#"))] == []
    assert all(value.startswith("data:image/") for value in page.values("src"))
