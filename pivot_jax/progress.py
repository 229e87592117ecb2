"""Progress with an estimate of the time left: bars on a terminal, periodic lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

LOG_EVERY_S = 30.0


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
    with _bars(counts) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda count=1: bar.advance(task, count)


def _bars(counts: Any, **options: Any) -> Any:
    """A rich display on stderr; ``counts`` is the column that says how much is done."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        counts,
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    return rich_progress.Progress(*columns, console=Console(stderr=True), **options)


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
    """Progress of several jobs that run side by side: a bar for each on a terminal, one line for all in a log.

    Args:
      totals: job → its size, in any unit.
      done: job → the part finished before now. It does not count towards the speed.
    """

    def __init__(self, totals: Mapping[str, float], done: Mapping[str, float]):
        self._totals, self._at_start = dict(totals), dict(done)
        self._began = self._logged = time.monotonic()
        self._display: Any = None
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.progress import TaskProgressColumn

            self._display = _bars(TaskProgressColumn(), speed_estimate_period=120)
            self._display.start()
            for job, total in self._totals.items():
                self._bars[job] = self._display.add_task(job, total=total, completed=self._at_start[job])
        return self

    def __exit__(self, *_: Any) -> None:
        if self._display is not None:
            self._display.stop()

    def update(self, states: Mapping[str, tuple[float, str]], *, last: bool = False) -> None:
        """Shows job → (part done, what it is doing). A log gets a line every :data:`LOG_EVERY_S`, and the ``last``."""
        if self._display is not None:
            for job, (done, text) in states.items():
                self._display.update(self._bars[job], completed=done, description=f"{job}: {text:<26}")
            return
        now = time.monotonic()
        if last or now - self._logged >= LOG_EVERY_S:
            self._logged = now
            parts = [f"{job}: {done / self._totals[job]:.0%} {text}" for job, (done, text) in states.items()]
            print(f"{' | '.join(parts)}{self._left(states, now)}", file=sys.stderr, flush=True)

    def _left(self, states: Mapping[str, tuple[float, str]], now: float) -> str:
        """Time left of the slowest job; "" while one has not moved."""
        lefts = []
        for job, (done, _) in states.items():
            gained = done - self._at_start[job]
            if gained <= 0:
                return ""
            lefts.append((self._totals[job] - done) * (now - self._began) / gained)
        return f" | {max(lefts) / 60:.1f} min left" if max(lefts) > 0 else ""
