"""Whether a Nipype plugin can do the work here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from h2lo_bids.errors import UsageError
from h2lo_bids.settings import Settings

_SUBMITS_WITH = {
    "SLURM": "sbatch", "SLURMGraph": "sbatch", "PBS": "qsub", "PBSGraph": "qsub", "SGE": "qsub",
    "SGEGraph": "qsub", "LSF": "bsub", "OAR": "oarsub", "Condor": "condor_qsub",
    "CondorDAGMan": "condor_submit_dag",
}  # fmt: skip


def check_plugin(settings: Settings, content: dict[str, Any]) -> None:
    """Check a plugin before any scan depends on it.

    Parameters
    ----------
    settings
        Of the run.
    content
        Of the file that ``--use-plugin`` names.

    Raises
    ------
    UsageError
        If Nipype has no such plugin, or it cannot be used here.
    """
    from nipype.pipeline import plugins

    path = settings.use_plugin
    name, args = content["plugin"], content.get("plugin_args") or {}
    if not hasattr(plugins, f"{name}Plugin"):
        known = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
        raise UsageError(
            f"--use-plugin {path}: Nipype has no plugin {name!r}; it has {', '.join(known)}"
        )
    if name in _SUBMITS_WITH:
        _check_cluster(path, name, settings.work)
    try:
        getattr(plugins, f"{name}Plugin")(plugin_args=dict(args))
    except Exception as err:
        # Plugins check neither their arguments nor that their scheduler is there.
        raise UsageError(
            f"--use-plugin {path}: {name} cannot be used here with these plugin_args "
            f"({type(err).__name__}: {err}); correct them or leave the option out"
        ) from err


def _check_cluster(path: Path | None, name: str, work: Path) -> None:
    """Refuse what would fail with every scan: Nipype looks at neither."""
    command = _SUBMITS_WITH[name]
    if shutil.which(command) is None:
        raise UsageError(
            f"--use-plugin {path}: {name} submits with {command}, which is not on PATH here; run "
            "on a machine that submits jobs, or leave the option out"
        )
    if not re.fullmatch(r"[\w@%+=:,./-]+", str(work)):
        raise UsageError(
            f"--use-plugin {path}: {name} takes no work folder with spaces or quotation marks "
            f"({work}); choose another with -w"
        )
