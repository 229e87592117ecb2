"""Differences between our arrays and transformers', checked against a limit and recorded for ``make parity``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

HEAD = """# Parity with transformers

`make parity` runs the parity tests between random models of every family and live `transformers`, including the heavy
ones, and writes this page. The table has the largest differences; the relative one is divided by the largest value.
Where a limit is above 1e-4, a checkpoint in bfloat16 or images in grey levels are compared.

Images are resized as the processors that use Pillow do it (`...ImageProcessorPil`). The processors that use torchvision
resize uint8 images with another rounding, and differ from both by up to 2/255.

`transformers` gives the embedding of the `pad_token_id` in config.json no gradient where the token occurs. An imported
model has that token as `model.decoder.padding_idx`, and an export writes it back; by default there is none.
"""


def compare(family: str, config: str, what: str, ours: Any, theirs: Any, limit: float = 1e-4) -> None:
    """Asserts that ``ours`` and ``theirs`` (arrays or tensors of one shape) differ by at most ``limit``.

    The relative difference is max |ours - theirs| / max |theirs|. The limit holds for both differences. Where
    ``$PIVOT_PARITY`` names a file, a line {family, config, what, absolute, relative, limit} is appended to it.
    """
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs.detach().float().numpy() if hasattr(theirs, "detach") else theirs, np.float64)
    assert ours.shape == theirs.shape, f"{family} {config}: {what} is {ours.shape}, transformers' {theirs.shape}"
    assert np.isfinite(theirs).all() and np.abs(theirs).max() > 1e-3, f"{family} {config}: {what} is zero or not finite"
    absolute = float(np.abs(ours - theirs).max())
    relative = absolute / float(np.abs(theirs).max())
    if path := os.environ.get("PIVOT_PARITY"):
        row = dict(family=family, config=config, what=what, absolute=absolute, relative=relative, limit=limit)
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
    assert max(absolute, relative) <= limit, f"{family} {config}: {what} differs by {absolute:.2e} ({relative:.2e})"


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown row per family and compared quantity: the number of configs, and their largest differences."""
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows:
        what = row["what"].partition(" of ")[0]  # "gradient of" each of many parameters: one row
        groups.setdefault((row["family"], what, row["limit"]), []).append(row)
    lines = ["| family | compared | configs | max absolute | max relative | limit |", "|---|---|---|---|---|---|"]
    for (family, what, limit), found in sorted(groups.items()):
        worst = (max(row[key] for row in found) for key in ("absolute", "relative"))
        count = len({row["config"] for row in found})
        differences = " | ".join(f"{difference:.1e}" for difference in worst)
        lines.append(f"| {family} | {what} | {count} | {differences} | {limit:.0e} |")
    return "\n".join(lines)


def main(source: str, target: str) -> None:
    """Writes the rows of ``source``, one line of JSON each, as a page to ``target``."""
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    Path(target).write_text(f"{HEAD}\n{table(rows)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
