"""The methods by name: what each is, and how it is rebuilt from its weights.

Imports nothing heavy, so that the command line can print the methods at once.
"""

from __future__ import annotations

import importlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bids_app_spec
from h2lo_bids.errors import BadDataError
from h2lo_bids.vocabulary import ENHANCE, ENHANCER, SYNTHESIZE

if TYPE_CHECKING:
    import torch


Architecture = Any
"""The sizes of a model: a frozen dataclass, which alone decides what is built."""
Model = Any
"""A PyTorch module built from its `architecture` alone; its state is floating-point."""


@dataclass(frozen=True)
class Family:
    """Models of one class."""

    module: str  # imported when it is needed, for it brings PyTorch
    model: str
    architecture: str  # name of the dataclass of its sizes
    continuous: bool = False  # whether it can be asked for any position, not only for voxels
    random: bool = False  # whether it draws at random when it synthesizes


FAMILIES: dict[str, Family] = {
    "h2lo": Family("h2lo_bids.models.h2lo", "H2lo", "H2loArchitecture", continuous=True),
    "arnold": Family("h2lo_bids.models.baselines", "Arnold", "NoSizes", random=True),
    "pix2pix": Family("h2lo_bids.models.pix2pix", "Pix2Pix", "Pix2PixArchitecture"),
    "diffi2i": Family("h2lo_bids.models.diffi2i", "DiffI2I", "DiffI2IArchitecture"),
    "inr": Family("h2lo_bids.models.h2lo", "ConditionalInr", "InrArchitecture", continuous=True),
    "identity": Family("h2lo_bids.models.baselines", "Identity", "NoSizes"),
    "pfsr": Family("h2lo_bids.models.pfsr", "Pfsr", "PfsrArchitecture"),
}
"""The classes of models by name."""


@dataclass(frozen=True)
class Entry:
    """What a reader is shown of a method."""

    name: str
    family: str  # a key of `FAMILIES`
    title: str  # its row in the paper's Table 1; of an enhancer its usual name
    kind: str  # what it is, as a sentence calls it
    parameters: int  # of the model that a bundle holds, at the paper's sizes
    reference: str
    link: str
    key: str  # in bids_app_spec/references.yml
    exact: str  # what follows a publication or its authors' code
    ours: str  # what is our choice
    trained: int | None = None  # of all networks that are trained, if those are more


CATALOGUE: dict[str, Entry] = {
    name: Entry(name, **fields) for name, fields in bids_app_spec.load("methods.yml").items()
}
"""In the order of the paper's Table 1, then the methods for other tasks."""

METHODS: dict[str, str] = {name: entry.family for name, entry in CATALOGUE.items()}
"""The family of each method.

The two ablations are H2LO's operator: the sizes say which trunk it has, and the
loss that it was fitted with leaves no trace in it.
"""

MAX_SIZE, MAX_DEPTH = 4096, 64
"""Beyond any width, and any number of layers or blocks, of these models."""

_DEPTHS = {"blocks", "groups", "layers", "downs", "refinement", "residual", "denoiser_layers"}
_DEPTHS |= {"discriminator_layers", "chain"}


def task_of(method: str) -> str:
    """Return what a method is for: one of `TASKS`."""
    return ENHANCE if method == ENHANCER else SYNTHESIZE


def cited(names: Iterable[str]) -> str:
    """Name methods for a sentence, each with the key of its paper, in the catalogue's order."""
    wanted = set(names)
    parts = [f"{e.kind} [@{e.key}]" for name, e in CATALOGUE.items() if name in wanted]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def family_of(model: Any) -> str:
    """Return the key of `FAMILIES` that a model, or a model of a derived class, belongs to."""
    names = {(kind.__module__, kind.__name__) for kind in type(model).__mro__}
    for name, family in FAMILIES.items():
        if (family.module, family.model) in names:
            return name
    raise TypeError(f"{type(model).__name__} is no model of {', '.join(FAMILIES)}")


def make_architecture(family: str, values: Mapping[str, Any]) -> Architecture:
    """Build the sizes of a model from the values in a bundle or in options."""
    found = FAMILIES[family]
    kind = getattr(importlib.import_module(found.module), found.architecture)
    for name, value in values.items():  # sizes for which building a model would never end
        parts = value if isinstance(value, list | tuple) else [value]
        most = MAX_DEPTH if name in _DEPTHS else MAX_SIZE
        wanted = (str,) if name == "trunk" else (int, float)
        for part in parts:
            if not isinstance(part, wanted) or len(parts) > MAX_DEPTH:
                raise TypeError(f"{name} = {reprlib.repr(value)} is no size")
            if not isinstance(part, str) and not -most <= part <= most:
                raise ValueError(f"{name} = {reprlib.repr(value)} is beyond {most}")
    # JSON knows no tuples.
    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return kind(**sizes)


def sizes_of(architecture: Architecture) -> dict[str, Any]:
    """Return the sizes of a model as JSON gives them back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(architecture)))
    return values


def make_model(family: str, architecture: Architecture) -> Any:
    """Build an untrained model, of a class that depends on the family."""
    found = FAMILIES[family]
    return getattr(importlib.import_module(found.module), found.model)(architecture)


def build_model(
    method: str,
    architecture: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    source: Path,
) -> Model:
    """Build a model and give it its weights, after checking them one by one."""
    import torch

    if method not in METHODS:
        raise BadDataError(f"{source}: unknown method {method!r}; this version knows {[*METHODS]}")
    family = METHODS[method]
    try:
        with torch.device("meta"):
            model = make_model(family, make_architecture(family, architecture))
    except (TypeError, ValueError, RuntimeError, OverflowError, ZeroDivisionError) as err:
        reason = " ".join(str(err).split())
        raise BadDataError(
            f"{source}: its architecture makes no sense: {reason}; get the model again"
        ) from err
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # A foreign file's names may be numbers.
    for name in sorted(expected.keys() ^ state.keys(), key=str):
        what = "no weights named" if name in expected else "weights that do not belong to it:"
        raise BadDataError(f"{source}: not a {method} model: {what} {reprlib.repr(name)}")
    weights = {name: _checked(name, state[name], expected[name], source) for name in expected}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _checked(name: str, value: Any, shape: tuple[int, ...], source: Path) -> torch.Tensor:
    """Return weights as float32 of a shape, if they are what they claim to be."""
    import torch

    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    if not dense or value.device.type != "cpu" or not value.is_floating_point():
        raise BadDataError(f"{source}: {name!r} is not an array of floating-point weights")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # Strides of 0 make terabytes out of one number.
        raise BadDataError(f"{source}: {name!r} is larger than what the file holds of it")
    if tuple(value.shape) != shape and not (shape == () and value.numel() == 1):
        raise BadDataError(f"{source}: {name!r} has shape {tuple(value.shape)}, expected {shape}")
    if not bool(torch.isfinite(value).all()):
        raise BadDataError(f"{source}: {name!r} is not finite everywhere; get the model again")
    return value.detach().to("cpu", torch.float32).reshape(shape).contiguous().clone()
