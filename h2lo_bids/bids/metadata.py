"""Sidecars of one image, by BIDS inheritance, read only when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from h2lo_bids.bids.names import Name, parse_name
from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.io import check_content, read_json


class Sidecars:
    """Reads the JSON that applies to images of one dataset.

    A JSON applies to an image when it has the same suffix, lies in the image's
    folder or above it, and has no entity that the image lacks or has otherwise.
    Nearer files override farther ones; within a folder, more specific ones
    override less specific ones. Folders and files are read once.

    Parameters
    ----------
    root : Path
        Root of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, list[tuple[Path, Name]]] = {}
        self._contents: dict[Path, dict[str, Any]] = {}

    def read(self, image: Path, name: Name) -> dict[str, Any]:
        """Merge the sidecars of an image.

        Parameters
        ----------
        image : Path
            Below the root.
        name : Name
            Its name, taken apart.

        Returns
        -------
        dict
            Empty when there is no sidecar.

        Raises
        ------
        BadDataError
            A sidecar that applies is not a JSON object.
        MissingInputError
            A sidecar that applies cannot be read.
        """
        merged: dict[str, Any] = {}
        for path in self.applicable(image, name):
            merged |= self._load(path)
        return merged

    def applicable(self, image: Path, name: Name) -> list[Path]:
        """List the sidecars of an image, from the root down."""
        entities = set(name.entities)
        found = []
        for folder in self._chain(image):
            here = [
                (len(json_name.entities), path)
                for path, json_name in self._listing(folder)
                if json_name.suffix == name.suffix and set(json_name.entities) <= entities
            ]
            found += [path for _, path in sorted(here)]
        return found

    def _chain(self, image: Path) -> list[Path]:
        parts = image.parent.relative_to(self._root).parts
        return [self._root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]

    def _listing(self, folder: Path) -> list[tuple[Path, Name]]:
        if folder not in self._folders:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".json")]
            parsed = ((folder / filename, parse_name(filename)) for filename in names)
            self._folders[folder] = [(path, name) for path, name in parsed if name is not None]
        return self._folders[folder]

    def _load(self, path: Path) -> dict[str, Any]:
        if path not in self._contents:
            check_content(path)
            try:
                content = read_json(path)
            except OSError as error:
                raise MissingInputError(
                    f"{path}: the sidecar cannot be read ({error.strerror}); check its permissions"
                ) from error
            except ValueError as error:
                raise BadDataError(
                    f"{path}: the sidecar is not valid JSON ({error}); repair it"
                ) from error
            if not isinstance(content, dict):
                raise BadDataError(f"{path}: the sidecar is not a JSON object; repair it")
            self._contents[path] = content
        return self._contents[path]
