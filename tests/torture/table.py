"""The lines that `make torture` noted, as docs/torture.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pivot_jax.parallel.chips import processor

HEAD = """# Runs under torture

`make torture` kills, stops and damages small runs, fills their disk, compares each with one that nothing stopped, and
writes this page. A line is there only if every try of it ended as it says. The delay is the longest between a signal
and the end of the process, of several processes of the last one; these runs take a few milliseconds a step. Runs of
several processes have `train.peer_timeout_s` at 15 seconds (120 by default).
"""


def main(source: str, target: str) -> None:
    """Writes the rows of ``source``, one line of JSON each, as a page to ``target``."""
    found = [json.loads(line) for line in Path(source).read_text().splitlines()]
    rows = sorted(found, key=lambda row: (row["what"].lower(), row["kind"]))
    lines = ["| what | run | times | what happened | longest delay |", "|---|---|---|---|---|"]
    for row in rows:
        delay = "" if row["delay"] is None else f"{row['delay']:.1f} s"
        lines.append(f"| {row['what']} | {row['kind']} | {row['times']} | {row['outcome']} | {delay} |")
    Path(target).write_text(f"{HEAD}\nOn {processor()}.\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
