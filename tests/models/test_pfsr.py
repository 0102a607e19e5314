"""The PF-SR-style network against its sizes and an evaluation with SciPy."""

from __future__ import annotations

import numpy as np
import torch

from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture

SMALL = PfsrArchitecture(features=4, groups=2, blocks=2, reduction=2)


def test_forward_is_what_scipy_computes(convolved):
    torch.manual_seed(0)
    model = Pfsr(SMALL).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    volume = np.random.default_rng(0).random((5, 4, 6))
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    with torch.no_grad():
        got = model(torch.from_numpy(volume)[None, None])[0, 0].numpy()

    def conv(x, name):
        return convolved(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x, name):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    shallow = deep = conv(volume[None], "head")
    for g in range(SMALL.groups):
        into = deep
        for b in range(SMALL.blocks):
            name = f"groups.{g}.blocks.{b}"
            x = conv(np.maximum(conv(deep, f"{name}.first"), 0), f"{name}.second")
            hidden = np.maximum(linear(x.mean((1, 2, 3)), f"{name}.attention.squeeze"), 0)
            share = 1 / (1 + np.exp(-linear(hidden, f"{name}.attention.excite")))
            deep = deep + share[:, None, None, None] * x
        deep = into + deep
    np.testing.assert_allclose(got, volume + conv(shallow + deep, "tail")[0], atol=1e-10)
