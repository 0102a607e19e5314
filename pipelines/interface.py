"""From a plain function to a Nipype interface: threads are set first, and errors are one line."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from h2lo_bids import __version__
from h2lo_bids.errors import H2loError, recorded

InFile = Annotated[str, "exists"]
"""A file, which Nipype hashes by its content."""
AnyFile = Annotated[str, "may be absent"]
Label = Annotated[str, "nohash"]
"""A text that changes messages alone, so that its change runs nothing again."""

_TRAITS = {str: traits.Str, int: traits.Int, float: traits.Float, bool: traits.Bool}
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class InputSpec(BaseInterfaceInputSpec):
    """Inputs of every interface here."""

    # An upgrade takes no older result for done.
    app_version = traits.Str(__version__, usedefault=True)
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="Nipype sets it to n_procs")


class Interface(SimpleInterface):
    """Runs `function` in the node's folder with the inputs that are defined."""

    input_spec = InputSpec
    output_spec = TraitedSpec
    function: Callable[..., dict[str, Any]]
    names: tuple[str, ...] = ()
    error: H2loError | None = None

    def __init__(self, **values: Any) -> None:
        """Take inputs; None stands for one that is not given, and a path for its text."""
        known = {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}
        super().__init__(**{key: value for key, value in known.items() if value is not None})

    def _run_interface(self, runtime: Any) -> Any:
        set_threads(self.inputs.num_threads)
        values = {name: getattr(self.inputs, name) for name in self.names}
        given = {name: value for name, value in values.items() if isdefined(value)}
        if "threads" in inspect.signature(self.function).parameters:
            given["threads"] = self.inputs.num_threads
        try:
            self._results.update(self.function(Path(runtime.cwd), **given))
        except Exception as err:
            self.error = recorded(err, str(runtime.cwd))  # Nipype keeps the text alone
            raise
        return runtime


def interface(
    function: Callable[..., dict[str, Any]], *, always_run: bool = False, **outputs: Any
) -> Any:
    """Make an interface of a function of the node's folder; it is named like it, in camel case.

    Its inputs are the function's further parameters, but for ``threads``, which is the
    node's number; their annotations say how Nipype checks and hashes them.
    """
    name = "".join(word.capitalize() for word in function.__name__.split("_"))
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    inputs = {p.name: _input(hints[p.name], p.default) for p in parameters if p.name != "threads"}
    specs = {
        "input_spec": (InputSpec, inputs),
        "output_spec": (TraitedSpec, {key: _trait(hint) for key, hint in outputs.items()}),
    }
    # Nodes are pickled for worker processes, which look classes up by these names.
    made = {
        key: type(key, (base,), {**fields, "__module__": function.__module__,
                                 "__qualname__": f"{name}.{key}"})
        for key, (base, fields) in specs.items()
    }  # fmt: skip
    members = {"function": staticmethod(function), "names": tuple(inputs), **made}
    members |= {"_always_run": always_run, "__module__": function.__module__}
    return type(name, (Interface,), {**members, "__doc__": function.__doc__})


def _input(hint: Any, default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return _trait(hint, mandatory=True)
    if default is None:
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
        return _trait(hint)
    return _trait(hint, default, usedefault=True)


def _trait(hint: Any, *default: Any, **options: Any) -> Any:
    """Return the trait for an annotation."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if hint in (InFile, AnyFile):
        return File(exists=hint == InFile, **options)
    if hint == Label:
        return traits.Str(*default, nohash=True, **options)
    if origin is list:
        if args[0] == Label:
            options["nohash"] = True
        return traits.List(_trait(args[0]), *default, **options)
    if origin is dict:
        return traits.Dict(*default, **options)
    if origin is tuple:
        return traits.Tuple(*map(_trait, args), **options)
    return _TRAITS[origin](*default, **options)


def load_image(path: str) -> Any:
    """Open an image; nibabel's declared type lacks what every NIfTI image has."""
    import nibabel as nib

    return nib.load(path)


def set_threads(count: int) -> None:
    """Limit the threads of the libraries, before they are imported where that matters.

    ITK keeps the number that it finds at its first use; PyTorch takes it later, too.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
