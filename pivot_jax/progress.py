"""Progress with an estimate of the time left: bars on a terminal, periodic lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

LOG_EVERY_S = 30.0
FIRST_S = 45.0  # before a job says how long it will take
FIRST_SHARE = 0.04  # of a job; before, most of the time was that of its start, and of compiling


class Advance(Protocol):
    """Reports that ``count`` more units are done."""

    def __call__(self, count: int = 1) -> None: ...


@contextmanager
def progress(label: str, total: int, *, done: int = 0, show: bool = True, size: bool = False) -> Iterator[Advance]:
    """Yields a function. Call it with the number of units done since the last call.

    Args:
      size: the units are bytes.
      done: units finished in an earlier run. They do not count towards the speed.
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

    counts = rich_progress.DownloadColumn(binary_units=True) if size else rich_progress.MofNCompleteColumn()
    left = rich_progress.TextColumn("left"), rich_progress.TimeRemainingColumn(elapsed_when_finished=True)
    with _bars(counts, *left) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda count=1: bar.advance(task, count)


def _bars(counts: Any, *left: Any) -> Any:
    """A rich display on stderr. ``counts`` is the column that says how much is done, ``left`` are the last ones."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        counts,
        rich_progress.TimeElapsedColumn(),
        *left,
    )
    return rich_progress.Progress(*columns, console=Console(stderr=True))


def _lines(label: str, total: int, done: int, size: bool) -> Advance:
    start = last = time.monotonic()
    finished = done
    first: tuple[float, int] | None = None  # (time, units finished) after the first call, which includes compilation

    def advance(count: int = 1) -> None:
        nonlocal finished, last, first
        finished += count
        now = time.monotonic()
        began, before = first or (start, done)
        first = first or (now, finished)
        if finished < total and now - last < LOG_EVERY_S:
            return
        if finished >= total and now - start < 1.0:
            return  # too short to be worth a line
        last = now
        left = (now - began) / max(finished - before, 1) * (total - finished)
        counts = f"{finished / 2**30:.2f}/{total / 2**30:.2f} GiB" if size else f"{finished}/{total}"
        print(f"{label}: {counts}, {now - start:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)

    return advance


class Board:
    """Progress of a long job whose work is counted elsewhere: a bar on a terminal, lines in a log, and the time left.

    After :data:`FIRST_S` seconds it says once how long it will take. There is no estimate before :data:`FIRST_SHARE`.

    Args:
      total: size of the job, in any unit that takes the same time everywhere.
      done: the part finished before now. It does not count towards the speed.
    """

    def __init__(self, label: str, total: float, done: float):
        self._label, self._total, self._at_start = label, total, done
        self._began = self._logged = time.monotonic()
        self._announced = False
        self._display: Any = None
        self._bar: Any = None

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.progress import TaskProgressColumn, TextColumn

            self._display = _bars(TaskProgressColumn(), TextColumn("{task.fields[left]}"))
            self._display.start()
            self._bar = self._display.add_task(self._label, total=self._total, completed=self._at_start, left="")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._display is not None:
            self._display.stop()

    def update(self, done: float, text: str, *, last: bool = False) -> None:
        """Shows what is done and what it does now. A log gets a line every :data:`LOG_EVERY_S`, and the ``last``."""
        now = time.monotonic()
        left = self._left(done, now)
        words = f"{left / 60:.1f} min left" if left else ""
        if left and not self._announced and now - self._began >= FIRST_S:
            self._announced = True
            self._say(
                f"about {left / 60:.0f} min left on this machine, as far as the first {now - self._began:.0f} s tell"
            )
        if self._display is not None:
            self._display.update(self._bar, completed=done, description=f"{self._label}: {text:<40}", left=words)
        elif last or now - self._logged >= LOG_EVERY_S:
            self._logged = now
            self._say(" | ".join(filter(None, [f"{self._label}: {done / self._total:.0%} {text}", words])))

    def _say(self, line: str) -> None:
        if self._display is not None:
            self._display.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _left(self, done: float, now: float) -> float:
        """Seconds left, as the work so far was done; 0: none, or not known yet."""
        gained = done - self._at_start
        if gained < FIRST_SHARE * (self._total - self._at_start):
            return 0.0
        return (now - self._began) / gained * (self._total - done) if gained else 0.0
