# ruff: noqa: E501 - documents to damage, as they are
"""Seeded damage to bytes and to JSON, by the habits of those who attack parsers."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from report_samples import EVIL

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 10**400, -(10**30), 1e308, float("nan"), float("inf"), "",
    "n/a", "9" * 5000, "²", "\ud800", "a\x00b", "../../etc/passwd", "/etc/passwd", "sub-..", EVIL,
    "x" * 200_000, [], {}, [[]], [None], [1, "a", {}], {"": None}, {EVIL: EVIL}, [1e400] * 3,
)  # fmt: skip

_WORDS = (
    b"\x00", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xca\xf2\x49\x71", b"\xff\xff",
    b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"NaN", b"-Infinity", b"\\ud800", b"../", b"\t",
    b"\r\n", b'"', b"'", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"x" * 140_000, b"}",
    b",", b"1e999", b"-1", b"1979-05-27T07:32:00Z", b"{input}", b"{__class__}", b"<script>", b"\x1b[",
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage bytes in one to four places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        # Headers are at the start, and are what lies.
        at = min(at, rng.choice((at, 64, 348, 600)))
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind <= 2:
            word = rng.choice(_WORDS)
            out[at : at + len(word) * (kind == 2)] = word
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 8, 100, len(out)))]
        else:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.choice((4, 32, 400))]
    return bytes(out)


def mutate_json(content: Any, rng: random.Random) -> Any:
    """Replace, remove or double one to three parts of what JSON holds."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 3))):
        places = list(_places(content))
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        (holder, key), kind = rng.choice(places), rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(("", EVIL, "../x", "\ud800", "x" * 300))] = copy.deepcopy(holder[key])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return content


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a document: more often as JSON than as bytes where it is some."""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        if rng.random() > 0.4:
            # As an attacker would: with NaN, lone surrogates and huge numbers.
            return json.dumps(mutate_json(content, rng)).encode("utf-8", errors="surrogatepass")
    return mutate_bytes(data, rng)


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each part of a value as what holds it, and its key there."""
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield content, key
            yield from _places(content[key])
