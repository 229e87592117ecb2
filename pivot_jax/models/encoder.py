"""A vision encoder alone: images to features, and to image tokens where it has a projector.

The parameter tree is the one that these parts have in an MLLM (``vision``, ``second``, ``projector``); :class:`MLLM`
is built from this module.
Letters: b rows, m images per row, p patches per image, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.models import layers
from pivot_jax.models.projector import ProjectorConfig
from pivot_jax.models.vision import SquareVisionConfig, VisionConfig

Array = jax.Array


@dataclass(frozen=True)
class EncoderConfig:
    """One or two vision encoders of the same images, and a projector if there is one.

    Attributes:
      second: its features are concatenated to the first one's, patch by patch.
      projector: None: there is none. An encoder that merges patches has its own; the settings then have no effect.
      width: of the image tokens, the decoder's; 0 without a projector.
    """

    vision: VisionConfig
    second: SquareVisionConfig | None = None
    projector: ProjectorConfig | None = None
    width: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        both = (self.vision, self.second)
        if self.second and any(part.traits.patch_input for part in both if part):
            raise ValueError("two encoders read the same square image; a family with patch input reads none")
        if self.projector and self.width < 1:
            raise ValueError(f"a projector needs the width of the decoder's tokens; it is {self.width}")

    @property
    def feature_width(self) -> int:
        """Width of the features, which the projector reads."""
        return feature_width(self.vision, self.second)


def feature_width(vision: Any, second: Any) -> int:
    """Width of the features of one or two encoders."""
    return vision.width + (second.width if second else 0)


class Encoder(nn.Module):
    """Use through ``encoder.apply({"params": params}, ..., method="...")``; see each method."""

    config: EncoderConfig

    def setup(self) -> None:
        cfg = self.config
        self.vision = cfg.vision.module(cfg.dtype)
        if cfg.second:
            self.second = cfg.second.module(cfg.dtype)
        if cfg.projector:
            self.projector: Any = cfg.vision.project(cfg.projector, cfg.width)

    def encode_images(self, images: Array, coordinates: Array | None = None) -> Array:
        """Images, m of a whole sequence → vision features [b, m*p, d_vision], computed once per image.

        Args:
          images: [b, m, H, W, 3]; of a family with ``patch_input``, patches [b, m, p, patch*patch*3].
          coordinates: int32 [b, m, p, 2] of the patches (``patch_positions`` of a batch).
        """
        images_, *coordinates_ = _flat(images, coordinates)
        features = self._with_second(self.vision.features(images_, *coordinates_), images_)
        return _per_row(features, images)

    def encode_images_with_taps(
        self, images: Array, taps: tuple[str, ...], coordinates: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """:meth:`encode_images` and named intermediates of the encoder (see ``ViT.features_with_taps``)."""
        images_, *coordinates_ = _flat(images, coordinates)
        features, found = self.vision.features_with_taps(images_, taps, *coordinates_)
        features = self._with_second(features, images_)
        return _per_row(features, images), {tap: _per_row(x, images) for tap, x in found.items()}

    def encode_images_with_offsets(
        self, images: Array, offsets: Array, coordinates: Array | None = None
    ) -> tuple[Array, Array]:
        """:meth:`encode_images`, and the first encoder's blocks: see ``ViT.features_with_offsets``; b counts images."""
        images_, *coordinates_ = _flat(images, coordinates)
        features, outputs = self.vision.features_with_offsets(images_, offsets, *coordinates_)
        return _per_row(self._with_second(features, images_), images), outputs

    def attention_weights(self, images: Array, coordinates: Array | None = None) -> Array:
        """Of the first encoder: see ``ViT.attention_weights``; b counts images."""
        return self.vision.attention_weights(*_flat(images, coordinates))

    def project(self, features: Array) -> Array:
        """Vision features [..., p, d_vision] → image tokens [..., p, d]; a merger's are fewer than p."""
        return self.projector(features)

    def whole(self, *images: Array) -> Array:
        """Runs every part once, so that ``init`` creates all parameters: a scalar.

        Args:
          images: ``config.vision.example_input()``.
        """
        total = self.vision.whole(*images)
        if self.config.second:
            total += self.second.whole(layers.resize_images(images[0], self.config.second.image_size))
        features = self._with_second(self.vision.features(*images), images[0])
        return total + (self.project(features) if self.config.projector else features).sum()

    def _with_second(self, features: Array, images: Array) -> Array:
        """Features of the first encoder [b, p, d] → those of both [b, p, d + d_second], the second's resampled."""
        first: Any = self.config.vision
        second = self.config.second
        if second is None:
            return features
        images = layers.resize_images(images, second.image_size)
        other = layers.resample_grid(self.second.features(images), second.grid, first.grid)
        return jnp.concatenate([features, other], axis=-1)


def _per_row(features: Array, images: Array) -> Array:
    b, m = images.shape[:2]
    return features.reshape(b, m * features.shape[1], features.shape[2])


def _flat(images: Array, coordinates: Array | None) -> tuple[Array, ...]:
    return tuple(x.reshape(-1, *x.shape[2:]) for x in (images, coordinates) if x is not None)
