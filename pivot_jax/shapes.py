"""Static shapes: sizes rounded up, so that one compiled program serves many inputs."""

from __future__ import annotations


def round_up(size: int, step: int) -> int:
    """The smallest multiple of ``step`` that is at least ``size``."""
    return -(-size // step) * step
