"""Features of an encoder over a set of images, batched; padded lists of patches are trimmed to the batch.

A function ``encode(params, images, positions) -> features`` says which features: [b, p, d] of patches, or [b, ...] of
whole images (see ``feature_settings``). ``images`` are squares uint8 [b, H, W, 3], and ``positions`` is left out; or
they are patches uint8 [b, l, i] with their ``positions`` int32 [b, l, 2] in the image's grid, -1 at padding.
Letters: n images, b batch, l patches of a list, i values of a patch, p features of an image, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.models.encoder import Encoder
from pivot_jax.progress import progress
from pivot_jax.shapes import bucket

Array = jax.Array
Encode = Callable[..., Any]
POOLS = ("mean", "none", "whole")
LIST_STEP = 64  # lists of patches are trimmed to one of 64, 96, 128, 192, ... patches, so that few shapes are compiled
READERS = 8  # threads that read and prepare images


class Images(Protocol):
    """By index: uint8 [H, W, 3], all of one size, or ``ImageArrays`` of one array."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Bound:
    """``function`` with its first argument; equal ones are equal to ``jit``, so an encoder is compiled once."""

    function: Encode
    first: Any

    def __call__(self, *arguments: Any) -> Any:
        return self.function(self.first, *arguments)


def vit_encoder(encoder: Encoder) -> Encode:
    """Patch features of the vision encoder alone, the input of the projector."""
    return Bound(_vit, encoder)


def projector_encoder(encoder: Encoder) -> Encode:
    """Vision encoder and projector: the image tokens that the decoder reads (the paper's main probe)."""
    return Bound(_vit_projector, encoder)


def blocks_encoder(encoder: Encoder) -> Encode:
    """Mean over patches after each block that is computed: [b, blocks, d]; extract with ``pool="whole"``."""
    return Bound(_blocks, encoder)


def _inputs(images: Any, positions: Any) -> tuple[Any, Any]:
    """One image per row."""
    return images[:, None], None if positions is None else positions[:, None]


def _vit(encoder: Encoder, params: Any, images: Any, positions: Any = None) -> Any:
    return encoder.apply({"params": params}, *_inputs(images, positions), method="encode_images")


def _vit_projector(encoder: Encoder, params: Any, images: Any, positions: Any = None) -> Any:
    return encoder.apply({"params": params}, _vit(encoder, params, images, positions), method="project")


def block_outputs(encoder: Encoder, blocks: tuple[int, ...], params: Any, images: Any, positions: Any) -> list[Any]:
    """Patches after some blocks: [b, p, d] each."""
    taps, (images, positions) = tuple(f"blocks/{index}" for index in blocks), _inputs(images, positions)
    found: Any = encoder.apply({"params": params}, images, taps, positions, method="encode_images_with_taps")
    return [found[1][tap] for tap in taps]


def _blocks(encoder: Encoder, params: Any, images: Any, positions: Any = None) -> Any:
    found = block_outputs(encoder, tuple(range(encoder.config.vision.blocks)), params, images, positions)
    return jnp.stack([_mean(patches, positions) for patches in found], axis=1)


def token_positions(positions: Any, count: int) -> Any:
    """(row, column) of each of ``count`` features in its image's grid of features: [..., l, 2] → [..., count, 2].

    Features are one per patch, or one per merged m x m patches, which follow each other in the list.
    """
    merged = positions.shape[-2] // count
    side = round(merged**0.5)
    first = positions[..., ::merged, :]
    return (np if isinstance(first, np.ndarray) else jnp).where(first < 0, -1, first // side)


def _mean(features: Any, positions: Any) -> Any:
    """Mean [b, d] over the features [b, p, d] that are no padding."""
    if positions is None:
        return features.mean(axis=1)
    real = _real(features, positions)
    return jnp.where(real, features, 0).sum(axis=1) / real.sum(axis=1)


def _real(features: Any, positions: Any) -> Any:
    """Whether a feature is no padding: bool [b, p, 1]."""
    return (token_positions(positions, features.shape[1])[..., 0] >= 0)[..., None]


def extract(
    encode: Encode,
    params: Any,
    images: np.ndarray | Images,
    *,
    batch_size: int = 64,
    pool: str = "mean",
    l2: bool = False,
    label: str = "features",
    show: bool = True,
) -> np.ndarray:
    """Features of every image, in order; see :func:`extract_on_grids` for where in an image they are.

    Args:
      images: uint8 [n, H, W, 3]; or a sequence of one image per index (:class:`Images`), which is read batch by batch
        (a large set need not fit in memory).
      pool: "mean" over an image's patches, without padding; "none" for every patch; "whole" where ``encode`` returns
        features of whole images.
      l2: scale each feature vector to length 1 (after pooling).

    Returns:
      float32 [n, d], or [n, p, d] without pooling, with zeros at padding.

    Raises:
      ValueError: no images, or an unknown pooling.
    """
    settings: dict[str, Any] = {"batch_size": batch_size, "pool": pool, "label": label, "show": show}
    found, _ = extract_on_grids(encode, params, images, **settings)
    return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12) if l2 else found


