"""Work per row, tokenising it and reading its images, in threads or in processes.

Threads suffice to decode images and to tokenise: Pillow and fast tokenizers release the interpreter lock. The rest of
the work holds it, and so does everything that the train loop does between two steps; processes have their own locks.
Neither changes a batch.

A row has a time limit, because a file on a network disk that is gone would hang for ever. The next rows would hang too,
so the error is no RowError: it ends the run, which resumes from its last state when the disk is back.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from itertools import accumulate, islice
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

from pivot_jax.data.example import Example
from pivot_jax.data.loading.threads import Threads, ending, too_slow
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.images import describe
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import RowError, UserError

CHUNK = 64  # rows that are tokenised at a time in the pass over all rows
SPARE = 1 << 20  # bytes shared with a process for tokens, beyond a row's images
AHEAD = 4  # items in progress per worker, so that a slow one does not hold up the others
LOOK = 1.0  # seconds between two looks at the time limit
LEAVE = 5.0  # seconds that a process that reads rows has to end


class Job(NamedTuple):
    """A row of a batch: its images to read and, where its tokens are not stored, the example to tokenise.

    An error takes the place of the example where the row cannot be read, and is passed on.
    """

    id: str
    images: tuple[Any, ...]
    example: Example | RowError | None


class Done(NamedTuple):
    """The row's tokens where they were requested, and its images or the reason why the row is bad."""

    row: EncodedRow | None
    images: ImageArrays | RowError


def _finish(processor: Processor, job: Job, note: Callable[[int], None]) -> Done:
    if isinstance(job.example, RowError):
        return Done(None, job.example)
    try:
        row = None if job.example is None else processor.encode(job.example)
        return Done(row, processor.read_images(job.images))
    except RowError as error:
        return Done(None, error)
    except UserError as error:
        return Done(None, RowError(job.id, str(error)))


def _encode(
    processor: Processor, examples: list[Example | RowError], note: Callable[[int], None]
) -> list[EncodedRow | RowError]:
    found: list[EncodedRow | RowError] = []
    for number, example in enumerate(examples):
        note(number)
        try:
            found.append(example if isinstance(example, RowError) else processor.encode(example))
        except RowError as error:
            found.append(error)
    return found


class _Task:
    """One call of ``function`` with a job, or with a list of examples, and how far it is."""

    def __init__(self, function: Callable[..., Any], item: Any):
        self.function, self.item = function, item
        self.started = math.inf  # time.monotonic()
        self.process: _Process | None = None
        self.done: Future[Any] = Future()
        self._at = 0  # of the examples, which one is worked on

    def note(self, number: int) -> None:
        self._at, self.started = number, time.monotonic()

    @property
    def words(self) -> str:
        """The row and its images, for a message."""
        if isinstance(self.item, Job):
            row_id, images = self.item.id, self.item.images
        else:
            row = self.item[self._at if self.process is None else self.process.at]
            row_id, images = (row.row_id, ()) if isinstance(row, RowError) else (row.id, row.images)
        named = f" (image {', '.join(map(describe, images))})" if images else ""
        return f"row '{row_id}'{named}"


