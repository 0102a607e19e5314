"""What Lightning is given in place of its own: checkpoints and TensorBoard logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from h2lo_bids.training.checkpoint import save_checkpoint

TENSORBOARD = "tensorboard"


class FolderCheckpoints(CheckpointIO):
    """Checkpoints of one folder, whatever name Lightning gives them.

    Written whole, the one before kept, and read without running code; so that
    a job that was killed or queued again finds its newest checkpoint itself.
    """

    def __init__(self, folder: Path, saved: dict[str, Any] | None) -> None:
        self._folder, self._saved = folder, saved

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write the state of a fit."""
        save_checkpoint(self._folder, checkpoint)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checkpoint that `fit` has read and found to be this fit's."""
        if self._saved is None:
            raise FileNotFoundError(str(path))
        saved, self._saved = self._saved, None
        return saved

    def remove_checkpoint(self, path: Any) -> None:
        """Remove nothing: the folder keeps the last two."""


class TensorBoard(TensorBoardLogger):
    """A TensorBoard log that a fit can do without.

    A full disk stops the log, in one line; the checkpoint then says whether the
    fit can go on.
    """

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]) -> None:
        # Records after the resumed step are those of steps that are done again.
        purge: dict[str, Any] = {"purge_step": step + 1} if step else {}
        super().__init__(folder, name="", version=TENSORBOARD, **purge)
        self._say, self._works = say, True

        self._try(lambda: self.experiment)

    @property
    def works(self) -> bool:
        """Whether the log can be written."""
        return self._works

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars."""
        self._try(lambda: super(TensorBoard, self).log_metrics(dict(metrics), step))

    def save(self) -> None:
        """Flush the log; options and weights are elsewhere."""
        self._try(lambda: self.experiment.flush())

    def finalize(self, status: str) -> None:
        """Close the log."""
        self._try(lambda: super(TensorBoard, self).finalize(status))

    def _try(self, action: Callable[[], Any]) -> None:
        if not self._works:
            return
        try:
            action()
        except Exception as err:
            # Its writer is a thread that raises what it met in any later call.
            self._works = False
            self._say(f"{self.log_dir}: TensorBoard log given up: {err}")
