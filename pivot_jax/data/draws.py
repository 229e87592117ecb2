"""Random choices that depend on a seed and on content alone: the same on every machine, whatever else is chosen."""

from __future__ import annotations

import hashlib


def draw(seed: int, *content: object) -> int:
    """A number from 0 to 2^64 that depends on the seed and the content alone, not on what else is drawn."""
    text = "\x1f".join(map(str, (seed, *content)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