class Workers:
    """``count`` threads, or threads that each have a process do the work.

    Args:
      kind: ``thread`` | ``process``. Processes start when they are first needed, and end with this object or with the
        main process, however that ends. A signal to the whole group (Ctrl-C, or from a batch system) does not stop
        them, so that the run can still save.
      limit: seconds for a row (with processes, for a chunk of rows in the pass over all of them); 0: none. Beyond it
        every call raises a UserError, and the process is killed. A thread cannot be: it is left behind, and does not
        keep the main process from ending.
    """

    def __init__(self, processor: Processor, count: int, kind: str, limit: float = 0.0):
        self.processor, self.count, self.kind, self.limit = processor, count, kind, limit
        self._pool = Threads(count, "rows")
        self._own = threading.local()
        self._working: dict[int, _Task] = {}  # by thread
        self._overdue: UserError | None = None
        self._processes: list[_Process] = []
        # multiprocessing runs this before it waits for its children at the end of the process.
        Finalize(self, _hang_up, (self._processes,), exitpriority=10)

    def finish(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Every job done, in order.

        Raises:
          UserError: a row took longer than the limit.
        """
        return self._map(_finish, jobs)

    def encode(self, examples: Iterable[Example | RowError]) -> Iterator[EncodedRow | RowError]:
        """Every example tokenised, in order; an error is passed on in its position. Raises as :meth:`finish`."""
        source = iter(examples)
        chunks = iter(lambda: list(islice(source, CHUNK)), [])
        return (row for rows in self._map(_encode, chunks) for row in rows)

    def _map(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        waiting: deque[_Task] = deque()
        try:
            for item in items:
                waiting.append(task := _Task(function, item))
                self._pool.submit(task.done, partial(self._do, task))
                if len(waiting) > AHEAD * self.count:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for task in waiting:
                task.done.cancel()

    def _result(self, task: _Task) -> Any:
        while not (task.done.done() or wait([task.done], LOOK).done):
            if ending():
                raise UserError("the process ends")
            self._check()
        if self._overdue is not None:
            raise self._overdue
        return task.done.result()

    def _check(self) -> None:
        """Raises UserError where a worker has needed longer than the limit for its row, for whoever waits."""
        now = time.monotonic()
        for task in list(self._working.values()):
            if self._overdue is None and self.limit and now - task.started > self.limit:
                self._overdue = too_slow(task.words, self.limit)
                if task.process is not None:
                    task.process.kill()
        if self._overdue is not None:
            raise self._overdue

    def _do(self, task: _Task) -> Any:
        """In a thread: the work itself, or waiting for this thread's process to do it."""
        self._working[threading.get_ident()] = task
        try:
            if self.kind == "thread":
                task.note(0)
                return task.function(self.processor, task.item, task.note)
            return self._ask(task)
        finally:
            del self._working[threading.get_ident()]

    def _ask(self, task: _Task) -> Any:
        try:
            if not hasattr(self._own, "process"):
                self._own.process = _Process(self.processor)
                self._processes.append(self._own.process)
                self._own.process.pipe.recv()  # it has started, which takes seconds
            task.process = self._own.process
            task.note(0)
            good, found = task.process.ask((task.function, task.item))
        except (EOFError, OSError):
            raise UserError(
                "data.worker_kind: a process that reads rows ended unexpectedly: out of memory, or the script that "
                "starts the run has no `if __name__ == '__main__':`. With "
                "worker_kind 'thread' there are no such processes"
            ) from None
        if not good:
            raise found
        return found


class _Process:
    """A process that works for this end of a pipe; the arrays of its answers come in memory that both share."""

    def __init__(self, processor: Processor):
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks that JAX's threads hold
        self.pipe, there = spawn.Pipe()
        images = sum(x.nbytes for x in processor.geometry.empty(processor.arrays_per_row) if x is not None)
        self._shared, self._at = spawn.RawArray("B", images + SPARE), spawn.RawValue("q")
        given = there, processor, self._shared, self._at
        self._process = spawn.Process(target=_serve, args=given, daemon=True, name="rows")
        self._process.start()
        there.close()

    @property
    def at(self) -> int:
        """Of several rows, the one that it works on."""
        return self._at.value

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """It ends by itself when it has nothing to read, unless it hangs."""
        self.pipe.close()
        self._process.join(LEAVE)
        if self._process.is_alive():
            self._process.kill()

    def ask(self, request: Any) -> Any:
        self.pipe.send(request)
        answer, sizes = self.pipe.recv()
        ends = list(accumulate(sizes))
        copy = memoryview(bytearray(memoryview(self._shared)[: ends[-1]])) if ends else b""
        return pickle.loads(answer, buffers=[copy[end - size : end] for end, size in zip(ends, sizes, strict=True)])


def _serve(pipe: Connection, processor: Processor, shared: Any, at: Any) -> None:
    """The process: answers until the other end of the pipe is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def note(number: int) -> None:
        at.value = number

    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)  # it has started
        while True:
            function, item = pipe.recv()
            try:
                note(0)
                answer = True, function(processor, item, note)
            except Exception as error:  # raised again where the answer is awaited
                error.add_note(f"in a process that reads rows:\n{traceback.format_exc()}")
                answer = False, error
            pipe.send(_shared_out(answer, memoryview(shared).cast("B")))


def _shared_out(answer: Any, shared: memoryview) -> tuple[bytes, list[int]]:
    """An answer pickled, and the sizes of its arrays, which are now in shared memory, one after the other."""
    found: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(answer, protocol=5, buffer_callback=found.append)
    arrays = [buffer.raw() for buffer in found]
    if sum(array.nbytes for array in arrays) > len(shared):
        return pickle.dumps(answer, protocol=5), []
    offset = 0
    for array in arrays:
        shared[offset : offset + array.nbytes] = array
        offset += array.nbytes
    return pickled, [array.nbytes for array in arrays]


def _hang_up(processes: list[_Process]) -> None:
    for process in processes:
        process.end()
