"""Weighted k-nearest-neighbour classification, as DINO evaluates it (Caron et al. 2021, its ``eval_knn.py``).

Neighbours are the k training images of the largest cosine s; each votes for its class with exp(s / T), T = 0.07.
Nothing is trained, and k is the only choice. Letters: n images, d width, k neighbours, c classes, b batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.errors import UserError

Array = jax.Array
NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
BATCH = 256


def votes(
    train_x: np.ndarray,
    train_y: np.ndarray,
    queries: np.ndarray,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> dict[int, np.ndarray]:
    """Predicted class numbers int [n] of the queries for each k.

    Args:
      train_x, queries: features [., d] of unit length. train_y: class numbers int, from 0.
      neighbours: those above the number of training images are left out.

    Raises:
      UserError: no k is left.
    """
    usable = tuple(sorted(k for k in neighbours if 0 < k <= len(train_x)))
    if not usable:
        raise UserError(f"k = {min(neighbours, default=0)}: there are {len(train_x)} training images; use a smaller k")
    train, labels = jnp.asarray(train_x, jnp.float32), jnp.asarray(train_y, jnp.int32)
    classes, found = int(train_y.max()) + 1, []
    for start in range(0, len(queries), BATCH):
        chunk = np.asarray(queries[start : start + BATCH], np.float32)
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], BATCH - len(chunk), 0)])
        found.append(np.asarray(_votes(usable, classes, train, labels, filled, temperature))[:, : len(chunk)])
    return dict(zip(usable, np.concatenate(found, axis=1), strict=True))


@partial(jax.jit, static_argnums=(0, 1))
def _votes(neighbours: tuple[int, ...], classes: int, x: Array, y: Array, queries: Array, temperature: float) -> Array:
    """Predictions [len(neighbours), b]."""
    similar, index = jax.lax.top_k(queries @ x.T, neighbours[-1])
    weights, labels = jnp.exp(similar / temperature), y[index]
    rows = jnp.arange(len(queries))[:, None]
    return jnp.stack(
        [
            jnp.zeros((len(queries), classes)).at[rows, labels[:, :k]].add(weights[:, :k]).argmax(axis=1)
            for k in neighbours
        ]
    )
