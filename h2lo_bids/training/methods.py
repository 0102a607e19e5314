"""The methods that can be trained, by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import UsageError
from h2lo_bids.training.options import FitOptions

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


def _late(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that is imported when it is first called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(f"h2lo_bids.training.{module}"), name)(
            *args, **kwargs
        )

    return call


_fit_operator = _late("fit", "fit")  # brings the training framework


@dataclass(frozen=True)
class Method:
    """A method that is fitted to pairs.

    Parameters
    ----------
    name
        As on the command line and in a bundle; also a key of
        `h2lo_bids.models.registry.METHODS`.
    title
        As in the paper's Table 1.
    adapt
        Turns the options that the user gave into the method's own.
    fit
        Called as `h2lo_bids.training.fit.fit`; a method of another kind brings
        its own.
    shares
        Whether several processes can share a step.
    """

    name: str
    title: str
    adapt: Callable[[FitOptions], FitOptions]
    fit: Callable[..., FitResult] = _fit_operator
    shares: bool = False


def _as_given(options: FitOptions) -> FitOptions:
    return options


def _relu_trunk(options: FitOptions) -> FitOptions:
    architecture = dataclasses.replace(options.architecture, trunk="mlp")  # type: ignore[type-var]
    return dataclasses.replace(options, architecture=architecture)


def _no_gradient_term(options: FitOptions) -> FitOptions:
    return dataclasses.replace(options, lambda_grad=0.0)


def _other(name: str, title: str) -> Method:
    """Return a method that has a file of its own, with its options and its fit."""
    file = f"{name}_fit"
    return Method(name, title, _late(file, f"adapt_{name}"), _late(file, f"fit_{name}"))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _other("identity", "HF image"),
        _other("arnold", "Arnold et al."),
        _other("pix2pix", "Pix2Pix"),
        _other("diffi2i", "DiffI2I"),
        _other("inr", "Conditional INR"),
        Method("h2lo-mlp", "H2LO w/o SIREN", _relu_trunk, shares=True),
        Method("h2lo-nograd", "H2LO w/o L_grad", _no_gradient_term, shares=True),
        Method("h2lo", "H2LO", _as_given, shares=True),
    )
}
"""In the order of the paper's Table 1."""


def find_method(name: str) -> Method:
    """Return a method by its name, or raise `UsageError`."""
    if name not in METHODS:
        raise UsageError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]
