"""Pictures of labels."""

from __future__ import annotations

import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.bids.scan import Scan
from h2lo_bids.trial.report import draw_lesions, region_rows


@pytest.mark.parametrize("spacing", [(2, 2, 2), (2, 2, 5)])
def test_slices_go_through_the_lesion_and_none_is_empty(tmp_path, spacing):
    shape = tuple(200 // side for side in spacing)
    places = np.stack(np.indices(shape), -1) * spacing
    brain = np.linalg.norm(places - 100, axis=-1) < 60
    lesion = np.linalg.norm(places - (70, 110, 120), axis=-1) < 5
    affine = np.diag([*map(float, spacing), 1.0])
    image = nib.Nifti1Image(np.where(brain, 0.5, 0).astype(np.float32), affine)
    outline = nib.Nifti1Image(lesion.astype(np.uint8), affine)
    pictures = {"lesionshigh": image, "lesionslow": image}
    scan = Scan(tmp_path / "sub-01_T1w.nii.gz", "01", None, "T1w", (("sub", "01"),))
    examined = SimpleNamespace(outline=outline, pictures=pictures)
    for figure in draw_lesions(tmp_path, scan, examined):
        drawing = (tmp_path / figure.path).read_text()
        for axis, centre in zip("zyx", (120, 110, 70), strict=True):
            cuts = [int(cut) for cut in re.findall(rf">{axis} ([+-]\d+)</text>", drawing)]
            assert len(cuts) >= 5
            assert min(abs(cut - centre) for cut in cuts) <= 3
            assert all(abs(cut - 100) < 60 for cut in cuts)


def test_a_bound_that_a_fit_does_not_know_stays_short_in_a_table():
    values = (1.9424e130, 123456.7, 99.94)
    shown = region_rows([[value] * 18 for value in values])[1:]
    assert [row[-1] for row in shown] == ["1.94e+130", "123457", "99.9"]
