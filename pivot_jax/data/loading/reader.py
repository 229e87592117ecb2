"""Images of rows, read ahead in threads, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from pivot_jax.data.loading.threads import Threads, too_slow
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.images import describe

THREADS = 2
LISTEN_EVERY_S = 0.2


class ImageReader:
    """Reads the images of rows for whoever works between two steps of training, or without any.

    Args:
      read: references of a row's images → their arrays.
      limit: seconds to wait for a row's images; 0: any time.
    """

    def __init__(self, read: Callable[[Sequence[Any]], ImageArrays], limit: float = 0.0):
        self._read, self._limit = read, limit
        self._threads = Threads(THREADS, "images")
        self.listen: Callable[[], None] = lambda: None  # called while somebody waits; may raise, to stop a run

    def start(self, images: Sequence[Any]) -> Future[ImageArrays]:
        """Has the images read, in the order of these calls."""
        future: Future[ImageArrays] = Future()
        self._threads.submit(future, partial(self._read, images))
        return future

    def finish(self, future: Future[ImageArrays], images: Sequence[Any]) -> ImageArrays:
        """The result of :meth:`start` for these images.

        Raises:
          UserError: they took longer than the limit, or what ``read`` and ``listen`` raise.
        """
        began = time.monotonic()
        while not wait([future], LISTEN_EVERY_S).done:
            self.listen()
            if self._limit and time.monotonic() - began > self._limit:
                raise too_slow(f"image {', '.join(map(describe, images))}", self._limit)
        return future.result()

    def __call__(self, images: Sequence[Any]) -> ImageArrays:
        """The images' arrays. Raises as :meth:`finish`."""
        return self.finish(self.start(images), images)
