"""The methods that can be trained, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import UsageError
from h2lo_bids.training.options import FitOptions

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


def _fit_operator(*args: Any, **kwargs: Any) -> FitResult:
    from h2lo_bids.training.fit import fit  # brings the training framework, late

    return fit(*args, **kwargs)


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
    """

    name: str
    title: str
    adapt: Callable[[FitOptions], FitOptions]
    fit: Callable[..., FitResult] = _fit_operator


def _as_given(options: FitOptions) -> FitOptions:
    return options


def _relu_trunk(options: FitOptions) -> FitOptions:
    architecture = dataclasses.replace(options.architecture, trunk="mlp")
    return dataclasses.replace(options, architecture=architecture)


def _no_gradient_term(options: FitOptions) -> FitOptions:
    return dataclasses.replace(options, lambda_grad=0.0)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("h2lo", "H2LO", _as_given),
        Method("h2lo-mlp", "H2LO w/o SIREN", _relu_trunk),
        Method("h2lo-nograd", "H2LO w/o L_grad", _no_gradient_term),
    )
}
"""In the order of the paper's Table 1, last rows."""


def find_method(name: str) -> Method:
    """Return a method by its name, or raise `UsageError`."""
    if name not in METHODS:
        raise UsageError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]
