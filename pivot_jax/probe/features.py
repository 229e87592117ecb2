"""Features of an encoder over a set of images, batched and compiled once.

A function ``encode(params, images[b, H, W, 3]) -> features [b, p, d]`` says which features. ``vit_encoder``,
``projector_encoder`` and ``blocks_encoder`` make one of an :class:`Encoder`: the vision encoder alone, the image tokens
that a decoder reads, or the output of every block.
Letters: n images, b batch, p patches, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.encoder import Encoder
from pivot_jax.progress import progress

Array = jax.Array
Encode = Callable[[Any, Any], Any]
POOLS = ("mean", "none")


class Images(Protocol):
    """uint8 [H, W, 3] by index, all of one size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def vit_encoder(encoder: Encoder) -> Encode:
    """Patch features of the vision encoder alone, the input of the projector."""
    return partial(_vit, encoder)


def projector_encoder(encoder: Encoder) -> Encode:
    """Vision encoder and projector: the image tokens that the decoder reads (the paper's main probe)."""
    return partial(_vit_projector, encoder)


def blocks_encoder(encoder: Encoder) -> Encode:
    """Mean over patches after each block that is computed: [b, blocks, d]; extract with ``pool="none"``."""
    return partial(_blocks, encoder)


def _blocks(encoder: Encoder, params: Any, images: Any) -> Any:
    taps = tuple(f"blocks/{index}" for index in range(encoder.config.vision.blocks))
    _, found = encoder.apply({"params": params}, images[:, None], taps, method="encode_images_with_taps")
    return jnp.stack([found[tap].mean(axis=1) for tap in taps], axis=1)


def _vit(encoder: Encoder, params: Any, images: Any) -> Any:
    return encoder.apply({"params": params}, images[:, None], method="encode_images")


def _vit_projector(encoder: Encoder, params: Any, images: Any) -> Any:
    return encoder.apply({"params": params}, _vit(encoder, params, images), method="project")


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
    """Features of every image, in order.

    Args:
      images: uint8 [n, H, W, 3]; or a sequence of one such image per index, which is read batch by batch (a large set
        need not fit in memory).
      pool: "mean" over patch tokens, or "none" for every patch.
      l2: scale each feature vector to length 1 (after pooling).

    Returns:
      float32 [n, d], or [n, p, d] without pooling.
    """
    if pool not in POOLS:
        raise ValueError(f"pool '{pool}' is unknown; choose one of {', '.join(POOLS)}")
    total = len(images)
    if total == 0:
        raise ValueError("no images to extract features from")
    size = min(batch_size, total)
    out: list[np.ndarray] = []
    with progress(label, total, show=show) as advance:
        for start in range(0, total, size):
            stop = min(start + size, total)
            chunk = np.asarray(images[start:stop] if isinstance(images, np.ndarray) else _stacked(images, start, stop))
            # The last batch is filled up with its last image: one compiled program serves all.
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), 0)])
            out.append(np.asarray(_features(encode, pool, l2, params, filled))[: len(chunk)])
            advance(len(chunk))
    return np.concatenate(out)


def _stacked(images: Images, start: int, stop: int) -> np.ndarray:
    return np.stack([images[index] for index in range(start, stop)])


@partial(jax.jit, static_argnums=(0, 1, 2))
def _features(encode: Encode, pool: str, l2: bool, params: Any, images: Array) -> Array:
    features = encode(params, images).astype(jnp.float32)
    if pool == "mean":
        features = features.mean(axis=1)
    if l2:
        features = features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return features