def extract_on_grids(
    encode: Encode,
    params: Any,
    images: np.ndarray | Images,
    *,
    batch_size: int = 64,
    pool: str = "none",
    label: str = "features",
    show: bool = True,
    allocate: Callable[[tuple[int, ...]], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """:func:`extract`, and the (row, column) of each feature in its image's own grid, int32 [n, p, 2], -1 at padding.

    The grid is None where all images have one square grid, row by row, and where features are not those of patches.

    Args:
      allocate: makes the array of the features from its shape, such as one on disk; default in memory.
    """
    if pool not in POOLS:
        raise ValueError(f"pool '{pool}' is unknown; choose one of {', '.join(POOLS)}")
    if len(images) == 0:
        raise ValueError("no images to extract features from")
    out: Any = None
    lists: list[tuple[np.ndarray, np.ndarray]] = []  # patches of variable-resolution images, with their positions
    total, size, done = len(images), min(batch_size, len(images)), 0
    with progress(label, total, show=show) as advance:
        for count, batch in _batches(images, size):
            pixels, positions = _trimmed(batch)
            found = np.asarray(_features(encode, pool, params, pixels, positions))[:count]
            if positions is not None and pool == "none":
                lists.append((found, token_positions(positions[:count], found.shape[1])))
            else:
                shape = (total, *found.shape[1:])
                out = out if out is not None else allocate(shape) if allocate else np.empty(shape, np.float32)
                out[done : done + count] = found
            done += count
            advance(count)
    return _joined(lists, allocate) if lists else (out, None)


def _joined(
    lists: list[tuple[np.ndarray, np.ndarray]], allocate: Callable[[tuple[int, ...]], np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of patches and their positions, all as long as the longest."""
    longest = max(int((where[..., 0] >= 0).sum(axis=1).max()) for _, where in lists)
    shape = (sum(len(found) for found, _ in lists), longest, lists[0][0].shape[2])
    out, positions, done = (allocate or np.empty)(shape), np.full((*shape[:2], 2), -1, np.int32), 0
    for found, where in lists:
        rows, length = slice(done, done + len(found)), min(longest, found.shape[1])
        out[rows, :length], out[rows, length:], positions[rows, :length] = found[:, :length], 0, where[:, :length]
        done += len(found)
    return out.astype(np.float32, copy=False), positions


def _batches(images: Any, size: int) -> Iterator[tuple[int, ImageArrays]]:
    """(real images, arrays [size, ...]); the last batch is filled up with its last image: one program serves all.

    The next batch is read while one is computed.
    """
    starts = range(0, len(images), size)
    if isinstance(images, np.ndarray):
        for start in starts:
            chunk = images[start : start + size]
            yield len(chunk), _filled(ImageArrays(chunk), size)
        return
    with ThreadPoolExecutor(READERS) as pool:
        read = [pool.submit(images.__getitem__, index) for index in range(min(size, len(images)))]
        for start in starts:
            found = [one.result() for one in read]
            read = [pool.submit(images.__getitem__, i) for i in range(start + size, min(start + 2 * size, len(images)))]
            yield len(found), _filled(_stacked(found), size)


def _stacked(found: list[Any]) -> ImageArrays:
    if not isinstance(found[0], ImageArrays):
        return ImageArrays(np.stack(found))
    positions = None if found[0].positions is None else np.stack([one.positions[0] for one in found])
    return ImageArrays(np.stack([one.pixels[0] for one in found]), positions)


def _filled(batch: ImageArrays, size: int) -> ImageArrays:
    def fill(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], size - len(array), 0)])

    return ImageArrays(fill(batch.pixels), None if batch.positions is None else fill(batch.positions))


def _trimmed(batch: ImageArrays) -> tuple[np.ndarray, np.ndarray | None]:
    """Lists of patches without padding that no image of the batch needs."""
    if batch.positions is None:
        return batch.pixels, None
    longest = int((batch.positions[..., 0] >= 0).sum(axis=1).max())
    length = min(bucket(longest, LIST_STEP), batch.positions.shape[1])
    return batch.pixels[:, :length], batch.positions[:, :length]


@partial(jax.jit, static_argnums=(0, 1))
def _features(encode: Encode, pool: str, params: Any, images: Array, positions: Array | None) -> Array:
    inputs = (images,) if positions is None else (images, positions)
    features = encode(params, *inputs).astype(jnp.float32)
    if pool == "mean":
        features = _mean(features, positions)
    elif pool == "none" and positions is not None:
        features = jnp.where(_real(features, positions), features, 0)
    return features
