"""The subjects of a dataset: its folders and its ``participants.tsv``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from h2lo_bids.errors import MissingInputError
from h2lo_bids.io import read_text, table_rows

_FOLDER = re.compile(r"sub-([A-Za-z0-9+]+)")


def list_subjects(bids_dir: str | Path) -> tuple[str, ...]:
    """List the subjects that have a folder, by looking at folder names only.

    Parameters
    ----------
    bids_dir : path-like
        Root of the dataset.

    Returns
    -------
    tuple of str
        Sorted labels without ``sub-``.

    Raises
    ------
    MissingInputError
        The folder does not exist or cannot be read.
    """
    try:
        with os.scandir(bids_dir) as entries:
            found = [
                match[1]
                for entry in entries
                if (match := _FOLDER.fullmatch(entry.name)) and _is_folder(entry)
            ]
    except OSError as error:
        raise MissingInputError(
            f"{bids_dir}: the input dataset cannot be read ({error.strerror}); check the path"
        ) from error
    return tuple(sorted(found))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Count what cannot be told, such as a link to itself: it is reported later, on its own."""
    try:
        return entry.is_dir()
    except OSError:
        return True


def read_participants(bids_dir: str | Path) -> dict[str, dict[str, str]]:
    """Read ``participants.tsv``, with or without ``sub-`` in its first column.

    Parameters
    ----------
    bids_dir : path-like
        Root of the dataset.

    Returns
    -------
    dict
        Rows by label without ``sub-``; empty when there is no such file or it
        makes no sense, since nothing depends on it.
    """
    try:
        rows = list(table_rows(read_text(Path(bids_dir) / "participants.tsv")))
    except (OSError, ValueError):
        return {}
    labelled = ((row.get("participant_id", "").strip().removeprefix("sub-"), row) for row in rows)
    return {label: row for label, row in labelled if label}
