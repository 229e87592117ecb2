"""Threads that work through a queue and never keep the process from ending.

``concurrent.futures`` joins its threads at the end of the process, whatever they do: one that hangs in a read, such as
from a dead network disk, would hold it for ever. Signals cannot interrupt such a thread either.
"""

from __future__ import annotations

import concurrent.futures.thread
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.util import Finalize
from queue import SimpleQueue
from typing import Any

from pivot_jax.errors import UserError

JOIN = 2.0  # seconds that busy threads have to end with the process
_ENDING = threading.Event()
# Called before concurrent.futures joins its threads, which may wait for ours: the last one registered is called first.
assert concurrent.futures.thread
threading._register_atexit(_ENDING.set)  # type: ignore[attr-defined]

_Queue = SimpleQueue["tuple[Future[Any], Callable[[], Any]] | None"]


def ending() -> bool:
    """Whether the process ends: who waits for a thread gives up."""
    return _ENDING.is_set()


def too_slow(what: str, limit: float) -> UserError:
    """The error of a read that took longer than ``limit`` seconds."""
    return UserError(
        f"{what} was not read in data.read_timeout_s={limit:g} seconds; check the disk or network that it is on, and "
        "run the same command again, or allow more time (0: any)"
    )


class Threads:
    """``count`` daemon threads, started when they are first needed; they end with this object or with the process."""

    def __init__(self, count: int, name: str):
        self._count, self._name = count, name
        self._queue: _Queue = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        Finalize(self, _end, (self._queue, self._threads, self._stop), exitpriority=10)

    def submit(self, future: Future[Any], call: Callable[[], Any]) -> None:
        """``future`` gets the result of the call, or its exception. Calls start in this order."""
        self._queue.put((future, call))
        with self._lock:
            if len(self._threads) < self._count:
                name = f"{self._name} {len(self._threads)}"
                thread = threading.Thread(target=_work, args=(self._queue, self._stop), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()


def _work(queue: _Queue, stop: threading.Event) -> None:
    while (work := queue.get()) is not None and not stop.is_set():
        future, call = work
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # raised again by who waits for it
                future.set_exception(error)
        del work, future, call  # or this thread would keep their objects alive while it waits


def _end(queue: _Queue, threads: list[threading.Thread], stop: threading.Event) -> None:
    """Lets the threads end. One in the middle of a library's code must not be when the interpreter goes."""
    stop.set()
    for _ in threads:
        queue.put(None)
    deadline = time.monotonic() + JOIN
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
