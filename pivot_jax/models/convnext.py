"""ConvNeXt (Liu et al. 2022): the convolutional encoder of the paper's ensembles.

Letters: b images, H W pixels, y x positions of a feature map, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.data.processing.images import Preset
from pivot_jax.models import layers
from pivot_jax.models.vision import SquareVisionConfig, Traits

Array = jax.Array
KERNEL = 7  # pixels of the depthwise convolution, each way
STAGES = 4
TRAITS = Traits(("convnext", "convnext_384"), class_token=False, pool="mean", second_only=True)
EPS = 1e-6  # of the norms over channels, whatever the closing norm's is


@dataclass(frozen=True)
class ConvNeXtConfig(SquareVisionConfig):
    """Dimensions and numerics. ``widths`` and ``depths`` have one entry per stage."""

    image_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    family: str = "convnext"
    preset: str = "convnext"
    patch_size: int = 4  # of the stem; each later stage halves the map
    eps: float = 1e-12  # of the closing norm, which comes after the features
    activation: str = "gelu"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(f"ConvNeXt needs a depth for each width; got widths {self.widths}, depths {self.depths}")
        if len(self.widths) > STAGES:
            raise ValueError(f"ConvNeXt has at most {STAGES} stages; got widths {self.widths}")
        if self.grid < 1:
            raise ValueError(f"a {self.image_size}-pixel image leaves nothing after {self.stride}-fold reduction")

    @property
    def has_final(self) -> bool:
        """There is: the closing norm."""
        return True

    @property
    def pos_side(self) -> int:
        """Side of the feature map; there is no position table to resize."""
        return self.grid

    @property
    def blocks(self) -> int:
        return sum(self.depths)

    @property
    def traits(self) -> Traits:
        return TRAITS

    def without_final(self) -> ConvNeXtConfig:
        raise ValueError("a ConvNeXt is exported whole: its class has no form without the closing norm")

    def resized(self, size: int) -> ConvNeXtConfig:
        """The encoder for images of ``size`` pixels."""
        return replace(self, image_size=size)

    @property
    def stride(self) -> int:
        """Pixels of the image that one position of the features covers, each way."""
        return self.patch_size * 2 ** (len(self.widths) - 1)

    @property
    def grid(self) -> int:
        """Positions per side of the feature map; each convolution drops a remainder."""
        side = self.image_size // self.patch_size
        for _ in self.widths[1:]:
            side //= 2
        return side

    @property
    def patches(self) -> int:
        """Positions of the feature map."""
        return self.grid**2

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.widths[-1]

    def module(self, dtype: str = "float32") -> ConvNeXt:
        return ConvNeXt(self, dtype)

    def example_input(self) -> tuple[Array, ...]:
        return (jnp.zeros((1, self.image_size, self.image_size, 3)),)

    def with_images(self, images: Mapping[str, Any], preset: Preset) -> ConvNeXtConfig:
        return replace(self, preset=images["preset"], mean=preset.mean, std=preset.std)

    def flops(self, patches: float = 0, *, whole: bool = False) -> float:
        """See :meth:`vision.VisionConfig.flops`; the closing norm has no matmul."""
        side, before, total = self.image_size // self.patch_size, 3 * self.patch_size**2, 0.0
        for depth, width in zip(self.depths, self.widths, strict=True):
            total += 2 * side**2 * before * width + depth * 2 * side**2 * (KERNEL**2 * width + 8 * width * width)
            side, before = side // 2, 4 * width
        return total


def convolve(x: Array, kernel: Array, bias: Array, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """2-D convolution of x [b, y, x, i] with kernel [ky, kx, i / groups, o], as PyTorch's Conv2d."""
    out = jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    return out + bias.astype(x.dtype)


class Reduce(nn.Module):
    """Convolution of non-overlapping patches. Parameters ``kernel`` [k, k, in, out] and ``bias`` [out]."""

    features: int
    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), shape)
        return convolve(x, kernel, self.param("bias", nn.initializers.zeros, shape[-1:]), stride=self.size)


class Depthwise(nn.Module):
    """A filter per channel, same size. Parameters ``kernel`` [k, k, d] and ``bias`` [d]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        d = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), (KERNEL, KERNEL, d))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        return convolve(x, kernel[:, :, None], bias, padding=KERNEL // 2, groups=d)


class ConvNeXtBlock(nn.Module):
    """x + scale * MLP(norm(depthwise 7x7 convolution of x)). Returns (x, None) for use under a scan."""

    config: ConvNeXtConfig

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        cfg, d = self.config, x.shape[-1]
        y = Depthwise(name="conv")(x)
        y = layers.MLP(4 * d, cfg.activation, name="mlp")(layers.LayerNorm(EPS, name="norm")(y))
        scale = self.param("scale", nn.initializers.constant(1e-6), (d,))
        return x + scale.astype(x.dtype) * y, None


class Stage(nn.Module):
    """Halves the map (except in the first stage), then the blocks."""

    config: ConvNeXtConfig
    index: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        if self.index:
            normed = layers.LayerNorm(EPS, name="down_norm")(x)
            x = Reduce(cfg.widths[self.index], 2, name="down")(normed)
        blocks = layers.Stack(
            ConvNeXtBlock, (cfg,), cfg.depths[self.index], cfg.remat, cfg.scan_layers, (), name="blocks"
        )
        return blocks(x)[0]


class Final(nn.Module):
    """The part that an MLLM leaves out: the closing norm, of the mean over the map."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return layers.LayerNorm(self.eps, name="norm")(jnp.mean(x, axis=1))


class ConvNeXt(nn.Module):
    """Images [b, H, W, 3] (uint8, or floating point already normalised) → features."""

    config: ConvNeXtConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg = self.config
        self.stem = Reduce(cfg.widths[0], cfg.patch_size)
        self.stem_norm = layers.LayerNorm(EPS)
        self.stages = [Stage(cfg, index) for index in range(len(cfg.widths))]
        self.final = Final(cfg.eps)

    def features(self, images: Array) -> Array:
        """The last stage's map, row by row: [b, p, d]."""
        cfg = self.config
        if images.shape[1:] != (cfg.image_size, cfg.image_size, 3):
            raise ValueError(f"encoder takes {cfg.image_size}x{cfg.image_size} RGB images; got {images.shape[1:]}")
        x = layers.normalise(images, cfg.mean, cfg.std, jnp.dtype(self.dtype))
        x = self.stem_norm(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def whole(self, images: Array) -> Array:
        """Runs every part once, so that ``init`` creates all parameters: a scalar."""
        return self.pooled(images).sum()

    def pooled(self, images: Array) -> Array:
        """One vector per image: [b, d]; needs ``final`` parameters."""
        return self.final(self.features(images))
