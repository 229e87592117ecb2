"""Work over several processes: each has rows of its own, and all run the same programs in the same order.

Rows are those of arrays on the mesh (slots, prompts), or items of a list, such as questions.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from pivot_jax.errors import UserError
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import ROWS

T = TypeVar("T")
_SMALLEST = 1 << 12  # bytes of a message; a message has this length or twice, four times, ... it: few are compiled


class Processes:
    """The rows of this process among those of a mesh; of one process, all of them.

    What :meth:`largest`, :meth:`gather` and :meth:`from_first` return is the same in all processes, which call them
    together.

    Args:
      mesh: None on one device.
    """

    def __init__(self, mesh: Any):
        self.mesh, self.several = mesh, mesh is not None and jax.process_count() > 1

    def own(self, total: int) -> range:
        """This process's rows of ``total``."""
        if not self.several:
            return range(total)
        found = NamedSharding(self.mesh, ROWS).addressable_devices_indices_map((total,))
        parts = [index[0].indices(total) for index in found.values() if index is not None]
        return range(min(part[0] for part in parts), max(part[1] for part in parts))

    def place(self, tree: Any) -> Any:
        """Arrays of this process's rows as arrays of all rows."""
        if not self.several:
            return tree
        sharding = NamedSharding(self.mesh, ROWS)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)

    def fetch(self, array: Any) -> np.ndarray:
        """This process's rows of an array of all rows."""
        if not self.several:
            return np.asarray(array)
        whole = np.empty(array.shape, array.dtype)
        for shard in array.addressable_shards:
            whole[shard.index] = np.asarray(shard.data)
        own = self.own(len(whole))
        return whole[own.start : own.stop]

    @property
    def count(self) -> int:
        """Processes that share the rows."""
        return jax.process_count() if self.several else 1

    def largest(self, values: list[int]) -> list[int]:
        """The largest of each number over all processes."""
        if not self.several:
            return values
        return multihost_utils.process_allgather(np.asarray(values, np.int32)).max(axis=0).tolist()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items; those of all processes, in order, are the whole."""
        if not self.several:
            return items
        start, end = (len(items) * part // self.count for part in (jax.process_index(), jax.process_index() + 1))
        return items[start:end]

    def gather(self, value: T) -> list[T]:
        """The value of every process, in their order."""
        if not self.several:
            return [value]
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        size = max(_SMALLEST, 1 << (self.largest([len(data)])[0] - 1).bit_length())
        found = multihost_utils.process_allgather(np.pad(data, (0, size - len(data))))
        return [pickle.loads(row.tobytes()) for row in found]  # which ends before the padding

    def from_first(self, compute: Callable[[], T]) -> T:
        """What a function returns in the first process, which alone calls it.

        Raises:
          UserError: it raised one.
        """
        if not self.several:
            return compute()
        found: tuple[Any, str | None] = (None, None)
        if is_first():
            try:
                found = compute(), None
            except UserError as error:
                found = None, str(error)
        value, failure = self.gather(found)[0]
        if failure is not None:
            raise UserError(failure)
        return value
