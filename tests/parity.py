"""Gaps between our arrays and transformers', held to a limit and written down for ``make parity``'s table."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np


def compare(family: str, config: str, what: str, ours: Any, theirs: Any, limit: float = 1e-4) -> None:
    """Asserts that ``ours`` and ``theirs`` (arrays or tensors of one shape) differ by at most ``limit``.

    The relative gap is that of the largest value: max |ours - theirs| / max |theirs|. Both are held to the limit.
    Where ``$PIVOT_PARITY`` names a file, a line {family, config, what, absolute, relative, limit} is added to it.
    """
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs.detach().float().numpy() if hasattr(theirs, "detach") else theirs, np.float64)
    assert ours.shape == theirs.shape, f"{family} {config}: {what} is {ours.shape}, transformers' {theirs.shape}"
    assert np.isfinite(theirs).all() and np.abs(theirs).max() > 1e-3, f"{family} {config}: {what} says nothing"
    absolute = float(np.abs(ours - theirs).max())
    relative = absolute / float(np.abs(theirs).max())
    if path := os.environ.get("PIVOT_PARITY"):
        row = dict(family=family, config=config, what=what, absolute=absolute, relative=relative, limit=limit)
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
    assert max(absolute, relative) <= limit, f"{family} {config}: {what} differs by {absolute:.2e} ({relative:.2e})"
