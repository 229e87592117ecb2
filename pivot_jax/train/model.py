"""A run's model from its config."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax

from pivot_jax import rules
from pivot_jax.data.processing.chat import Kind
from pivot_jax.data.processing.processor import Processor, build_processor
from pivot_jax.errors import UserError
from pivot_jax.models import siglip, value_head, zoo
from pivot_jax.models.flops import RowSize
from pivot_jax.models.mllm import MLLM, init_params
from pivot_jax.objectives.table import batch_kind, build_objective, has_value_head


class Model(NamedTuple):
    """A Linen module and how its random parameters are made."""

    module: Any  # SigLIP in stage 0, else MLLM
    create: Callable[[Any], dict[str, Any]]  # key → float32 parameters


def build_model(config: Any, vocabulary: int) -> Model:
    """Module of ``config.model``; ``vocabulary`` is the tokenizer's size.

    The parameters of PPO's value head, where the algorithm has one, are beside the module's.

    Raises:
      UserError: the decoder's embedding is smaller than the vocabulary, image sizes differ, or a wrong algorithm.
    """
    parts = zoo.build(config.model, config.data.image)
    if not parts.vision.traits.patch_input and parts.vision.image_size != config.data.image.size:
        sizes = f"{config.data.image.size} but the encoder takes {parts.vision.image_size}"
        raise UserError(f"data.image.size is {sizes}; make them equal")
    if batch_kind(config) == "contrastive":
        traits = parts.vision.traits
        if traits.patch_input or traits.second_only or parts.second:
            raise UserError(
                f"model.vision: stage 0 trains one ViT of square images, not '{parts.vision.family}'"
                f"{' and a second encoder' if parts.second else ''}; take another family, such as siglip"
            )
        text = zoo.build_text(config.model.text, vocabulary, parts.vision.width)
        towers = siglip.SigLIP(parts.vision, text, parts.dtype)
        return Model(towers, lambda key: siglip.init_params(towers, key))
    if parts.decoder.vocab_size < vocabulary:
        raise UserError(
            f"model.decoder.vocab_size is {parts.decoder.vocab_size} but the tokenizer has {vocabulary} tokens; "
            "set it to at least that"
        )
    module = MLLM(parts)
    if has_value_head(config):
        width = parts.decoder.width
        return Model(module, lambda key: init_params(module, key) | {value_head.PART: value_head.create(width)})
    return Model(module, lambda key: init_params(module, key))


def without(model: Model, absent: Set[str]) -> Model:
    """The model without the parameters at these paths, which it must not need."""

    def create(key: Any) -> dict[str, Any]:
        made = rules.flatten(model.create(key))
        return rules.unflatten({path: leaf for path, leaf in made.items() if path not in absent})

    return Model(model.module, create)


def row_kind(config: Any) -> Kind:
    """Kind of the rows that a config trains with: those of its batches, or the prompts of online RL."""
    kind = batch_kind(config)
    return "prompt" if kind == "policy" else kind


def processor_of(config: Any, module: Any, tokenizer: Any, kind: Kind, **changes: Any) -> Processor:
    """Processor of a run's model.

    Args:
      kind: of the rows that it encodes.
      changes: ``template`` and ``max_length``, as for ``processor.build_processor``.

    Raises:
      UserError: positions of a text are asked for, and the decoder has no others.
    """
    vision, decoder = module.parts["vision"], module.parts.get("decoder")
    mrope = decoder is not None and bool(decoder.mrope_section)
    if config.rl.text_positions and not mrope:
        raise UserError(
            "rl.text_positions: True, but the decoder has no M-RoPE, so positions are a text's anyway; remove it"
        )
    return build_processor(config, tokenizer, kind, patch_size=vision.patch_size, mrope=mrope, **changes)


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
      patches: mean patches of an image slot; 0: a full list (variable-resolution encoders).
      trained: parts ("vision", "projector", "decoder") that get gradients.
      adapted: parts of which only a LoRA adapter gets gradients.
    """
    tokens, targets = loader_shape
    row = RowSize(config.data.images_per_row * config.data.image.max_tiles, tokens, targets, patches)
    in_step = build_objective(module, config).reference == "step"
    return module.step_flops(row, trained, in_step, adapted)


def root_key(config: Any) -> Any:
    """Every random key of a run is folded in from this one."""
    return jax.random.key(config.seed)
