"""LLaVA-style multimodal LLM: vision encoder → projector → decoder.

Letters: b rows, m images per row, p patches per image, n tokens, d width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.models import layers, qwen_vision, vit
from pivot_jax.models.convnext import ConvNeXt, ConvNeXtConfig
from pivot_jax.models.decoder import Decoder, DecoderConfig, KVCache
from pivot_jax.models.qwen_vision import Merger, QwenVision, QwenVisionConfig
from pivot_jax.models.vit import ViT, ViTConfig

Array = jax.Array
EncoderConfig = ViTConfig | ConvNeXtConfig


@dataclass(frozen=True)
class ProjectorConfig:
    """``reused`` Linear layers taken (frozen) from an earlier projector, then ``layers`` new ones; GELU between.

    PIVOT's variants: "0" is (reused 0, layers 2), "1+1" is (1, 1), "2+2" is (2, 2).
    """

    layers: int = 2
    reused: int = 0
    newline: bool = False  # a learned vector that ends the rows of a tiled picture's map (LLaVA-OneVision)


@dataclass(frozen=True)
class MLLMConfig:
    """``second``: another encoder of the same pictures; its features stand beside the first one's, patch by patch.

    A tower of Qwen's brings its own projector, the merger; ``projector`` then says nothing.
    """

    vision: Any  # EncoderConfig, or QwenVisionConfig
    projector: ProjectorConfig
    decoder: DecoderConfig
    dtype: str = "float32"
    second: EncoderConfig | None = None

    def __post_init__(self) -> None:
        both = (self.vision, self.second)
        if self.second and any(part.traits.patch_input for part in both if part):
            raise ValueError("two encoders see the same square picture; a family with patch input takes none")

    @property
    def image_tokens(self) -> int:
        """Features per image of an array of images: the most tokens that an image takes in a row."""
        return self.vision.tokens

    @property
    def feature_width(self) -> int:
        """Of what the projector reads."""
        return self.vision.width + (self.second.width if self.second else 0)


def encoder(config: EncoderConfig | QwenVisionConfig, dtype: str) -> nn.Module:
    """The module of an encoder's config."""
    if isinstance(config, QwenVisionConfig):
        return QwenVision(config, dtype)
    return ConvNeXt(config, dtype) if isinstance(config, ConvNeXtConfig) else ViT(config, dtype)


class Projector(nn.Module):
    """Linear layers ``fc1``, ``fc2``, ... with exact GELU between, all to the decoder's width; perhaps ``newline``."""

    config: ProjectorConfig
    width: int

    def setup(self) -> None:
        self.count = self.config.reused + self.config.layers
        for index in range(1, self.count + 1):
            setattr(self, f"fc{index}", layers.Linear(self.width))
        if self.config.newline:
            self.newline = self.param("newline", nn.initializers.normal(self.width**-0.5), (self.width,))

    def __call__(self, x: Array) -> Array:
        for index in range(1, self.count + 1):
            x = getattr(self, f"fc{index}")(x)
            if index < self.count:
                x = layers.ACTIVATIONS["gelu"](x)
        return x


