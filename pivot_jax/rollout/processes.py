"""Slots over several processes: each process has rows of its own, and all run the same programs in the same order."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from pivot_jax.parallel.mesh import ROWS


class Processes:
    """The rows of this process among those of a mesh; of one process, all of them.

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

    def largest(self, values: list[int]) -> list[int]:
        """The largest of each number over all processes, which call this together."""
        if not self.several:
            return values
        return multihost_utils.process_allgather(np.asarray(values, np.int32)).max(axis=0).tolist()
