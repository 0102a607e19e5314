"""What cards and metadata of fitted models say of their pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prepared_pairs import write_pair, write_pairs
from problems import small_options

from h2lo_bids.training.experiments.final import FinalJob, fit_final
from h2lo_bids.training.prepared import find_prepared

COUNT = 5


def test_cards_of_mixed_pairs_and_unknown_fields(tmp_path: Path) -> None:
    write_pairs(tmp_path / "out", 2)
    write_pair(tmp_path / "out", "09", 9, Simulated=False)
    for subject in ("01", "02"):
        write_pair(
            tmp_path / "out", subject, int(subject),
            MagneticFieldStrength=None, InputMagneticFieldStrength=None, Fusion="none",
        )  # fmt: skip
    pairs = find_prepared(tmp_path / "out", contrast="T1w")
    options = small_options(steps=1)
    job = FinalJob("T1w", "h2lo", pairs, options, (), tmp_path / "out", tmp_path / "work")
    bundle = fit_final(job)
    assert bundle.metadata["training_data"]["kind"] == "simulated"
    assert bundle.metadata["training_data"]["description"] == (
        "3 T1w pairs (2 of them simulated) of 3 subjects at 3 T and 64 mT "
        "(low field: three scans fused in 1 of them)"
    )
    nowhere = tuple(p for p in pairs if p.subject != "09")
    metadata = fit_final(dataclasses.replace(job, pairs=nowhere)).metadata
    assert metadata["source_field_strength"] is None
    assert "unknown field strength" in metadata["training_data"]["description"]
