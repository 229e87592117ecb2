"""Gaps between our arrays and transformers', held to a limit and written down for ``make parity``'s table."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
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


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown row for each family and thing compared: how many configs, and the largest gaps among them."""
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows:
        what = row["what"].partition(" of ")[0]  # "gradient of" each of many parameters: one row
        groups.setdefault((row["family"], what, row["limit"]), []).append(row)
    lines = ["| family | compared | configs | max absolute | max relative | limit |", "|---|---|---|---|---|---|"]
    for (family, what, limit), found in sorted(groups.items()):
        worst = (max(row[key] for row in found) for key in ("absolute", "relative"))
        count = len({row["config"] for row in found})
        gaps = " | ".join(f"{gap:.1e}" for gap in worst)
        lines.append(f"| {family} | {what} | {count} | {gaps} | {limit:.0e} |")
    return "\n".join(lines)


def main(source: str, target: str) -> None:
    """Writes ``source``'s rows, a line of JSON each, as a page to ``target``."""
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    head = (
        "# Parity with transformers\n\n"
        "`make parity` runs the tests that hold random models of every family against live `transformers`, the heavy\n"
        "ones too, and writes this page. Relative is the largest gap over the largest value. Where a limit is above\n"
        "1e-4, a checkpoint in bfloat16 or pictures in grey levels are compared.\n\n"
    )
    Path(target).write_text(f"{head}{table(rows)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
