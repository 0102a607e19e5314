"""The synthesis methods by name, and how each is rebuilt from its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import BadDataError

if TYPE_CHECKING:
    import torch

    from h2lo_bids.models.h2lo import H2lo


def _h2lo(architecture: Mapping[str, Any]) -> H2lo:
    from h2lo_bids.models.h2lo import H2lo, H2loArchitecture

    return H2lo(H2loArchitecture(**architecture))


METHODS: dict[str, Callable[[Mapping[str, Any]], H2lo]] = {
    "h2lo": _h2lo,
    "h2lo-mlp": _h2lo,
    "h2lo-nograd": _h2lo,
}
"""Builders of untrained models from the sizes in a bundle's metadata.

The two ablations are the same operator: the sizes say which trunk it has, and the
loss that it was fitted with leaves no trace in it.
"""


def build_model(
    method: str,
    architecture: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    source: Path,
) -> H2lo:
    """Build a model and give it its weights, after checking them one by one.

    Parameters
    ----------
    method
        A key of `METHODS`.
    architecture
        The model's sizes, as in its metadata.
    state
        Weights by state-dict name.
    source
        The file they come from, for messages.

    Returns
    -------
    H2lo
        The model in evaluation mode, float32, on the CPU.

    Raises
    ------
    BadDataError
        If the method is unknown, or a weight is missing, unexpected, of another
        shape or not finite.
    """
    import torch

    if method not in METHODS:
        raise BadDataError(f"{source}: unknown method {method!r}; this version knows {[*METHODS]}")
    try:
        with torch.device("meta"):
            model = METHODS[method](architecture)
    except (TypeError, ValueError, RuntimeError) as err:
        raise BadDataError(f"{source}: its architecture makes no sense: {_line(err)}") from err
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    _check_names(expected, state, source)
    weights = {name: _checked(name, state[name], expected[name], source) for name in expected}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _check_names(
    expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Any], source: Path
) -> None:
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys(), key=str)  # a foreign file's may be numbers
    if missing:
        raise BadDataError(f"{source}: no weights named {missing[0]!r}; it is not a whole model")
    if extra:
        raise BadDataError(f"{source}: weights named {extra[0]!r} do not belong to this model")


def _checked(name: str, value: Any, shape: tuple[int, ...], source: Path) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise BadDataError(f"{source}: {name!r} is not an array of floating-point weights")
    if tuple(value.shape) != shape and not (shape == () and value.numel() == 1):
        raise BadDataError(f"{source}: {name!r} has shape {tuple(value.shape)}, expected {shape}")
    if not bool(torch.isfinite(value).all()):
        raise BadDataError(f"{source}: {name!r} holds values that are not finite")
    weight = value.detach().to("cpu", torch.float32).reshape(shape).contiguous().clone()
    return torch.nn.Parameter(weight)


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
