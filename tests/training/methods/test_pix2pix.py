"""Fitting Pix2Pix learns, resumes bit for bit, and takes the published steps."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import ball_pair, small_options, trainer_of
from torch.nn.functional import softplus

from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.models.pix2pix import Norm, Pix2PixArchitecture
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.training.fit import fit
from h2lo_bids.training.methods.patches import Pix2PixTrainer, adapt_pix2pix
from h2lo_bids.training.options import FitOptions

TINY = Pix2PixArchitecture(channels=4, downs=3, discriminator_channels=4, discriminator_layers=2)
VARIED = Augmentation(flip=0.5, shift=2, scale=0.1, bias=0.05, noise=0.01)
TRAIN = [ball_pair("a", 1), ball_pair("b", 2), ball_pair("c", 3)]
HELD = [ball_pair("d", 4)]


def tiny_options(**changes: Any) -> FitOptions:
    options = adapt_pix2pix(small_options(validate_every=4))
    values = {"architecture": TINY, "crop": 16, "augmentation": VARIED, **changes}
    return dataclasses.replace(options, **values)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.ravel() for value in model.state_dict().values()])


def test_one_step_is_the_published_one() -> None:
    """Against the losses written out, and Adam's first step by its formula."""
    rate = 1e-3
    task = trainer_of(
        Pix2PixTrainer, TRAIN, HELD, tiny_options(steps=10, learning_rate=rate, augmentation=VARIED)
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
    pairs = ((generator, task.generator), (discriminator, task.discriminator))
    for mine, theirs in pairs:
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            # Gradients that are nothing but rounding may step either way.
            same = (a - b).abs() < 0.02 * rate
            assert same.float().mean() > 0.98
    assert {g["betas"] for o in task.optimisers for g in o.param_groups} == {(0.5, 0.999)}


def _adam_first_step(network: torch.nn.Module, loss: torch.Tensor, rate: float) -> None:
    """m / (1 - b1) = g and v / (1 - b2) = g^2, whatever the decays."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    with torch.no_grad():
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter.data = parameter - rate * g / (g.abs() + 1e-8)


def test_statistics_are_the_mean_over_patches_of_the_present_weights() -> None:
    task = trainer_of(Pix2PixTrainer, TRAIN, HELD, tiny_options())
    for step in range(3):
        task.step(step, step)
    before = weights(task.generator)
    settled = task.fitted()
    assert torch.equal(before, weights(task.generator))
    first = next(m for m in settled.modules() if isinstance(m, Norm))
    layer = settled.encoder[1].convolution
    found = []
    for count in range(16):
        source, _, _ = task.draw(count, 2)
        with torch.no_grad():
            x = settled.encoder[0](source)
            found.append(layer(torch.where(x > 0, x, 0.2 * x)).mean((0, 2, 3, 4)))
    torch.testing.assert_close(first.mean, torch.stack(found).mean(0), rtol=1e-4, atol=1e-6)


def test_nonsense_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="crop of 20 voxels does not divide by 8"):
        fit(TRAIN, HELD, tiny_options(crop=20), tmp_path / "a")
    with pytest.raises(H2loError, match=r"the \w+ became \w+ at step \d+; .*learning rate"):
        fit(TRAIN, HELD, tiny_options(steps=40, learning_rate=1e30), tmp_path / "c")
