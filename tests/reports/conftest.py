"""Made-up heads and reports, drawn once."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from group_samples import make_group
from report_browser import look_at
from report_samples import make_ball, make_report, make_scan

from h2lo_bids.reports.figures import make_figures, make_registration_figures


@pytest.fixture(scope="session")
def head():
    return make_ball(spacing=(2.0, 2.0, 4.0), codes="LPS", spot=(30.0, 10.0, 30.0))


@pytest.fixture(scope="session")
def report_folder(head, tmp_path_factory: pytest.TempPathFactory):
    """Figures of two scans and the report that shows them."""
    out = tmp_path_factory.mktemp("out")
    rng = np.random.default_rng(0)
    high, mask = head.image.get_fdata(), head.mask.get_fdata()
    low = (0.6 * high + 0.05 * rng.standard_normal(mask.shape)) * mask
    hf, lf = (
        nib.Nifti1Image(data.astype(np.float32), head.mask.affine) for data in (high * mask, low)
    )
    scans = []
    whole = {"image": head.image, "image_mask": head.mask, "mask": head.mask}
    moved = {"template": head.image, "moved": hf, "mask": head.mask}
    for suffix, spaces in (("T1w", ("MNI", "MNI2")), ("T2w", ())):
        stem = f"sub-01_ses-HF_{suffix}"
        figures = make_figures(out, stem, "synthesize", before=hf, after=lf, **whole)
        for space in spaces:
            figures += make_registration_figures(out, stem, space=space, **moved)
        scans.append(make_scan(stem, suffix, figures))
    return out, make_report(tuple(scans))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium: .ci/run installs it")
        pytest.skip("no chromium on this machine")
    return partial(look_at, program, tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="session")
def group_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cross-validation of three methods; tests that change it take a copy."""
    return make_group(tmp_path_factory.mktemp("group"))
