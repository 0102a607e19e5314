"""The conditional INR learns under H2LO's protocol, resumes, and sees its own grid."""

from __future__ import annotations

import numpy as np
import torch
from problems import ball_pair, small_options

from h2lo_bids.models.h2lo import ConditionalInr, InrArchitecture
from h2lo_bids.training.crops import predict_crop, read_crop
from h2lo_bids.training.methods.operators import adapt_inr
from h2lo_bids.training.options import FitOptions

SIZES = InrArchitecture(4, 8, 16, 4)
TRAIN = [ball_pair("a", 1), ball_pair("b", 2)]
HELD = [ball_pair("d", 4)]


def options(**changes: object) -> FitOptions:
    return adapt_inr(small_options(family="inr", architecture=SIZES, **changes))


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
