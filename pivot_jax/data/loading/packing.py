"""Which rows of a batch share a sequence, and how long the sequences are: from the rows' lengths alone."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from pivot_jax.data.loading.schedule import Buckets, assign


@dataclass(frozen=True)
class Packer:
    """Deals rows to sequences of exactly ``packing`` rows. ``lengths``, ``targets``: int32 [rows] of the data set.

    A row of -1 is masked: it counts as one of a sequence's rows and takes no tokens.
    """

    lengths: np.ndarray
    targets: np.ndarray
    packing: int

    def deal(self, rows: np.ndarray) -> np.ndarray:
        """The rows [b*k] in the order of sequences: each k = ``packing`` consecutive ones share one.

        Rows are dealt longest first, each to the sequence with the fewest tokens that still needs rows; so a long row
        gets short companions. Sequences, and the rows in them, keep their original order: packing 1 changes nothing.
        """
        lengths = _of(self.lengths, rows)
        members: list[list[int]] = [[] for _ in range(len(rows) // self.packing)]
        unfilled = [(0, sequence) for sequence in range(len(members))]  # a heap already
        for row in np.argsort(-lengths, kind="stable"):
            tokens, sequence = unfilled[0]
            members[sequence].append(int(row))
            if len(members[sequence]) < self.packing:
                heapq.heapreplace(unfilled, (tokens + int(lengths[row]), sequence))
            else:
                heapq.heappop(unfilled)
        return rows[np.asarray(sorted(map(sorted, members))).ravel()]

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Tokens and scored targets of each sequence of dealt rows: int64 [b, 2]."""
        sizes = np.stack([_of(self.lengths, rows), _of(self.targets, rows)], axis=1)
        return sizes.reshape(-1, self.packing, 2).sum(1)

    def groups(self, buckets: Buckets) -> np.ndarray:
        """The bucket that each row needs with average rows next to it, int32 [rows]; else the last one."""
        others = self.packing - 1
        tokens, targets = (values + others * values.mean() for values in (self.lengths, self.targets))
        return np.minimum(assign(tokens, targets, buckets), len(buckets) - 1)


def _of(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, values[rows], 0).astype(np.int64)
