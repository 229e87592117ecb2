"""A run's model from its config."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.models import flops, zoo
from pivot_jax.models.mllm import MLLM, init_params
from pivot_jax.models.siglip import SigLIP
from pivot_jax.models.vit import ViTConfig, blank


class Model(NamedTuple):
    """A Linen module and how its random parameters are made."""

    module: Any  # SigLIP in stage 0, else MLLM
    create: Callable[[Any], dict[str, Any]]  # key → float32 parameters


def build_model(config: Any, vocabulary: int) -> Model:
    """Module of ``config.model``; ``vocabulary`` is the tokenizer's size.

    Raises:
      UserError: the decoder's embedding is smaller than the vocabulary, or image sizes differ.
    """
    parts = zoo.build(config.model, config.data.image)
    if not parts.vision.traits.patch_input and parts.vision.image_size != config.data.image.size:
        sizes = f"{config.data.image.size} but the encoder takes {parts.vision.image_size}"
        raise UserError(f"data.image.size is {sizes}; make them equal")
    if config.stage == "contrastive":
        if not isinstance(parts.vision, ViTConfig) or parts.vision.traits.patch_input or parts.second:
            raise UserError(
                f"model.vision: stage 0 trains one ViT of square images, not '{parts.vision.family}'"
                f"{' and a second encoder' if parts.second else ''}; take another family, such as siglip"
            )
        text = zoo.build_text(config.model.text, vocabulary, parts.vision.width)
        towers = SigLIP(parts.vision, text, parts.dtype)
        tokens = jnp.zeros((1, text.max_length), jnp.int32)
        return Model(towers, lambda key: towers.init(key, *blank(parts.vision), tokens)["params"])
    if parts.decoder.vocab_size < vocabulary:
        raise UserError(
            f"model.decoder.vocab_size is {parts.decoder.vocab_size} but the tokenizer has {vocabulary} tokens; "
            "set it to at least that"
        )
    module = MLLM(parts)
    return Model(module, lambda key: init_params(module, key))


def without(model: Model, absent: Set[str]) -> Model:
    """The model without the parameters at these paths, which it must not need."""

    def create(key: Any) -> dict[str, Any]:
        made = rules.flatten(model.create(key))
        return rules.unflatten({path: leaf for path, leaf in made.items() if path not in absent})

    return Model(model.module, create)


def parts(module: Any) -> dict[str, Any]:
    """Part → configuration of what can come from another model; None where there is none."""
    if isinstance(module, SigLIP):
        return {"vision": module.vision_config}
    return {"vision": module.config.vision, "second": module.config.second, "decoder": module.config.decoder}


def row_shape(module: Any) -> dict[str, Any]:
    """The properties of the model that a loader needs (arguments of ``build_loader``)."""
    if isinstance(module, SigLIP):
        return {"image_tokens": module.vision_config.tokens, "mrope": False}
    vision, decoder = module.config.vision, module.config.decoder
    shape = {"image_tokens": module.config.image_tokens, "patch_size": vision.patch_size}
    return {**shape, "mrope": bool(decoder.mrope_section)}


def step_flops(
    config: Any,
    module: Any,
    loader_shape: tuple[float, float],
    trained: set[str],
    adapted: Set[str] = frozenset(),
    patches: float = 0,
) -> float:
    """Training FLOPs of one row by counting (padding not counted).

    Args:
      loader_shape: mean tokens and mean scored targets of a row.
      patches: mean patches of an image slot; 0: with a variable-resolution encoder, as many as fit.
      trained: parts ("vision", "projector", "decoder") that get gradients.
      adapted: parts of which only a LoRA adapter gets gradients.
    """
    if isinstance(module, SigLIP):
        return 3 * (flops.vision(module.vision_config, whole=True) + flops.text(module.text_config))
    tokens, targets = loader_shape
    parts = flops.forward(
        module.config, config.data.images_per_row * config.data.image.max_tiles, tokens, targets, patches
    )
    in_step = config.stage == "preference" and config.objective.reference == "step"
    return flops.train_step(parts, trained, in_step, adapted)


def root_key(config: Any) -> Any:
    """Every random key of a run is folded in from this one."""
    return jax.random.key(config.seed)
