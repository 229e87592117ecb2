"""LLaVA's projector: an MLP from vision features to the decoder's width.

Letters: p features of an image, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax

from pivot_jax.models import layers

Array = jax.Array


@dataclass(frozen=True)
class ProjectorConfig:
    """``reused`` Linear layers taken (frozen) from an earlier projector, then ``layers`` new ones; GELU between.

    PIVOT's variants: "0" is (reused 0, layers 2), "1+1" is (1, 1), "2+2" is (2, 2).
    """

    layers: int = 2
    reused: int = 0
    newline: bool = False  # a learned vector that ends the rows of a tiled image's map (LLaVA-OneVision)


class Projector(nn.Module):
    """Features [..., p, d_vision] → [..., p, width].

    Linear layers ``fc1``, ``fc2``, ... with exact GELU between, all to the decoder's width; optionally ``newline``.
    """

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
