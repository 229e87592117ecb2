"""Vision encoders as the rest of the package uses them: one interface for their configs, and what families share.

A config of an encoder (:class:`VisionConfig`) gives the module, its input and the cost of its forward pass.
:class:`Traits` declares how the families differ, so that no caller asks for the class of a config.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from pivot_jax.data.processing.images import Preset
from pivot_jax.models.projector import Projector, ProjectorConfig

Array = jax.Array


@dataclass(frozen=True)
class Traits:
    """Parts of a family besides its blocks, and how a model may use it.

    Attributes:
      presets: keys of ``images.PRESETS`` that its published processors use; the first is the default.
      class_token: a learned token before the patches; it has a row of the position table and is not a feature.
      pre_norm: a norm after the embeddings.
      patch_bias: the patch embedding has a bias.
      layer_scale: each branch of a block is scaled per channel (Touvron et al. 2021).
      penultimate: features come from the penultimate block (else from after the closing norm).
      pool: one vector per image: "attention" (SigLIP's head), "class" (the class token), "dense" (the class token
        through a Linear layer and tanh, where ``pool_head`` is set), "mean" (over the feature map).
      patch_input: the encoder reads variable-resolution images, as lists of patches with their grid coordinates.
      merges: it has a projector of its own, which merges neighbouring patches.
      second_only: it can only be the second encoder of a model.
      registers, gated: the family has variants with register tokens, or with a SwiGLU in place of the MLP.
    """

    presets: tuple[str, ...]
    class_token: bool = True
    pre_norm: bool = False
    patch_bias: bool = True
    layer_scale: bool = False
    penultimate: bool = False
    pool: str = "class"
    patch_input: bool = False
    merges: bool = False
    second_only: bool = False
    registers: bool = False
    gated: bool = False


class VisionConfig(abc.ABC):
    """Dimensions and numerics of one vision encoder, common to the configs of all families."""

    family: str
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    remat: str
    scan_layers: bool

    @property
    def prefix(self) -> int:
        """Tokens before the patches, which are no features."""
        return 0

    @property
    def has_final(self) -> bool:
        """Whether there are parameters that the features do not need: those of ``final/``."""
        return False

    @property
    @abc.abstractmethod
    def traits(self) -> Traits: ...

    @property
    @abc.abstractmethod
    def blocks(self) -> int:
        """Blocks that the features need."""

    @property
    @abc.abstractmethod
    def patches(self) -> int:
        """Features of an image; with ``patch_input``, the most that one has."""

    @property
    def tokens(self) -> int:
        """Tokens of an image in the decoder's sequence."""
        return self.patches

    @property
    def sequence(self) -> int:
        """Tokens that the blocks compute for an image."""
        return self.patches

    @abc.abstractmethod
    def module(self, dtype: str = "float32") -> nn.Module:
        """The Linen module; its parameters are float32, ``dtype`` is that of the computation."""

    @abc.abstractmethod
    def example_input(self) -> tuple[Array, ...]:
        """A blank input of the module's ``features``, for ``init`` and shapes: (images,) or (patches, coordinates)."""

    @abc.abstractmethod
    def with_images(self, images: Mapping[str, Any], preset: Preset) -> VisionConfig:
        """The encoder for images prepared as ``config.data.image`` says; ``preset`` is the one that it names."""

    @abc.abstractmethod
    def flops(self, patches: float = 0, *, whole: bool = False) -> float:
        """FLOPs of the forward pass of one image up to the features (see ``models.flops``).

        Args:
          patches: real patches of an image, where the encoder is counted by them (``merges``); 0: a full list.
          whole: all blocks and the pooling head too.
        """

    def project(self, config: ProjectorConfig, width: int) -> nn.Module:
        """The projector from this encoder to a decoder of ``width``."""
        return Projector(config, width)

    def projector_flops(self, config: ProjectorConfig, inputs: int, width: int, patches: float = 0) -> float:
        """FLOPs of projecting one image's features of ``inputs`` numbers to ``width``; ``patches``: :meth:`flops`."""
        layers = config.layers + config.reused
        return 2 * self.tokens * (inputs * width + (layers - 1) * width * width)


class SquareVisionConfig(VisionConfig):
    """An encoder with an image size and a square grid of features: a ViT or a ConvNeXt.

    A ViT with ``patch_input`` has them of its position table.
    """

    image_size: int
    preset: str

    @property
    @abc.abstractmethod
    def grid(self) -> int:
        """Features per side."""

    @property
    @abc.abstractmethod
    def pos_side(self) -> int:
        """Side of the position table's grid."""

    @abc.abstractmethod
    def resized(self, size: int) -> SquareVisionConfig:
        """The encoder for images of ``size`` pixels, with its parameters unchanged."""

    @abc.abstractmethod
    def without_final(self) -> SquareVisionConfig:
        """The encoder without the parameters that the features do not need.

        Raises:
          ValueError: a family that has no such form.
        """
