"""Progress with an estimate of the time left: bars on a terminal, periodic lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

LOG_EVERY_S = 30.0
FIRST_S = 45.0  # before several jobs say how long they will take
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
    """Progress of several jobs: a bar for each on a terminal, one line for all in a log, and the time that is left.

    After :data:`FIRST_S` seconds it says once how long they will take, from what these seconds did. There is no
    estimate before every job that runs has done :data:`FIRST_SHARE`.

    Args:
      totals: job → its size, in any unit that takes the same time everywhere.
      done: job → the part finished before now. It does not count towards the speed.
      parallel: jobs that run at a time.
    """

    def __init__(self, totals: Mapping[str, float], done: Mapping[str, float], parallel: int):
        self._totals, self._at_start = dict(totals), dict(done)
        self._parallel = min(parallel, sum(totals[job] > done[job] for job in totals))
        self._began = self._logged = time.monotonic()
        self._announced = False
        self._display: Any = None
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.progress import TaskProgressColumn, TextColumn

            self._display = _bars(TaskProgressColumn(), TextColumn("{task.fields[left]}"))
            self._display.start()
            for job, total in self._totals.items():
                self._bars[job] = self._display.add_task(job, total=total, completed=self._at_start[job], left="")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._display is not None:
            self._display.stop()

    def update(self, states: Mapping[str, tuple[float, str]], *, last: bool = False) -> None:
        """Shows job → (part done, what it is doing). A log gets a line every :data:`LOG_EVERY_S`, and the ``last``."""
        now = time.monotonic()
        left = self._left({job: done for job, (done, _) in states.items()}, now)
        words = f"{left / 60:.1f} min left" if left else ""
        if left and not self._announced and now - self._began >= FIRST_S:
            self._announced = True
            self._say(
                f"about {left / 60:.0f} min left on this machine, as far as the first {now - self._began:.0f} s tell"
            )
        if self._display is not None:
            for job, (done, text) in states.items():
                shown = words if done < self._totals[job] else ""
                self._display.update(self._bars[job], completed=done, description=f"{job}: {text:<26}", left=shown)
        elif last or now - self._logged >= LOG_EVERY_S:
            self._logged = now
            parts = [f"{job}: {done / self._totals[job]:.0%} {text}" for job, (done, text) in states.items()]
            self._say(" | ".join([*parts, *filter(None, [words])]))

    def _say(self, line: str) -> None:
        if self._display is not None:
            self._display.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _left(self, done: Mapping[str, float], now: float) -> float:
        """Seconds left, as the work so far was done; 0: none, or not known yet.

        It is the longer of two times: all work that is left at the speed so far, and that of the job with the most
        left at its share of this speed.
        """
        gained = {job: done[job] - self._at_start[job] for job in done}
        known = sum(part >= FIRST_SHARE * self._totals[job] for job, part in gained.items())
        if known < max(self._parallel, 1):
            return 0.0
        per_unit = (now - self._began) / sum(gained.values())
        remaining = [self._totals[job] - part for job, part in done.items()]
        return per_unit * max(sum(remaining), max(remaining) * self._parallel)