class MLLM(nn.Module):
    """Use through ``mllm.apply({"params": params}, ..., method="...")``; see each method."""

    config: MLLMConfig

    def setup(self) -> None:
        cfg = self.config
        self.vision = encoder(cfg.vision, cfg.dtype)
        if cfg.second:
            self.second = encoder(cfg.second, cfg.dtype)
        width, qwen = cfg.decoder.width, isinstance(cfg.vision, QwenVisionConfig)
        self.projector: Any = Merger(cfg.vision, width) if qwen else Projector(cfg.projector, width)
        self.decoder = Decoder(cfg.decoder, cfg.dtype)

    def encode_images(self, images: Array, places: Array | None = None) -> Array:
        """Images, m of a whole sequence → vision features [b, m*p, d_vision], computed once per image.

        ``images``: [b, m, H, W, 3]; or patches [b, m, p, i] with ``places`` [b, m, p, 2] (``patch_positions`` of a
          batch).
        """
        images_, *places_ = _flat(images, places)
        features = self._with_second(self.vision.features(images_, *places_), images_)
        return self._per_row(features, images)

    def encode_images_with_taps(
        self, images: Array, taps: tuple[str, ...], places: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """:meth:`encode_images` and named intermediates of the encoder (see ``ViT.features_with_taps``)."""
        images_, *places_ = _flat(images, places)
        features, found = self.vision.features_with_taps(images_, taps, *places_)
        features = self._with_second(features, images_)
        return self._per_row(features, images), {tap: self._per_row(x, images) for tap, x in found.items()}

    def _with_second(self, features: Array, images: Array) -> Array:
        """Features of the first encoder [b, p, d] → those of both [b, p, d + d_second], the second's resampled."""
        first, second = self.config.vision, self.config.second
        if second is None:
            return features
        images = layers.resize_images(images, second.image_size)
        other = layers.resample_grid(self.second.features(images), second.grid, first.grid)
        return jnp.concatenate([features, other], axis=-1)

    def _per_row(self, features: Array, images: Array) -> Array:
        b, m = images.shape[:2]
        return features.reshape(b, m * features.shape[1], features.shape[2])

    def project(self, features: Array) -> Array:
        """Vision features [..., p, d_vision] → image tokens [..., p, d]; the merger's are fewer than p."""
        return self.projector(features)

    def embed(self, batch: Any, image_features: Array | None = None) -> Array:
        """Decoder input [b, n, d]: token embeddings, with projected features at image places."""
        x = self.decoder.embed_tokens(batch.tokens)
        if batch.images.shape[1] == 0:
            return x
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
        newline = jnp.broadcast_to(self.projector.newline.astype(image_tokens.dtype), (b, 1, d))
        everything = jnp.concatenate([image_tokens, newline], axis=1)
        total = jnp.zeros((b, taps.shape[1], d), image_tokens.dtype)
        for k in range(taps.shape[2]):
            places = jnp.where(taps[:, :, k] < 0, count, taps[:, :, k])
            picked = jnp.take_along_axis(everything, places[:, :, None], axis=1)
            total += picked * weights[:, :, k, None].astype(picked.dtype)
        return total

    def hidden(self, batch: Any, image_features: Array | None = None) -> Array:
        """Closing-norm states [b, n, d] of a ``VLMBatch`` or ``PromptBatch``.

        Args:
          image_features: [b, m*p, d_vision] to use instead of encoding ``batch.images``.
        """
        branches = getattr(batch, "branches", None)
        return self.decoder.hidden(self.embed(batch, image_features), batch.positions, batch.segments, branches)

    def prefill(
        self, batch: Any, max_new: int, image_features: Array | None = None, responses: int = 1
    ) -> tuple[KVCache, Array]:
        """Reads the B prompts once for ``responses`` answers each, b = B * responses rows of a prompt's in turn.

        Returns:
          A cache with room for ``max_new`` tokens per answer, and the state of each row's last prompt token [b, d].
        """
        x = self.embed(batch, image_features)
        cache, hidden = self.decoder.prefill(x, batch.positions, batch.segments, max_new, responses)
        places = jnp.arange(batch.tokens.shape[1])[None, :]
        last = jnp.max(jnp.where(batch.segments > 0, places, 0), axis=1)
        state = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return cache, jnp.repeat(state, responses, axis=0)

    def decode_step(self, cache: KVCache, tokens: Array) -> tuple[KVCache, Array]:
        """Appends one text token per row, int32 [b]; returns the cache and its state [b, d]."""
        cache, hidden = self.decoder.decode_step(cache, self.decoder.embed_tokens(tokens[:, None]))
        return cache, hidden[:, 0]

    def touch_all(self, images: tuple[Array, ...], tokens: Array) -> Array:
        """Runs every part once, also what :meth:`hidden` leaves out, so that ``init`` creates all parameters."""
        x = self.decoder.embed_tokens(tokens)
        ones = jnp.ones_like(tokens)
        total = self.decoder.hidden(x, self.config.decoder.text_positions(ones), ones).sum()
        total += self.vision.whole(*images)
        if self.config.second:
            total += self.second.whole(layers.resize_images(images[0], self.config.second.image_size))
        features = self._with_second(self.vision.features(*images), images[0])
        return total + self.project(features).sum()


def init_params(mllm: MLLM, key: Array) -> dict[str, Any]:
    """Random float32 parameters of the whole model; a nested dict (tree in ARCHITECTURE.md)."""
    cfg = mllm.config.vision
    images = qwen_vision.blank(cfg) if isinstance(cfg, QwenVisionConfig) else vit.blank(cfg)
    return mllm.init(key, images, jnp.zeros((1, 2), jnp.int32), method="touch_all")["params"]


def head_matrix(params: dict[str, Any]) -> Array:
    """Output matrix [v, d]: the head, or the embedding table where they are tied."""
    decoder = params["decoder"]
    return decoder["head"] if "head" in decoder else decoder["embed"]


def _flat(images: Array, places: Array | None) -> tuple[Array, ...]:
    return tuple(x.reshape(-1, *x.shape[2:]) for x in (images, places) if x is not None)
