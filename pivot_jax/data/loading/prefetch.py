"""Batches prefetched by grain, and the iterator state that a checkpoint keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

import grain

from pivot_jax.errors import UserError

THREADS = 4  # batches assembled at the same time, at most; images have threads of their own


T = TypeVar("T")


class LoaderIterator(Generic[T]):
    """This process's training batches. Its state is JSON-able; save it before ``next()``."""

    def __init__(self, count: int, load: Callable[[int], T], prefetch: int, fingerprint: str):
        self._fingerprint = fingerprint
        self._inner = read_ahead(count, load, prefetch)
        self._coming: Future[T] | None = None

    def __iter__(self) -> LoaderIterator[T]:
        return self

    def __next__(self) -> T:
        self.wait(None)
        coming, self._coming = self._coming, None
        assert coming is not None
        return coming.result()

    def wait(self, seconds: float | None) -> bool:
        """Whether the next batch, or the error instead of it, has arrived within this time; None waits for it.

        A thread of its own waits, so that a data source that hangs keeps the caller neither from listening for signals
        nor from ending.
        """
        if self._coming is None:
            self._coming = Future()
            threading.Thread(target=_next, args=(self._inner, self._coming), daemon=True, name="next batch").start()
        return bool(wait((self._coming,), seconds).done)

    def get_state(self) -> dict[str, Any]:
        """Position of the next batch."""
        return {"grain": self._inner.get_state(), "data": self._fingerprint}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a saved position.

        Raises:
          UserError: the state is of other data, batch size or seed.
        """
        if state.get("data") != self._fingerprint:
            raise UserError(
                "the saved position in the data does not fit this data set (rows, lengths, batch size, buckets or seed "
                "have changed since the checkpoint); restore the data, or start a new workdir"
            )
        self._inner.set_state(dict(state["grain"]))


def _next(batches: Any, coming: Future[Any]) -> None:
    try:
        coming.set_result(next(batches))
    except BaseException as error:  # raised again where the batch is taken
        coming.set_exception(error)


class _Steps(Generic[T]):
    """Batches by number, as grain reads them."""

    def __init__(self, count: int, load: Callable[[int], T]):
        self._count, self._load = count, load

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, step: int) -> T:
        return self._load(int(step))


def read_ahead(count: int, load: Callable[[int], T], prefetch: int) -> Any:
    """grain's iterator over ``load(0), load(1), ...``, ``prefetch`` batches ahead in threads.

    Its state counts the batches that were handed out, not those that were prefetched.
    """
    options = grain.ReadOptions(num_threads=min(prefetch, THREADS), prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.source(_Steps(count, load)).to_iter_dataset(options))
