"""LLaVA-style multimodal LLM: vision encoder → projector → decoder.

Letters: b rows, m images per row, p patches per image, n tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.models import flops, stacking
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.encoder import Encoder, EncoderConfig, feature_width
from pivot_jax.models.language_model import LanguageModel, head_matrix
from pivot_jax.models.projector import ProjectorConfig

__all__ = ["MLLM", "MLLMConfig", "ProjectorConfig", "head_matrix", "init_params"]

Array = jax.Array


@dataclass(frozen=True)
class MLLMConfig:
    """A whole model. ``vision``, ``second`` and ``projector`` are as in :class:`EncoderConfig`."""

    vision: Any  # VisionConfig
    projector: ProjectorConfig
    decoder: DecoderConfig
    dtype: str = "float32"
    second: Any = None  # VisionConfig or None

    def __post_init__(self) -> None:
        _ = self.encoder  # checks that the parts fit

    @property
    def encoder(self) -> EncoderConfig:
        """What turns images into image tokens."""
        return EncoderConfig(self.vision, self.second, self.projector, self.decoder.width, self.dtype)

    @property
    def image_tokens(self) -> int:
        """Features per image of an array of images: the most tokens that an image takes in a row."""
        return self.vision.tokens

    @property
    def feature_width(self) -> int:
        """Width of the features, which the projector reads."""
        return feature_width(self.vision, self.second)

    def flops(self, row: flops.RowSize) -> dict[str, float]:
        """Forward FLOPs of one row by part, in the order of the data flow."""
        projector = self.vision.projector_flops(
            self.projector, self.feature_width, self.decoder.width, patches=row.patches
        )
        return {
            "vision": row.images * self.vision.flops(row.patches),
            **({"second": row.images * self.second.flops()} if self.second else {}),
            "projector": row.images * projector,
            "decoder": self.decoder.flops(row.tokens),
            "head": self.decoder.head_flops(row.targets),
        }


class MLLM(LanguageModel):
    """A language model with image tokens in its input.

    Use through ``mllm.apply({"params": params}, ..., method="...")``; see each method, and :class:`Encoder`'s.
    """

    config: MLLMConfig

    def setup(self) -> None:
        super().setup()
        self.encoder = Encoder(self.config.encoder)
        nn.share_scope(self, self.encoder)  # its parts have no further level in the parameters' paths

    def encode_images(self, images: Array, coordinates: Array | None = None) -> Array:
        """See :meth:`Encoder.encode_images`."""
        return self.encoder.encode_images(images, coordinates)

    def encode_images_with_taps(
        self, images: Array, taps: tuple[str, ...], coordinates: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """See :meth:`Encoder.encode_images_with_taps`."""
        return self.encoder.encode_images_with_taps(images, taps, coordinates)

    def encode_images_with_offsets(
        self, images: Array, offsets: Array, coordinates: Array | None = None
    ) -> tuple[Array, Array]:
        """See :meth:`Encoder.encode_images_with_offsets`."""
        return self.encoder.encode_images_with_offsets(images, offsets, coordinates)

    def attention_weights(self, images: Array, coordinates: Array | None = None) -> Array:
        """See :meth:`Encoder.attention_weights`."""
        return self.encoder.attention_weights(images, coordinates)

    def project(self, features: Array) -> Array:
        """See :meth:`Encoder.project`."""
        return self.encoder.project(features)

    def embed(self, batch: Any, image_features: Array | None = None) -> Array:
        """Decoder input [b, n, d]: token embeddings, with projected features at the slots of image tokens."""
        x = self.decoder.embed_tokens(batch.tokens)
        if batch.images.shape[1] == 0:
            return x
        if image_features is None:
            image_features = batch.features
        if image_features is None:
            image_features = self.encode_images(batch.images, batch.patch_positions)
        image_tokens = self.project(image_features)
        if batch.tile_taps is not None:
            placed = self._blended(image_tokens, batch.tile_taps, batch.tile_weights)
        else:
            placed = jnp.take_along_axis(image_tokens, jnp.maximum(batch.image_slots, 0)[:, :, None], axis=1)
        return jnp.where((batch.image_slots >= 0)[:, :, None], placed, x)

    def _blended(self, image_tokens: Array, taps: Array, weights: Array) -> Array:
        """Weighted sums [b, n, d] of image tokens and the newline vector (tap -1); see ``data.processing.tiles``."""
        b, count, d = image_tokens.shape
        newline = jnp.broadcast_to(self.encoder.projector.newline.astype(image_tokens.dtype), (b, 1, d))
        everything = jnp.concatenate([image_tokens, newline], axis=1)
        total = jnp.zeros((b, taps.shape[1], d), image_tokens.dtype)
        for k in range(taps.shape[2]):
            indices = jnp.where(taps[:, :, k] < 0, count, taps[:, :, k])
            picked = jnp.take_along_axis(everything, indices[:, :, None], axis=1)
            total += picked * weights[:, :, k, None].astype(picked.dtype)
        return total

    def touch_all(self, images: tuple[Array, ...], tokens: Array) -> Array:
        """Runs every part once, also what :meth:`hidden` leaves out, so that ``init`` creates all parameters."""
        x = self.decoder.embed_tokens(tokens)
        ones = jnp.ones_like(tokens)
        total = self.decoder.hidden(x, self.config.decoder.text_positions(ones), ones).sum()
        return total + self.encoder.whole(*images)

    @property
    def parts(self) -> dict[str, Any]:
        """Part → configuration of what can come from another model; None where there is none."""
        return {"vision": self.config.vision, "second": self.config.second, "decoder": self.config.decoder}

    @property
    def unscanned(self) -> frozenset[str]:
        """The parts whose layers are not scanned (see ``models.stacking``)."""
        return stacking.unscanned(self.parts)

    def sequences(self, images: int, tokens: int) -> list[tuple[str, Any, int]]:
        """(part, its configuration, tokens that its blocks compute) of a sequence with ``images`` and ``tokens``."""
        vision, decoder = self.config.vision, self.config.decoder
        return [("vision", vision, images * vision.sequence), ("decoder", decoder, tokens)]

    def step_flops(self, row: flops.RowSize, trained: Set[str], reference_in_step: bool, adapted: Set[str]) -> float:
        """FLOPs of a training step for one row; arguments as of ``flops.train_step``."""
        return flops.train_step(self.config.flops(row), trained, reference_in_step, adapted)


def init_params(mllm: MLLM, key: Array) -> dict[str, Any]:
    """Random float32 parameters of the whole model; a nested dict (tree in ARCHITECTURE.md)."""
    images = mllm.config.vision.example_input()
    return mllm.init(key, images, jnp.zeros((1, 2), jnp.int32), method="touch_all")["params"]
