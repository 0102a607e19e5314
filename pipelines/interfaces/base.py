"""What all interfaces share: threads are set first, and errors are one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, traits

from h2lo_bids import __version__
from h2lo_bids.errors import of_the_machine

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class ThreadedInputSpec(BaseInterfaceInputSpec):
    """Inputs of every interface here."""

    app_version = traits.Str(
        __version__, usedefault=True, desc="so that an upgrade takes no older result for done"
    )
    num_threads = traits.Int(
        1, usedefault=True, nohash=True, desc="threads to use; Nipype sets it to the node's n_procs"
    )


class H2loInterface(SimpleInterface):
    """An interface whose work is `run_step`."""

    input_spec = ThreadedInputSpec

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Do the work inside the node's folder and return the outputs."""
        raise NotImplementedError

    def _run_interface(self, runtime: Any) -> Any:
        set_threads(self.inputs.num_threads)
        try:
            self._results.update(self.run_step(Path(runtime.cwd)))
        except (MemoryError, RuntimeError, OSError) as err:
            told = of_the_machine(err, str(runtime.cwd))
            if told is None:
                raise
            raise told from err
        return runtime


def load_image(path: str) -> Any:
    """Open an image; nibabel's declared type lacks what every NIfTI image has."""
    import nibabel as nib

    return nib.load(path)


def set_threads(count: int) -> None:
    """Limit the threads of the libraries, before they are imported where that matters.

    ITK keeps the number that it finds at its first use; PyTorch can be told later.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
