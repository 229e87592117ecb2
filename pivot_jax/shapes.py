"""Static shapes: sizes rounded up, so that one compiled program serves many inputs."""

from __future__ import annotations


def round_up(size: int, step: int) -> int:
    """The smallest multiple of ``step`` that is at least ``size``."""
    return -(-size // step) * step


def bucket(size: int, smallest: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... times ``smallest`` that is at least ``size``."""
    whole = smallest
    while whole < size:
        if whole > smallest and whole * 3 // 2 >= size:
            return whole * 3 // 2
        whole *= 2
    return whole
