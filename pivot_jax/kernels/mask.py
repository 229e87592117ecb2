"""The visibility rule of attention: which keys a query attends to.

A query attends to a key if all of these hold:

* both are in the same segment (packing), and that segment is not 0 (padding);
* the key is in branch 0 (the shared prompt) or in the query's own branch (responses that share a prompt);
* with ``causal``, the key is not after the query in the row.

Full attention within windows (Qwen2.5-VL's vision tower) is segments without ``causal``: each window is a segment.

The module holds the rule in two forms. :func:`visible` returns the mask itself, dense or for a block. :class:`Codes`
folds segment and branch into one int32 per token, for kernels: a key carries ``segment * BASE + branch``, and a query
carries its own code and the code of its segment's branch 0. A key is then visible if its code equals one of the two.

Letters: b rows, n queries, m keys.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
BASE = 1 << 12  # branches per segment; 2**19 segments a row
_QUERY_PADDING, _KEY_PADDING = -1, -2


class Ids(NamedTuple):
    """Segments and branches of queries and keys; None where a row has one segment, or one branch.

    Segments are below 2**19 and branches below 4096. Branches need segments. Either kind of id is present for both
    queries and keys, or for neither.
    """

    q_segments: Array | None = None  # int32 [b, n]; 0 is padding
    kv_segments: Array | None = None  # int32 [b, m]
    q_branches: Array | None = None  # int32 [b, n]; 0 is the shared prompt
    kv_branches: Array | None = None  # int32 [b, m]

    @classmethod
    def same(cls, segments: Array | None, branches: Array | None = None) -> Ids:
        """Ids of self-attention, where queries and keys are the same tokens."""
        return cls(segments, segments, branches, branches)

    @property
    def kind(self) -> str:
        """One of none, segments, branches."""
        if self.q_branches is not None:
            return "branches"
        return "none" if self.q_segments is None else "segments"


NO_IDS = Ids()


def visible(ids: Ids, queries: range, keys: range, causal: bool) -> Array | None:
    """The mask of a block of queries and keys, bool [..., n, m]; None if everything is visible.

    Args:
      ids: arrays [b, n] and [b, m] of whole rows, or [n] and [m] of one row.
      queries, keys: positions in the row. They are contiguous.

    Returns:
      [b, n, m] or [n, m]; always [n, m] where only the order masks.
    """
    mask = None
    if causal:
        mask = jnp.arange(queries.start, queries.stop)[:, None] >= jnp.arange(keys.start, keys.stop)[None, :]
    rows = lambda x: x[..., queries.start : queries.stop, None]  # noqa: E731
    columns = lambda x: x[..., None, keys.start : keys.stop]  # noqa: E731
    if ids.q_segments is not None and ids.kv_segments is not None:
        own, other = rows(ids.q_segments), columns(ids.kv_segments)
        same = (own == other) & (own > 0)
        mask = same if mask is None else mask & same
    if ids.q_branches is not None and ids.kv_branches is not None:
        own, other = rows(ids.q_branches), columns(ids.kv_branches)
        branch = (other == 0) | (other == own)
        mask = branch if mask is None else mask & branch
    return mask


@struct.dataclass
class Codes:
    """int32 per token, padded to whole blocks. Padding attends to nothing, and nothing attends to it."""

    own: Array  # [b, n] of queries: their branch
    shared: Array  # [b, n] of queries: branch 0 of their segment
    keys: Array  # [b, m]


def encode(ids: Ids, shape: tuple[int, int, int], padded: tuple[int, int]) -> Codes:
    """Codes of ids.

    Args:
      shape: (b, n, m), which the ids alone do not give where they are None.
      padded: lengths to which queries and keys are padded.
    """
    b, n, m = shape
    own = _code(ids.q_segments, ids.q_branches, (b, n), padded[0], _QUERY_PADDING)
    shared = own if ids.q_branches is None else _code(ids.q_segments, None, (b, n), padded[0], _QUERY_PADDING)
    return Codes(own, shared, _code(ids.kv_segments, ids.kv_branches, (b, m), padded[1], _KEY_PADDING))


def _code(segments: Array | None, branches: Array | None, shape: tuple[int, int], length: int, padding: int) -> Array:
    if segments is None:
        code = jnp.full(shape, BASE, jnp.int32)
    else:
        code = segments.astype(jnp.int32) * BASE
        if branches is not None:
            code += branches.astype(jnp.int32)
        code = jnp.where(segments > 0, code, padding)
    return jnp.pad(code, ((0, 0), (0, length - shape[1])), constant_values=padding)


def match(keys: Any, queries: Iterable[Any]) -> Any:
    """Whether codes of keys are visible to queries, of which each code is compared: own, and shared with branches."""
    return functools.reduce(operator.or_, (keys == code for code in queries))
