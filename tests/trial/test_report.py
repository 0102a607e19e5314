"""The trial's page."""

from __future__ import annotations

import numpy as np
import pandas as pd

from h2lo_bids.trial.condition import HIGH
from h2lo_bids.trial.report import write_trial_report
from h2lo_bids.trial.study import OBSERVERS, Study


def test_damaged_pictures_of_a_scan_cost_the_page_its_examples_alone(tmp_path):
    row = {"condition": "scanner", "observer": OBSERVERS[0], "subject": "01", "lesion": 1.0}
    rows = [{**row, "diameter": 5.0, "seen": seen, "scan": f"sub-01_{suffix}.nii.gz"}
            for seen, suffix in ((1.0, "T1w"), (0.0, "T2w"))]  # fmt: skip
    conditions = {name: {"text": "what it is"} for name in (HIGH, "scanner")}
    study = Study(conditions, lesions={("T1w", "lesion"): pd.DataFrame(rows)})
    folder = tmp_path / "trial/ratings"
    folder.mkdir(parents=True)
    planes = {f"{name}_1": np.eye(8) for name in conditions}
    np.savez(folder / "sub-01_T1w_lesion.npz", **planes)
    (folder / "sub-01_T2w_lesion.npz").write_bytes(b"PK\x03\x04 broken")
    page = write_trial_report(tmp_path, study, ["BIDS", "OUT", "trial"]).read_text()
    assert page.count("<h4>scanner: ") == 1
    assert "largest missed" not in page
