"""How the engine is to compute: device, precision, tile size and threads."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from h2lo_bids.errors import UsageError
from h2lo_bids.vocabulary import SYNTHESIS_PRECISIONS


class CpuTookOverWarning(UserWarning):
    """A GPU's memory was too small, and the CPU did the work."""


@dataclass(frozen=True)
class EngineOptions:
    """Settings of the engine.

    ``fp32`` gives nearly the same digits on every machine; ``bf16`` multiplies in bfloat16 and
    adds in float32: some three times faster on CPUs with AMX, within 60 dB of fp32 for trained
    operators. The result does not depend on the threads.
    """

    device: str = "cpu"  # "cuda", "cuda:1" or "auto", which is CUDA where there is one
    precision: str = "fp32"  # or "bf16"
    tile: int = 40  # largest side of a tile, in voxels; 40 was fastest in both precisions
    # Tiles at the same time on a CPU, one core each; in no digest of what decides a result.
    threads: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in SYNTHESIS_PRECISIONS:
            raise UsageError(
                f"precision {self.precision!r} is not one of {', '.join(SYNTHESIS_PRECISIONS)}"
            )
        if self.tile < 1 or (self.threads is not None and self.threads < 1):
            raise UsageError("tile and threads must be at least 1")


DEFAULTS = EngineOptions()


def resolve_device(name: str) -> torch.device:
    """Return a device by its name, or raise `UsageError` where this machine has none such."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if str(name) not in there:
        raise UsageError(
            f"device {name}: this machine offers {', '.join(there)} to PyTorch; take one of these, "
            "or auto"
        )
    return torch.device(name)


def native_precision(device: str = "auto") -> str:
    """Return bfloat16 where the hardware multiplies in it, else float32, or float16 on CUDA.

    Where a CPU only emulates bfloat16 a convolution was seen to take 30 times as long.
    """
    if resolve_device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"


@contextlib.contextmanager
def noting_device(name: str) -> Iterator[list[str]]:
    """Yield a list of the kind of device, ``cpu`` or ``cuda``, final when the block has ended."""
    used = [resolve_device(name).type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CpuTookOverWarning)
        yield used
    for item in caught:
        if issubclass(item.category, CpuTookOverWarning):
            used[0] = "cpu"
        warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
