"""Pix2Pix takes the published steps, the enhancer those of Adam on L1; both draw patches."""

from __future__ import annotations

import copy

import pytest
import torch
from problems import HELD, TINY, TRAIN, tiny_options, trainer_of, vector
from torch.nn.functional import softplus

from h2lo_bids.models.pfsr import Pfsr
from h2lo_bids.models.pix2pix import Norm, PatchDiscriminator
from h2lo_bids.training.methods.patches import PfsrTrainer, Pix2PixTrainer

SWAPPED = [pair.swapped() for pair in TRAIN]


def test_one_step_is_the_published_one():
    """Against the losses written out, and Adam's first step by its formula."""
    rate = 1e-3
    task = trainer_of(
        Pix2PixTrainer, TRAIN, HELD, tiny_options("pix2pix", steps=10, learning_rate=rate)
    )
    generator, discriminator = copy.deepcopy(task.generator), copy.deepcopy(task.discriminator)
    source, target, brain = task.draw(0)
    assert source.shape == target.shape == brain.shape == (1, 1, 16, 16, 16)
    assert (target[~brain] == -1).all()

    made = generator(source) * brain - 1.0 * ~brain
    fake, real = discriminator(source, made.detach()), discriminator(source, target)
    d_loss = (softplus(fake).mean() + softplus(-real).mean()) / 2
    _adam_first_step(discriminator, d_loss, rate)
    fooled = softplus(-discriminator(source, made)).mean()
    l1 = (made - target).abs().sum() / 16**3
    g_loss = fooled + 100 * l1
    _adam_first_step(generator, g_loss, rate)

    told = task.step(0, 0)
    expected = {"loss": g_loss, "l1": l1, "adversarial": fooled, "discriminator": d_loss}
    assert told == pytest.approx(
        {"rate": rate, **{k: v.item() for k, v in expected.items()}}, rel=1e-4
    )
    for mine, theirs in ((generator, task.generator), (discriminator, task.discriminator)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            # Gradients that are nothing but rounding may step either way.
            assert ((a - b).abs() < 0.02 * rate).float().mean() > 0.98
    assert {g["betas"] for o in task.optimisers for g in o.param_groups} == {(0.5, 0.999)}


def _adam_first_step(network: torch.nn.Module, loss: torch.Tensor, rate: float) -> None:
    """m / (1 - b1) = g and v / (1 - b2) = g^2, whatever the decays."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    with torch.no_grad():
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter.data = parameter - rate * g / (g.abs() + 1e-8)


def test_statistics_are_the_mean_over_patches_of_the_present_weights():
    task = trainer_of(Pix2PixTrainer, TRAIN, HELD, tiny_options("pix2pix"))
    for step in range(3):
        task.step(step, step)
    before = vector(task.generator)
    settled = task.fitted()
    assert torch.equal(before, vector(task.generator))
    first = next(m for m in settled.modules() if isinstance(m, Norm))
    layer = settled.encoder[1].convolution
    found = []
    for count in range(16):
        source, _, _ = task.draw(count, 2)
        with torch.no_grad():
            x = settled.encoder[0](source)
            found.append(layer(torch.where(x > 0, x, 0.2 * x)).mean((0, 2, 3, 4)))
    torch.testing.assert_close(first.mean, torch.stack(found).mean(0), rtol=1e-4, atol=1e-6)


def test_layers_of_one_channel_stay_float32_under_autocast():
    """Their bfloat16 gradients were seen to read memory that nobody had set."""
    x, seen = torch.rand(1, 1, 16, 16, 16), []
    pfsr = Pfsr(TINY["pfsr"]["architecture"])
    critic = PatchDiscriminator(TINY["pix2pix"]["architecture"])
    for network, last, given in ((pfsr, pfsr.tail, (x,)), (critic, critic.layers[-1], (x, x))):
        last.register_forward_hook(lambda layer, given, out: seen.append(out.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            network(*given)
    assert seen == [torch.float32] * 2


def test_a_first_step_is_adam_on_the_mean_absolute_difference():
    task = trainer_of(PfsrTrainer, SWAPPED, [], tiny_options("pfsr", learning_rate=1e-3))
    source, target, brain = task.draw(0)
    assert source.shape == target.shape == brain.shape == (2, 1, 8, 8, 8)
    assert not target[~brain].any()
    before = task.network.tail.bias.item()
    told = task.step(0, 0)
    # An untrained network returns its input.
    assert told["loss"] == pytest.approx((source * brain - target).abs().mean().item(), rel=1e-5)
    sign = torch.sign((source * brain - target)[brain]).sum().sign().item()
    assert task.network.tail.bias.item() - before == pytest.approx(-1e-3 * sign, rel=1e-3)
