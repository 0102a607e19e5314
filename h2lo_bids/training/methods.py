"""The methods that can be trained, by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import UsageError
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.models.registry import task_of
from h2lo_bids.training.options import FitOptions
from h2lo_bids.vocabulary import TASKS

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

    @property
    def task(self) -> str:
        """What it is for: one of `h2lo_bids.vocabulary.TASKS`."""
        return task_of(self.name)


def _as_given(options: FitOptions) -> FitOptions:
    return options


def _relu_trunk(options: FitOptions) -> FitOptions:
    architecture = dataclasses.replace(options.architecture, trunk="mlp")  # type: ignore[type-var]
    return dataclasses.replace(options, architecture=architecture)


def _no_gradient_term(options: FitOptions) -> FitOptions:
    return dataclasses.replace(options, lambda_grad=0.0)


def _other(name: str, *, shares: bool = False) -> Method:
    """Return a method that has a file of its own, with its options and its fit."""
    adapt, fit = (_late(f"{name}_fit", f"{verb}_{name}") for verb in ("adapt", "fit"))
    return Method(name, CATALOGUE[name].title, adapt, fit, shares)


def _operator(name: str, adapt: Callable[[FitOptions], FitOptions]) -> Method:
    return Method(name, CATALOGUE[name].title, adapt, shares=True)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _other("identity"),
        _other("arnold"),
        _other("pix2pix"),
        _other("diffi2i"),
        _other("inr", shares=True),
        _operator("h2lo-mlp", _relu_trunk),
        _operator("h2lo-nograd", _no_gradient_term),
        _operator("h2lo", _as_given),
        _other("pfsr"),
    )
}
"""In the order of the paper's Table 1, then those for other tasks."""


def methods_of(task: str) -> dict[str, Method]:
    """Return the methods for a task by name, in the order of `METHODS`.

    Raises
    ------
    UsageError
        If there is no such task.
    """
    if task not in TASKS:
        raise UsageError(f"task {task!r} is not one of {', '.join(TASKS)}")
    return {name: method for name, method in METHODS.items() if method.task == task}


def find_method(name: str) -> Method:
    """Return a method by its name, or raise `UsageError`."""
    if name not in METHODS:
        raise UsageError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]
