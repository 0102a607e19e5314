"""H2LO-BIDS: low-field MRI synthesized from high-field MRI, as a BIDS App."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["load_model", "read_image", "synthesize"]


def __getattr__(name: str) -> Any:
    """Import the functions for notebooks when they are asked for: PyTorch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("h2lo_bids.api"), name)
