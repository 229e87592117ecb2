"""Matmul FLOPs by counting, for throughput and cost tables. A multiply-add is 2; padding is not counted as work.

Causal attention counts the half that is visible. Training costs three forwards of what is trained; in front of the
first trained part only the forward is done. :func:`traced_flops` counts instead what a traced program really runs,
recomputation and padding included.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

from pivot_jax.models.convnext import KERNEL, ConvNeXtConfig
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import EncoderConfig, MLLMConfig
from pivot_jax.models.qwen_vision import MERGE, QwenVisionConfig
from pivot_jax.models.siglip import TextConfig

ENCODERS = ("vision", "second")


def _encoder_block(tokens: float, width: int, mlp: int, matrices: int = 2) -> float:
    """``matrices`` of the MLP: 3 in a SwiGLU."""
    return 2 * tokens * (4 * width * width + matrices * width * mlp) + 4 * tokens * tokens * width


def _convnext(config: ConvNeXtConfig) -> float:
    side, before, total = config.image_size // config.patch_size, 3 * config.patch_size**2, 0.0
    for depth, width in zip(config.depths, config.widths, strict=True):
        total += 2 * side**2 * before * width + depth * 2 * side**2 * (KERNEL**2 * width + 8 * width * width)
        side, before = side // 2, 4 * width
    return total


def vision(config: EncoderConfig, *, whole: bool = False) -> float:
    """Forward of one image up to the features (``whole``: all blocks and the pooling head)."""
    if isinstance(config, ConvNeXtConfig):
        return _convnext(config)
    p, d = config.patches, config.width
    blocks = config.depth if whole else config.blocks
    pool = 0.0
    if whole and config.has_pool:
        attends = config.traits.pool == "attention"
        pool = 2 * (2 * p * d * d + 2 * d * d + 2 * d * config.mlp_dim) if attends else 2 * d * d
    block = _encoder_block(p + config.prefix, d, config.mlp_dim, 3 if config.gated else 2)
    return 2 * p * 3 * config.patch_size**2 * d + blocks * block + pool


def qwen_vision(config: QwenVisionConfig, patches: float) -> float:
    """Forward of one image of ``patches`` patches through all blocks; windows count as whole ones."""
    d = config.width
    window = min(patches, (config.window // config.patch_size) ** 2) if config.windowed else patches
    full = sum(not config.windowed or i in config.full_blocks for i in range(config.depth))
    seen = full * patches + (config.depth - full) * window
    products = 4 * d * d + (3 if config.windowed else 2) * d * config.mlp_dim
    return 2 * patches * (3 * config.patch_size**2 * d + config.depth * products) + 4 * patches * seen * d


def text(config: TextConfig) -> float:
    """Forward of one caption through the text tower."""
    return config.depth * _encoder_block(config.max_length, config.width, config.mlp_dim)


def projector(config: MLLMConfig, patches: float = 0) -> float:
    """Forward of one image's features; ``patches`` as in :func:`forward`."""
    if isinstance(config.vision, QwenVisionConfig):
        merged = MERGE**2 * config.vision.width
        return 2 * (patches or config.vision.patches) / MERGE**2 * merged * (merged + config.decoder.width)
    out, layers = config.decoder.width, config.projector.layers + config.projector.reused
    return 2 * config.image_tokens * (config.feature_width * out + (layers - 1) * out * out)


def decoder(config: DecoderConfig, tokens: float) -> float:
    """Forward of one row of ``tokens`` tokens through the blocks."""
    heads = config.heads * config.head_width
    projections = config.width * (2 * heads + 2 * config.kv_heads * config.head_width)
    per_token = 2 * (projections + 3 * config.width * config.mlp_dim)
    return config.depth * (tokens * per_token + 2 * tokens * tokens * heads)


def head(config: DecoderConfig, targets: float) -> float:
    """Vocabulary projection of the scored targets."""
    return 2 * targets * config.width * config.vocab_size


def forward(config: MLLMConfig, images: float, tokens: float, targets: float, patches: float = 0) -> dict[str, float]:
    """Forward FLOPs by part of one row with ``images`` images and ``tokens`` tokens, image places included.

    ``patches``: of an image of an encoder for any size; 0: as many as its list has room for.
    """
    tower = config.vision
    encoder = qwen_vision(tower, patches or tower.patches) if isinstance(tower, QwenVisionConfig) else vision(tower)
    return {
        "vision": images * encoder,
        **({"second": images * vision(config.second)} if config.second else {}),
        "projector": images * projector(config, patches),
        "decoder": decoder(config.decoder, tokens),
        "head": head(config.decoder, targets),
    }


def train_step(
    parts: dict[str, float], trained: set[str], reference_in_step: bool = False, adapted: Set[str] = frozenset()
) -> float:
    """Forward and backward of one row: 3 forwards where a part and something in front of it is trained.

    A part that is frozen but stands behind a trained one still passes gradients on (2 forwards); a frozen part in
    front of everything trained costs its forward only. Of an ``adapted`` part (LoRA) only the adapter is trained, whose
    own FLOPs are not counted. ``parts`` is in the data's order.
    """
    total, behind_trained = 0.0, False
    for name, cost in parts.items():
        own = "decoder" if name == "head" else name
        total += cost
        if behind_trained and name not in ENCODERS:  # encoders stand side by side: none is behind another
            total += cost  # gradient to the part's input
        if own in trained:
            total += cost  # gradient to its parameters
        behind_trained |= own in trained or own in adapted
    return total + (sum(parts.values()) if reference_in_step else 0.0)


def traced_flops(jaxpr: Any) -> float:
    """FLOPs of all devices. A multiply-add is 2; a loop counts as often as it runs (``while``: once).

    Kernels count what their cost estimate says; of a condition's branches the dearest counts.
    """
    return sum(_equation(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "pallas_call":
        estimate = params["cost_estimate"]
        return float(estimate.flops) if estimate else 0.0
    inside = [traced_flops(x) for x in _jaxprs(params)]
    if name == "cond":
        return max(inside)
    times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
    return times * sum(inside)


def _dot(equation: Any) -> float:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters; a custom derivative's rules are functions and do not count."""
    values = [x for value in params.values() for x in (value if isinstance(value, tuple | list) else (value,))]
    return [x for x in values if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
