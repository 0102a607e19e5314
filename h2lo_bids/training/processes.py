"""The processes of a fit, as torchrun or srun started them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from h2lo_bids.errors import UsageError
from h2lo_bids.training.estimators import Share
from h2lo_bids.training.options import FitOptions


@dataclass(frozen=True)
class Processes:
    """One process and its fellows.

    Parameters
    ----------
    rank, world
        The number of the process, and how many there are.
    per_node
        Processes on each node.
    launcher
        ``"torchrun"`` or ``"srun"``.
    """

    rank: int
    world: int
    per_node: int
    launcher: str

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.world // self.per_node

    @property
    def share(self) -> Share:
        """The part of each step that is this process's."""
        return Share(self.rank, self.world)


def find_processes() -> Processes | None:
    """Read the environment; None if this process was started alone.

    Raises
    ------
    UsageError
        If the nodes have different numbers of processes.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        names, launcher = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), "torchrun"
        rank, world, per_node = (int(env[name]) for name in names)
    elif int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:
        rank, world, launcher = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), "srun"
        per_node = world // int(env.get("SLURM_STEP_NUM_NODES", "1"))
    else:
        return None
    if world == 1:
        return None
    if world % per_node:
        raise UsageError(f"{world} processes, but {per_node} on this node: use as many on each")
    return Processes(rank, world, per_node, launcher)


def check_shares(pairs: int, options: FitOptions, world: int) -> None:
    """Raise `UsageError` if a step has fewer samples than there are processes.

    Parameters
    ----------
    pairs
        Training pairs, of which a step takes no more than there are.
    options
        Of the fit.
    world
        Number of processes.
    """
    samples = min(pairs, options.batch)
    if options.sampling == "volume" and pairs % samples:
        samples = pairs % samples  # those of an epoch's last step
    if samples < world:
        raise UsageError(
            f"a step has {samples} samples for {world} processes; "
            "raise the batch, or use fewer processes or more pairs"
        )
