"""What the app promises, in machine-readable form.

``io_spec.json`` says which images are looked up and how every output is named,
``descriptions.tsv`` what every ``desc-`` label means, ``columns.yml`` what the columns of
tables hold, ``methods.yml`` which methods there are, ``references.yml`` what is cited (BibTeX's
types and fields). There is no logic here beyond reading these files.
"""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load(name: str) -> Any:
    """Read one file of the specification, once.

    Parameters
    ----------
    name : str
        File name, e.g. ``"io_spec.json"``.

    Returns
    -------
    dict or list for ``.json`` and ``.yml``, list of dict (one per row) for ``.tsv``.
    The object is shared by all that ask for it, and not to be changed.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    text = (files(__package__) / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        return json.loads(text)
    if name.endswith(".tsv"):
        return list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    import yaml

    # libyaml's loader, which PyYAML has on most machines, is ten times faster.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both safe
