"""SigLIP's two towers of stage 0: any ViT of square images, and a text tower of the same blocks.

Letters: b rows, n tokens, d width.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.models import flops, layers, stacking
from pivot_jax.models.transformer import stack
from pivot_jax.models.vit import ViTConfig

Array = jax.Array


@dataclass(frozen=True)
class TextConfig:
    """Text tower of stage 0; ``output`` is the width of the shared space."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    max_length: int
    output: int
    eps: float = 1e-6
    activation: str = "gelu_tanh"
    remat: str = "none"
    scan_layers: bool = True

    def module(self, dtype: str = "float32") -> TextTower:
        """The Linen module; its parameters are float32, ``dtype`` is that of the computation."""
        return TextTower(self, dtype)

    def example_input(self) -> Array:
        """Blank tokens of the right shape, for ``init``."""
        return jnp.zeros((1, self.max_length), jnp.int32)

    def flops(self) -> float:
        """FLOPs of the forward pass of one caption (see ``models.flops``)."""
        return self.depth * flops.encoder_block(self.max_length, self.width, self.mlp_dim)


class TextTower(nn.Module):
    """SigLIP's text encoder: tokens [b, n] padded to ``max_length`` → [b, output], taken at the last position.

    SigLIP pads to a fixed length and does not mask the padding; this module does the same.
    """

    config: TextConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        cfg = self.config
        if tokens.shape[1] != cfg.max_length:
            raise ValueError(f"text tower takes {cfg.max_length} tokens; got {tokens.shape[1]}")
        table = self.param("embed", nn.initializers.normal(0.02), (cfg.vocab_size, cfg.width))
        positions = self.param("pos_embed", nn.initializers.normal(0.02), (cfg.max_length, cfg.width))
        x = (table[tokens] + positions).astype(self.dtype)
        x, _ = stack(cfg, cfg.depth, name="blocks")(x, layers.COLLECT_NOTHING, None)
        return layers.Linear(cfg.output, name="head")(layers.LayerNorm(cfg.eps, name="norm")(x)[:, -1])


class SigLIP(nn.Module):
    """Image and text towers of stage 0 with the learned logit scale and bias (Zhai et al. 2023)."""

    vision_config: ViTConfig
    text_config: TextConfig
    dtype: str = "float32"

    def setup(self) -> None:
        self.vision = self.vision_config.module(self.dtype)
        self.text = self.text_config.module(self.dtype)
        # exp(scale) starts at 10 and the bias at -10, near the prior of one match in many
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.302585), ())
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(self, images: Array, tokens: Array) -> tuple[Array, Array, Array, Array]:
        """Unit-norm float32 image [b, d] and text [b, d] vectors, logit scale (exponentiated) and bias."""
        image, text = (_unit(x.astype(jnp.float32)) for x in (self.vision.pooled(images), self.text(tokens)))
        return image, text, jnp.exp(self.logit_scale), self.logit_bias

    @property
    def parts(self) -> dict[str, Any]:
        """Part → configuration of what can come from another model."""
        return {"vision": self.vision_config}

    @property
    def unscanned(self) -> frozenset[str]:
        """The towers whose layers are not scanned (see ``models.stacking``)."""
        return stacking.unscanned({"vision": self.vision_config, "text": self.text_config})

    def sequences(self, images: int, tokens: int) -> list[tuple[str, Any, int]]:
        """(part, its configuration, tokens that its blocks compute) of one pair; ``tokens``: of the caption."""
        vision = self.vision_config
        return [("vision", vision, vision.sequence), ("text", self.text_config, tokens)]

    def step_flops(self, row: flops.RowSize, trained: Set[str], reference_in_step: bool, adapted: Set[str]) -> float:
        """FLOPs of a training step for one pair. All of both towers is trained, whatever the arguments say."""
        return 3 * (self.vision_config.flops(whole=True) + self.text_config.flops())


def init_params(towers: SigLIP, key: Array) -> dict[str, Any]:
    """Random float32 parameters of both towers."""
    inputs = (*towers.vision_config.example_input(), towers.text_config.example_input())
    return towers.init(key, *inputs)["params"]


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
