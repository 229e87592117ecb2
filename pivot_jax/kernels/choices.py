"""Which attention backend ``auto`` takes: what was measured fastest on a kind of device, from ``choices.json``.

``benchmarks/attention.py --write-table`` writes the file::

    {"NVIDIA H200": [{"widths": [64, 128], "causal": true, "mask": "segments", "dtype": "bfloat16",
                      "backend": "pallas_gpu"}, …]}

An entry counts for rows that attend to themselves; decoding, with one query against a cache, was not measured.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.kernels.tuned import Case

FILE = Path(__file__).with_name("choices.json")
LEAST = 256  # tokens of a row, about half of the shortest that is measured
Table = dict[str, list[dict[str, Any]]]


def choose(kind: str, case: Case) -> str | None:
    """The backend for a case on a kind of device; None where nothing like it was measured."""
    if case.n != case.m or case.n < LEAST:
        return None
    for entry in read(FILE).get(kind, []):
        alike = entry["causal"] == case.causal and entry["mask"] == case.mask and entry["dtype"] == case.dtype
        if alike and case.c in entry["widths"]:
            return entry["backend"]
    return None


def write(kind: str, fastest: dict[tuple[int, bool, str, str], str], file: Path = FILE) -> None:
    """Replaces a kind's entries.

    Args:
      fastest: (head width, causal, mask, dtype) → backend; widths that share the rest share an entry.
    """
    widths: dict[tuple[Any, ...], set[int]] = {}
    for (width, *rest), backend in fastest.items():
        widths.setdefault((*rest, backend), set()).add(width)
    entries = [
        {"widths": sorted(found), "causal": causal, "mask": mask, "dtype": dtype, "backend": backend}
        for (causal, mask, dtype, backend), found in sorted(widths.items())
    ]
    lines = [
        f"{json.dumps(name)}: [\n " + ",\n ".join(json.dumps(x) for x in rows) + "\n]"
        for name, rows in sorted(({**read(file), kind: entries}).items())
    ]
    files.write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")
    read.cache_clear()


@functools.cache
def read(file: Path) -> Table:
    """The table by kind of device."""
    return json.loads(file.read_text(encoding="utf-8"))
