"""What the trainers of all methods have in common, and the figure that chooses their weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.training.crops import Corner
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps a volume in [0, 1] and a mask, both (X, Y, Z), to the product there."""
PredictCrop = Callable[[Pair, Corner], np.ndarray]
"""Maps a crop of a pair to the product at its brain voxels, (N,)."""


@dataclass(frozen=True)
class Validation:
    """The figure by which weights are compared: PSNR in dB of products clipped to [0, 1]."""

    pairs: Sequence[Pair]
    options: FitOptions

    @cached_property
    def places(self) -> list[tuple[int, Corner]]:
        """The crops: a pair's index and the first voxel.

        Of the tiles of the brains that are at least an eighth brain they are every n-th.
        """
        size, tiles = self.options.crop, list[tuple[int, Corner]]()
        for index, pair in enumerate(self.pairs):
            starts = (range(side.start, side.stop, size) for side in bounding_box(pair.mask))
            for x, y, z in itertools.product(*starts):
                tile = tuple(slice(c, c + size) for c in (x, y, z))
                if pair.mask[tile].sum() * 8 >= size**3:
                    tiles.append((index, (x, y, z)))
        if not tiles:  # crops around the middle of each brain
            for index, pair in enumerate(self.pairs):
                x, y, z = (round(c) - size // 2 for c in np.argwhere(pair.mask).mean(0))
                tiles.append((index, (x, y, z)))
            return tiles
        count = min(self.options.validation_crops, len(tiles))
        return [tiles[i] for i in np.linspace(0, len(tiles) - 1, count).round().astype(int)]

    def sums(
        self,
        predict: Predict,
        predict_crop: PredictCrop | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> tuple[float, float]:
        """Return a process's part of a method's figure, to be added to the others' for `psnr`."""
        mine = slice(rank, None, world)
        if self.options.validation == "volume":
            found = [psnr(predict(p.hf, p.mask).clip(0, 1), p.lf) for p in self.pairs[mine]]
            return math.fsum(found), float(len(found))
        total, voxels = 0.0, 0
        for index, corner in self.places[mine]:
            pair = self.pairs[index]
            box = tuple(slice(max(0, c), c + self.options.crop) for c in corner)
            if predict_crop is not None:
                made = predict_crop(pair, corner)
            else:
                wanted = np.zeros(pair.shape, bool)
                wanted[box] = pair.mask[box]
                made = predict(pair.hf, wanted)[wanted]
            error = made.clip(0, 1).astype(np.float64) - pair.lf[box][pair.mask[box]]
            total, voxels = total + float((error**2).sum()), voxels + len(error)
        return total, float(voxels)

    def psnr(self, total: float, count: float) -> float:
        """Return the figure from the sums of `sums`; NaN without validation pairs."""
        if not count:
            return math.nan
        if self.options.validation == "volume":
            return total / count
        return math.inf if total == 0 else -10.0 * math.log10(total / count)

    def figure(self, predict: Predict) -> float:
        """Return the figure of a method; NaN without validation pairs."""
        return self.psnr(*self.sums(predict))

    def baseline(self) -> float:
        """Return the figure of the input images themselves, before they are scaled."""
        plain = [p if p.plain is None else replace(p, hf=p.plain) for p in self.pairs]
        return replace(self, pairs=plain).figure(lambda volume, mask: volume)


class Trainer:
    """What a method does in a step and keeps between two; the seed decides every draw."""

    losses: Sequence[str] = ("loss",)
    """Names of the losses that its steps report: columns of ``history.csv``."""
    kept: Sequence[str] = ()
    """Names of the attributes whose state dicts a checkpoint holds."""
    validation_class: type[Validation] = Validation

    def __init__(
        self,
        pairs_train: Sequence[Pair],
        pairs_validation: Sequence[Pair],
        options: FitOptions,
        fabric: Fabric,
        initial: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.pairs, self.options = pairs_train, options
        self.fabric, self.device = fabric, fabric.device
        self.validation = self.validation_class(pairs_validation, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.build(initial)

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Build the networks, from given weights if there are any, and their optimisers."""
        raise NotImplementedError

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Do one optimiser step; `place` is the step of the schedule, later if time runs out."""
        raise NotImplementedError

    def fitted(self) -> nn.Module:
        """Return the model that a bundle would hold now."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers as tensors and plain values."""
        return {name: getattr(self, name).state_dict() for name in self.kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; its tensors are on the CPU."""
        for name in self.kept:
            getattr(self, name).load_state_dict(state[name])

    def product(self) -> Callable[..., Any]:
        """Return what applies the fitted model to a volume and a mask."""
        # The engine has no float16.
        precision = "bf16" if self.options.precision == "bf16" else "fp32"
        engine = EngineOptions(device=str(self.device), precision=precision)
        return partial(predict, self.fitted(), options=engine)

    def validate(self) -> float:
        """Return the validation PSNR in dB; NaN where there is none (yet)."""
        return self.validation.figure(self.product())


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """Do an optimiser's step with the gradients of a loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.no_grad()
def advance_average(average: nn.Module, model: nn.Module, decay: float, steps: int) -> None:
    """Update the running average of weights; early on it forgets the random start faster."""
    decay = min(decay, steps / (10 + steps)) if decay else 0.0
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a network computes."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None)
