"""SigLIP's two towers of stage 0: any vision encoder that takes square images, and a text tower of the same blocks.

Letters: b rows, n tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.models import layers
from pivot_jax.models.vit import ViT, ViTConfig, stack

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


class TextTower(nn.Module):
    """SigLIP's text encoder: tokens [b, n] padded to ``max_length`` → [b, output], taken at the last place.

    SigLIP pads to a fixed length and does not mask the padding; so does this.
    """

    config: TextConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        cfg = self.config
        if tokens.shape[1] != cfg.max_length:
            raise ValueError(f"text tower takes {cfg.max_length} tokens; got {tokens.shape[1]}")
        table = self.param("embed", nn.initializers.normal(0.02), (cfg.vocab_size, cfg.width))
        places = self.param("pos_embed", nn.initializers.normal(0.02), (cfg.max_length, cfg.width))
        x = (table[tokens] + places).astype(self.dtype)
        x, _ = stack(cfg, cfg.depth, name="blocks")(x, layers.COLLECT_NOTHING, None)
        return layers.Linear(cfg.output, name="head")(layers.LayerNorm(cfg.eps, name="norm")(x)[:, -1])


class SigLIP(nn.Module):
    """Image and text towers of stage 0 with the learned logit scale and bias (Zhai et al. 2023)."""

    vision_config: ViTConfig
    text_config: TextConfig
    dtype: str = "float32"

    def setup(self) -> None:
        self.vision = ViT(self.vision_config, self.dtype)
        self.text = TextTower(self.text_config, self.dtype)
        # exp(scale) starts at 10 and the bias at -10, so that training starts near the prior of one match in many
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.302585), ())
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(self, images: Array, tokens: Array) -> tuple[Array, Array, Array, Array]:
        """Unit-norm float32 image [b, d] and text [b, d] vectors, logit scale (exponentiated) and bias."""
        image, text = (_unit(x.astype(jnp.float32)) for x in (self.vision.pooled(images), self.text(tokens)))
        return image, text, jnp.exp(self.logit_scale), self.logit_bias


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
