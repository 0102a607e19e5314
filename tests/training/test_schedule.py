import math

import pytest
import torch

from h2lo_bids.training.options import cosine_rate, linear_rate


def test_follows_the_cosine_from_start_to_floor() -> None:
    rates = [cosine_rate(s, 101, 1e-3, 1e-6) for s in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[50] == pytest.approx((1e-3 + 1e-6) / 2)
    assert rates[100] == pytest.approx(1e-6)
    assert rates == sorted(rates, reverse=True)


def test_equals_pytorch_scheduler() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 19, eta_min=1e-6)
    for step in range(20):
        assert math.isclose(
            cosine_rate(step, 20, 1e-4, 1e-6), scheduler.get_last_lr()[0], rel_tol=1e-9
        )
        optimizer.step()
        scheduler.step()


def test_warmup_rises_linearly() -> None:
    assert [cosine_rate(s, 100, 1.0, 0.0, warmup=4) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine_rate(0, 1, 1.0, 0.0) == 1.0


def test_linear_rate_is_constant_for_half_and_then_falls_to_nothing() -> None:
    rates = [linear_rate(step, 10, 2.0) for step in range(11)]
    assert rates == pytest.approx([2, 2, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4, 0])
    assert linear_rate(0, 1, 2.0) == 2.0
