"""A tracker behind a queue and a thread of its own, so that it can be slow, hang or fail without the run noticing."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from pivot_jax.train.trackers.base import Bundle, Memory, TextTable, Tracker
from pivot_jax.words import counted

log = logging.getLogger(__name__)
PAUSES = (1.0, 10.0, 60.0, 300.0)  # seconds before a call that failed is made again; after the last one it is given up
LIMIT = 20_000  # calls that may wait for a tracker; more, and it hangs
TABLES = 50  # tables among them, which hold images
PATIENCE = 30.0  # seconds that the end of a finished run waits for a tracker
HURRY = 5.0  # of a run that stops early: whoever sent the signal waits
_T = TypeVar("_T")


class Mark(NamedTuple):
    """A log line: its step, and which line of that step it is, from 1."""

    step: int
    line: int

    def next(self, step: int) -> Mark:
        """The mark of the line after this one."""
        return Mark(step, self.line + 1 if step == self.step else 1)


class Known(NamedTuple):
    """How far a tracker is: the last log line that it has, and the step of the last table."""

    mark: Mark
    shown: int


class Line(NamedTuple):
    """A log line with its mark."""

    mark: Mark
    metrics: Mapping[str, float]


class _GivenUp(Exception):
    """The tracker is left out from here on."""


class Feed:
    """Hands lines, tables and files to a tracker. No method raises, and none but :meth:`close` waits.

    A line that the tracker has already (of a step that a killed process took, and this one takes again) is left out.
    Lines that it lacks (it failed then, or was chosen later) are sent first.
    """

    def __init__(self, name: str, opens: Callable[[], Tracker], memory: Memory, behind: Sequence[Line], known: Known):
        """Starts the thread, which opens the tracker.

        Args:
          name: for messages. memory: what was sent is remembered there, as ``mark`` and ``shown``.
          behind: lines of the log that the tracker lacks. known: what it has.
        """
        self._name, self._opens, self._memory, self._behind = name, opens, memory, behind
        self._mark, self._shown = behind[-1].mark if behind else known.mark, known.shown
        self._sent = known.mark
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(LIMIT)
        self._tables = threading.Semaphore(TABLES)
        self._closing = threading.Event()
        self._finished = self._failed = self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        if line.mark > self._mark:
            self._mark = line.mark
            self._put(partial(self._write, line))

    def show(self, step: int, table: TextTable) -> None:
        if step <= self._shown:
            return
        if self._tables.acquire(blocking=False):
            self._put(partial(self._show, step, table))
        else:
            self._hangs()

    def keep(self, bundle: Bundle) -> None:
        self._put(lambda tracker: self._tried(lambda: tracker.keep(bundle)))

    def end(self, finished: bool) -> None:
        """No more calls follow. ``finished``: False where the run ends before its last step."""
        self._finished = finished
        self._closing.set()  # from here on a call that fails is not made again

    def close(self, until: float) -> None:
        """Waits for what is still to be sent, after :meth:`end`; ``until``: of ``time.monotonic``."""
        with contextlib.suppress(queue.Full):
            self._calls.put(None, timeout=max(0.0, until - time.monotonic()))
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._leave_out(f"has not finished in time ({counted(self._calls.qsize(), 'call')} waiting)")

    def _put(self, call: Callable[[Tracker], None]) -> None:
        if self._failed:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._hangs()

    def _hangs(self) -> None:
        self._leave_out(f"hangs ({counted(self._calls.qsize(), 'call')} waiting)")

    def _leave_out(self, why: str) -> None:
        """Says so once; the thread ends before its next call."""
        if not self._failed:
            self._failed = True
            log.warning("train.trackers: %s %s, so it is left out from here on; %s", self._name, why, _COMPLETE)

    def _write(self, line: Line, tracker: Tracker) -> None:
        self._tried(lambda: tracker.write(line.mark.step, line.metrics))
        if not tracker.holds:
            self._remember(mark=line.mark)
        elif line.mark.step > self._sent.step:
            self._remember(mark=self._sent)
        self._sent = line.mark

    def _show(self, step: int, table: TextTable, tracker: Tracker) -> None:
        self._tried(lambda: tracker.show(step, table))
        self._tables.release()
        self._remember(shown=step)

    def _remember(self, **values: Any) -> None:
        self._tried(lambda: self._memory.set(**values))

    def _work(self) -> None:
        tracker: Tracker | None = None
        try:
            tracker = self._tried(self._opens)
            behind = (partial(self._write, line) for line in self._behind)
            calls: Iterator[Callable[[Tracker], None]] = chain(behind, iter(self._calls.get, None))
            for call in calls:
                if self._failed:
                    raise _GivenUp
                call(tracker)
            self._tried(partial(tracker.close, self._finished))
            self._remember(mark=self._sent)
        except _GivenUp:
            self._leave_out("failed again and again")
            if tracker is not None:
                with contextlib.suppress(Exception):  # its failure has been reported
                    tracker.close(False)

    def _tried(self, function: Callable[[], _T]) -> _T:
        """The function's result, called again where it fails. The first failure of the run is reported."""
        for pause in (*PAUSES, None):
            try:
                return function()
            except (Exception, SystemExit) as error:  # a library may raise anything
                if not (self._warned or self._failed):
                    reason = str(error).strip().split("\n")[0][:300]
                    shown = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
                    log.warning("train.trackers: %s failed (%s); the run continues", self._name, shown)
                    self._warned = True
            if pause is None or self._closing.is_set() or self._failed:
                break
            self._closing.wait(pause)
        raise _GivenUp


_COMPLETE = "metrics.jsonl is complete, and a resumed run or `pivot-jax report --track` sends what is missing"
