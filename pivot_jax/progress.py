"""Progress with an estimate of the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LOG_EVERY_S = 30.0


class Advance(Protocol):
    """Reports that ``count`` more units are done."""

    def __call__(self, count: int = 1) -> None: ...


@contextmanager
def progress(label: str, total: int, *, done: int = 0, show: bool = True, size: bool = False) -> Iterator[Advance]:
    """Within the block, call the value with the number of units done since the last call.

    Args:
      size: the units are bytes.
      done: units finished in an earlier run; they do not count towards the speed.
    """
    if not show or total <= 0:
        yield lambda count=1: None
    elif sys.stderr.isatty():
        with _bar(label, total, done, size) as advance:
            yield advance
    else:
        yield _lines(label, total, done, size)


@contextmanager
def _bar(label: str, total: int, done: int, size: bool) -> Iterator[Advance]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(binary_units=True) if size else rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda count=1: bar.advance(task, count)


def _lines(label: str, total: int, done: int, size: bool) -> Advance:
    start = last = time.monotonic()
    finished = done

    def advance(count: int = 1) -> None:
        nonlocal finished, last
        finished += count
        now = time.monotonic()
        if finished < total and now - last < LOG_EVERY_S:
            return
        if finished >= total and now - start < 1.0:
            return  # too short to be worth a line
        last = now
        left = (now - start) / max(finished - done, 1) * (total - finished)
        counts = f"{finished / 2**30:.2f}/{total / 2**30:.2f} GiB" if size else f"{finished}/{total}"
        print(f"{label}: {counts}, {now - start:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)

    return advance
