"""Hostile documents for every reader of outside files."""

from __future__ import annotations

import io
import os
import random
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutate
from report_samples import EVIL
from targets import TARGETS, read_card

from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import BadDataError
from h2lo_bids.models.bundle import load_bundle, load_model
from h2lo_bids.models.h2lo import H2lo, H2loArchitecture

_DEAR = {"group-record", "report-record", "description", "cohort"}
_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
"""Damaged documents of each kind; a fifth of them where one takes long."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_whole_documents_are_read_and_damaged_ones_are_read_or_told_in_one_line(name):
    seeds = TARGETS[name].seeds()
    with tempfile.TemporaryDirectory() as folder:
        assert TARGETS[name].run(seeds[0], Path(folder)) is None
    count = -(-_EXAMPLES // 5) if name in _DEAR else _EXAMPLES
    first = 0 if _EXAMPLES == 15 else random.getrandbits(32)  # a longer search has others
    for seed in range(first, first + count):
        print("seed", seed)  # of a failure, where pytest shows it
        rng = random.Random(seed)
        data = rng.choice(seeds)
        for _ in range(rng.randint(1, 3)):
            data = mutate(data, rng)
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name].run(data, Path(folder))


@pytest.mark.parametrize(
    "name",
    ["sub-../x_T1w.nii.gz", "sub-..", "sub-01_ses-../../etc_T1w.nii", "sub-0\u0661_T1w.nii",
     "sub-\uff10\uff11_T1w.nii", "sub-a\x00_T1w.nii", "sub-a\n_T1w.nii", "sub-%2e%2e_T1w.nii",
     "sub-.._T1w.nii", "sub-\u202e10_T1w.nii", "/sub-01_T1w.nii", "sub-01\\..\\_T1w.nii"],
)  # fmt: skip
def test_names_that_leave_their_place_are_no_names(name):
    assert parse_name(name) is None


@given(st.text(st.sampled_from("<>&\"'`[]()*_|#-\n !:/=abscript\\"), max_size=60))
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
def test_cards_make_no_elements_of_their_own(text):
    read_card(text.encode())
    read_card((text + EVIL).encode())


# Small files that would unpack to much.


def test_a_checkpoint_whose_parts_are_compressed_is_refused(tmp_path):
    """PyTorch writes none such, and would unpack them, however large they become."""
    path, stream = tmp_path / "T1w.pth", io.BytesIO()
    torch.save({"model_state_dict": {"x": torch.zeros(3)}, "args": {}}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    with pytest.raises(BadDataError, match="not a PyTorch checkpoint"):
        load_bundle(path)


def test_one_number_cannot_stand_for_terabytes(tmp_path):
    path = tmp_path / "T1w.pth"
    with torch.device("meta"):
        whole = H2lo(H2loArchitecture(channels=4096)).state_dict()
    one = torch.zeros(1)
    # Strides of 0, as in a tensor that was expanded.
    state = {
        name: one.expand(value.shape) if value.shape else torch.zeros(())
        for name, value in whole.items()
    }
    torch.save({"model_state_dict": state, "args": {"encoder_base_channels": 4096}}, path)
    assert path.stat().st_size < 100_000
    with pytest.raises(BadDataError, match="larger than what the file holds"):
        load_model(load_bundle(path))
