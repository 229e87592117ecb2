"""Learned position embeddings at another resolution, as PyTorch's ``interpolate`` (align_corners=False) resizes them.

Squares are resized with one matrix per axis, which NumPy makes when the model is built. Variable-resolution images
(SigLIP2 NaFlex) have another size in every row of a batch: their weights are computed from the patches' coordinates.
Letters: b images, p patches, g side of the table's grid, d width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def resize(table: Array, side: int, new: int, antialias: bool) -> Array:
    """float32 table [side*side, d] → [new*new, d], bicubic."""
    if side == new:
        return table
    matrix = jnp.asarray((antialiased if antialias else bicubic)(side, new))
    grid = table.astype(jnp.float32).reshape(side, side, -1)
    return jnp.einsum("ri,cj,ijd->rcd", matrix, matrix, grid).reshape(new * new, -1)


def bicubic(size: int, new: int) -> np.ndarray:
    """Matrix [new, size] of the convolution with a = -0.75; neighbours outside the border repeat the border."""
    matrix = np.zeros((new, size))
    for row in range(new):
        centre = (row + 0.5) * size / new - 0.5
        first = int(np.floor(centre)) - 1
        for index in range(first, first + 4):
            matrix[row, min(max(index, 0), size - 1)] += _cubic(abs(centre - index), -0.75)
    return matrix.astype(np.float32)


def antialiased(size: int, new: int) -> np.ndarray:
    """Matrix [new, size] of Pillow's resampling: a = -0.5, the filter as wide as a new pixel, truncated at the border
    and scaled to a sum of 1."""
    scale = max(size / new, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * size / new
    pixels = np.arange(size)[None, :] + 0.5
    weights = np.vectorize(lambda x: _cubic(x, -0.5), otypes=[float])(np.abs(pixels - centres) / scale)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel at a distance x >= 0."""
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def at_coordinates(table: Array, side: int, coordinates: Array) -> Array:
    """Table [side*side, d] resized to each image's rows and columns (bilinear, antialiased), at its patches.

    Args:
      coordinates: int32 [b, p, 2], row and column of each patch, -1 at padding (where the result means nothing).

    Returns:
      float32 [b, p, d].
    """
    extent = jnp.max(coordinates, axis=1, keepdims=True) + 1  # [b, 1, 2]: rows and columns
    rows, columns = (_triangle(side, extent[..., axis], coordinates[..., axis]) for axis in (0, 1))
    both = jnp.einsum("bpi,bpj->bpij", rows, columns).reshape(*coordinates.shape[:2], side * side)
    return jnp.einsum("bps,sd->bpd", both, table.astype(jnp.float32))


def _triangle(side: int, new: Array, index: Array) -> Array:
    """Weights [b, p, side] of the old positions for the new ``index`` [b, p] of ``new`` [b, 1]."""
    scale = side / jnp.maximum(new, 1).astype(jnp.float32)
    centre = (index + 0.5) * scale
    far = jnp.abs(jnp.arange(side) + 0.5 - centre[..., None]) / jnp.maximum(scale, 1.0)[..., None]
    weights = jnp.maximum(1.0 - far, 0.0)
    return weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-6)
