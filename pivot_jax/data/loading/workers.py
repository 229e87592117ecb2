"""Work per row, tokenising it and reading its images, in threads or in processes.

Threads suffice to decode images: Pillow releases the interpreter lock. Tokenising holds it, and so does everything that
the train loop does between two steps; processes have their own locks. Neither changes a batch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import RowError, UserError

CHUNK = 64  # rows that a process tokenises at a time in the pass over all rows
SPARE = 1 << 20  # bytes shared with a process for tokens, beyond a row's images
AHEAD = 4  # items in progress per worker, so that a slow one does not hold up the others


class Job(NamedTuple):
    """A row of a batch: its images to read and, where its tokens are not stored, the example to tokenise."""

    id: str
    images: tuple[Any, ...]
    example: Example | None


class Done(NamedTuple):
    """The row's tokens where they were requested, and its images or the reason why the row is bad."""

    row: EncodedRow | None
    images: ImageArrays | RowError


def _finish(processor: Processor, job: Job) -> Done:
    try:
        row = None if job.example is None else processor.encode(job.example)
        return Done(row, processor.read_images(job.images))
    except RowError as error:
        return Done(None, error)
    except UserError as error:
        return Done(None, RowError(job.id, str(error)))


def _encode(processor: Processor, examples: list[Example | RowError]) -> list[EncodedRow | RowError]:
    found: list[EncodedRow | RowError] = []
    for example in examples:
        try:
            found.append(example if isinstance(example, RowError) else processor.encode(example))
        except RowError as error:
            found.append(error)
    return found


class Workers:
    """``count`` threads, or threads that each have a process do the work.

    Args:
      kind: ``thread`` | ``process``. Processes start when they are first needed, and end with this object or with the
        main process, however that ends. A signal to the whole group (Ctrl-C, or from a batch system) does not stop
        them, so that the run can still save.
    """

    def __init__(self, processor: Processor, count: int, kind: str):
        self.processor, self.count, self.kind = processor, count, kind
        alone = kind == "thread" and count == 1
        self._pool = None if alone else ThreadPoolExecutor(count, "rows")
        self._own = threading.local()
        self._pipes: list[Connection] = []
        # multiprocessing runs this before it waits for its children at the end of the process.
        Finalize(self, _hang_up, (self._pipes,), exitpriority=10)

    def finish(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Every job done, in order."""
        return self._map(_finish, jobs)

    def encode(self, examples: Iterable[Example | RowError]) -> Iterator[EncodedRow | RowError]:
        """Every example tokenised, in order; an error is passed on in its position. Processes share the work."""
        source = iter(examples)
        chunks = iter(lambda: list(islice(source, CHUNK)), [])
        if self.kind == "thread":  # the interpreter lock would let only one work
            return (row for chunk in chunks for row in _encode(self.processor, chunk))
        return (row for rows in self._map(_encode, chunks) for row in rows)

    def _map(self, function: Callable[[Processor, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        if self._pool is None:
            yield from (function(self.processor, item) for item in items)
            return
        call = self._here if self.kind == "thread" else self._there
        waiting: deque[Future[Any]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(call, function, item))
                if len(waiting) > AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _here(self, function: Callable[[Processor, Any], Any], item: Any) -> Any:
        return function(self.processor, item)

    def _there(self, function: Callable[[Processor, Any], Any], item: Any) -> Any:
        """In this thread's process."""
        if not hasattr(self._own, "process"):
            self._own.process = _Process(self.processor)
            self._pipes.append(self._own.process.pipe)
        try:
            good, found = self._own.process.ask((function, item))
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
        self._shared = spawn.RawArray("B", images + SPARE)
        spawn.Process(target=_serve, args=(there, processor, self._shared), daemon=True, name="rows").start()
        there.close()

    def ask(self, request: Any) -> Any:
        self.pipe.send(request)
        answer, sizes = self.pipe.recv()
        ends = list(accumulate(sizes))
        copy = memoryview(bytearray(memoryview(self._shared)[: ends[-1]])) if ends else b""
        return pickle.loads(answer, buffers=[copy[end - size : end] for end, size in zip(ends, sizes, strict=True)])


def _serve(pipe: Connection, processor: Processor, shared: Any) -> None:
    """The process: answers until the other end of the pipe is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, item = pipe.recv()
            try:
                answer = True, function(processor, item)
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


def _hang_up(pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
