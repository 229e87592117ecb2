"""Which features of an encoder a probe reads: where, after which block, and how they are pooled.

Letters: n images, b batch, p patches, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.probe import features
from pivot_jax.probe.features import Bound, Encode

WHERE = ("vision", "projector")
POOLS = ("mean", "none")  # of patches, after the encoder
HEADS = ("class", "attention")  # vectors of the whole image that the encoder itself makes
ALL = "all"


@dataclass(frozen=True)
class FeatureSettings:
    """Which features of an encoder.

    Attributes:
      where: ``vision``, what the projector reads; or ``projector``, the image tokens that a decoder reads (the paper's
        main probe).
      layer: output of this block, from 0, or "all" blocks [n, blocks, d]; None: of ``where``.
      pool: ``mean`` over an image's patches (padding excluded) or ``none``; ``class``, the class token after the
        closing norm (CLIP's and DINOv2's ``pooler_output`` in transformers), or ``attention``, SigLIP's pooling head.

    Raises:
      UserError: a value that is unknown, or two that exclude each other.
    """

    where: str = "vision"
    layer: int | str | None = None
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.where not in WHERE:
            raise UserError(f"features '{self.where}' are unknown; choose one of {', '.join(WHERE)}")
        if self.pool not in (*POOLS, *HEADS):
            raise UserError(f"pool '{self.pool}' is unknown; choose one of {', '.join((*POOLS, *HEADS))}")
        if self.where == "projector" and (self.layer is not None or self.pool in HEADS):
            other = f"pool {self.pool}" if self.pool in HEADS else f"layer {self.layer}"
            raise UserError(f"{other}: is read in the vision encoder, before the projector; use features vision")
        if self.layer is not None and self.pool in HEADS:
            raise UserError(f"pool {self.pool}: is read after the last block; leave out layer {self.layer}")


def encode_of(module: Any, settings: FeatureSettings, name: str = "the encoder") -> tuple[Encode, str]:
    """The function of the settings, and the pooling that :func:`extract` adds (of ``features.POOLS``).

    Args:
      module: an Encoder, or an MLLM, which encodes images as its encoder does.

    Raises:
      UserError: a layer or a head that this encoder does not have.
    """
    vision = module.config.vision
    if settings.pool in HEADS:
        _check_head(vision, settings.pool, name)
        return Bound(_class_token if settings.pool == "class" else _attention_pool, module), "whole"
    if settings.layer is None:
        make = features.projector_encoder if settings.where == "projector" else features.vit_encoder
        return make(module), settings.pool
    if not hasattr(vision, "depth"):
        raise UserError(f"layer {settings.layer}: {name} has a {vision.family} encoder; only ViTs are read by layer")
    if settings.layer == ALL:
        return features.blocks_encoder(module), "whole"
    if not 0 <= int(settings.layer) < vision.blocks:
        raise UserError(f"layer {settings.layer}: {name} computes blocks 0 to {vision.blocks - 1}; name one of them")
    return Bound(_block, (int(settings.layer), module)), settings.pool


def _check_head(vision: Any, pool: str, name: str) -> None:
    if pool == "class" and not vision.traits.class_token:
        raise UserError(f"pool class: {name} is a {vision.family} encoder, which has no class token; use mean")
    if pool == "attention" and not (vision.traits.pool == "attention" and vision.has_pool):
        why = "without its pooling head" if vision.traits.pool == "attention" else "which has no pooling head"
        raise UserError(f"pool attention: {name} is a {vision.family} encoder {why}; use mean")


def _block(which: tuple[int, Any], params: Any, images: Any, positions: Any = None) -> Any:
    return features.block_outputs(which[1], which[:1], params, images, positions)[0]


def _class_token(module: Any, params: Any, images: Any, positions: Any = None) -> Any:
    return _of_vision(module, "normed", params, images, positions)[:, 0]


def _attention_pool(module: Any, params: Any, images: Any, positions: Any = None) -> Any:
    return _of_vision(module, "pooled", params, images, positions)


def _of_vision(module: Any, method: str, params: Any, images: Any, positions: Any) -> Any:
    vision = module.config.vision.module(module.config.dtype)
    inputs = (images,) if positions is None else (images, positions)
    return vision.apply({"params": params["vision"]}, *inputs, method=method)
