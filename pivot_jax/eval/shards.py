"""An evaluation by several processes: each answers a part of the questions into a file of its own.

Processes need not know of each other: they may run one after the other, on other machines with a shared folder, or be
killed and started again. Whoever finishes writes the answers of all parts so far into the evaluation's file.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pivot_jax.eval import predictions


def path_of(out: Path, shard: tuple[int, int]) -> Path:
    """The file of the k-th of n parts: ``NAME.2-of-4.shard``; ``out`` itself where there is one part."""
    part, parts = shard
    return out if parts == 1 else out.with_name(f"{out.stem}.{part}-of-{parts}.shard")


def merge(out: Path, parts: int, order: Iterable[str]) -> Path:
    """Writes the answers of all parts that are there into ``out``, in the order of the questions.

    Lines that another process is still writing are left to it: it merges again when it has finished.
    """
    with (out.with_name(f".{out.stem}.merge.lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that of two that finish at once, the second reads what the first wrote
        rows: dict[str, dict[str, Any]] = {}
        for part in range(1, parts + 1):
            file = path_of(out, (part, parts))
            if file.is_file():
                rows |= {str(row["question_id"]): row for row in predictions.complete_rows(file)}
        predictions.write(out, [rows[one] for one in order if one in rows])
    return out
