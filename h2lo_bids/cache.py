"""Digests, by which kept results know what they were made from."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def digest(values: Any, size: int = 8) -> str:
    """Return a digest of JSON-ready values, of `size` bytes, whatever the order of keys."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, as bundles and sidecars record it."""
    return hashlib.sha256(content).hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """Return place, size and time of a file, which change when it is made again."""
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes; it is read once per process unless it changes."""
    return _content(*stamp(path))


@functools.cache
def _content(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
