"""The conditional INR learns under H2LO's protocol, resumes, and sees its own grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from problems import ball_pair, small_options

from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.models.inr import ConditionalInr, InrArchitecture
from h2lo_bids.training.crops import predict_crop, read_crop
from h2lo_bids.training.methods.operators import adapt_inr
from h2lo_bids.training.options import FitOptions, default_options, paper_options

SIZES = InrArchitecture(4, 8, 16, 4)
TRAIN = [ball_pair("a", 1), ball_pair("b", 2)]
HELD = [ball_pair("d", 4)]


def options(**changes: object) -> FitOptions:
    return adapt_inr(small_options(family="inr", architecture=SIZES, **changes))


@pytest.mark.parametrize("protocol", [default_options, paper_options])
def test_only_the_network_and_the_loss_differ_from_h2los_protocol(protocol) -> None:
    given = protocol(3, device="cpu")
    adapted = adapt_inr(given)
    assert adapted.architecture == InrArchitecture()
    assert (adapted.family, adapted.lambda_grad) == ("inr", 0.0)
    assert (
        dataclasses.replace(
            adapted, family="h2lo", architecture=H2loArchitecture(), lambda_grad=given.lambda_grad
        )
        == given
    )
    assert FitOptions.from_dict(adapted.to_dict()) == adapted
    assert adapt_inr(adapted) == adapted
    if protocol is paper_options:
        assert (adapted.points, adapted.batch, adapted.learning_rate) == (8000, 1, 1e-4)


def test_crops_equal_the_whole_volume() -> None:
    torch.manual_seed(1)
    model = ConditionalInr(SIZES).eval()
    pair = HELD[0]
    with torch.no_grad():
        whole = model(torch.from_numpy(pair.hf)[None, None])[0, 0].numpy()
        for corner in ((4, 7, 5), (0, 0, 0), (-3, 18, 20)):
            crop = read_crop(pair.hf, [c - 5 for c in corner], 18)
            got = predict_crop(model, torch.from_numpy(crop)[None, None], corner, pair.shape)
            inside = read_crop(np.ones(pair.shape, bool), corner, 8)
            expected = read_crop(whole, corner, 8)
            np.testing.assert_allclose(got[0, 0].numpy()[inside], expected[inside], atol=2e-6)
