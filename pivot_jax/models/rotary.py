"""Rotary position embeddings: plain, scaled to longer contexts (RoPE scaling), and along three axes (M-RoPE).

Letters: b rows, n tokens, h heads, c head width. Pairs of a head are (i, i + c/2), the half-split layout. Angles are
float32 whatever the compute dtype is.

Sources: RoPE, Su et al. 2021 (arXiv:2104.09864); YaRN, Peng et al. 2023 (arXiv:2309.00071); Llama 3, Grattafiori et
al. 2024 (arXiv:2407.21783); M-RoPE, Wang et al. 2024 (Qwen2-VL, arXiv:2409.12191). Details are those of transformers,
so that its checkpoints compute the same here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# rope_type -> the fields of RopeScaling that it reads
FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": (
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale",
        "mscale_all_dim", "truncate",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}  # fmt: skip


@dataclass(frozen=True)
class RopeScaling:
    """How positions beyond the pretrained length are scaled. Names are those of config.json's rope parameters.

    ``default``: not at all. ``linear``: all angles divided by ``factor``. ``dynamic`` (NTK): a larger base once a row
    is longer than the pretrained length. ``yarn``: slow waves are divided, fast ones kept, logits scaled. ``llama3``:
    slow waves are divided, fast ones kept, by their length.
    """

    rope_type: str = "default"
    factor: float = 1.0  # longer context / pretrained one
    original_max_position_embeddings: int = 0  # pretrained context, tokens
    low_freq_factor: float = 1.0  # llama3: waves longer than context / this are divided whole,
    high_freq_factor: float = 4.0  # waves shorter than context / this are kept
    beta_fast: float = 32.0  # yarn: waves with more turns in the context are kept,
    beta_slow: float = 1.0  # with fewer are divided whole
    attention_factor: float = 0.0  # yarn: scale of cos and sin; 0: from the next two, or 0.1 ln(factor) + 1
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True  # yarn: the ramp begins and ends at whole pairs

    def __post_init__(self) -> None:
        if self.rope_type not in FIELDS:
            raise ValueError(f"rope_type '{self.rope_type}' is unknown; there are: {', '.join(FIELDS)}")
        needed = FIELDS[self.rope_type]
        if "factor" in needed and self.factor <= 0:
            raise ValueError(f"rope_type '{self.rope_type}' has factor {self.factor}; it is above 0")
        if "original_max_position_embeddings" in needed and self.original_max_position_embeddings < 1:
            raise ValueError(f"rope_type '{self.rope_type}' needs original_max_position_embeddings, at least 1")
        if self.rope_type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope_type 'llama3' has low_freq_factor {self.low_freq_factor} and high_freq_factor "
                f"{self.high_freq_factor}; the first is above 0 and below the second"
            )


def angles(
    positions: Array, segments: Array, width: int, theta: float, scaling: RopeScaling, sections: tuple[int, ...] = ()
) -> tuple[Array, Array]:
    """cos and sin, float32 [b, n, 1, c], for :func:`rotate`.

    Args:
      positions: int32 [b, n]; with ``sections`` [b, n, 3]: time, row and column.
      segments: int32 [b, n], 0 at padding. Only ``dynamic`` scaling reads them: a row's length decides its base.
      width: c.
      theta: base of the wavelengths.
      sections: M-RoPE: how many of the c/2 pairs rotate by each axis, in order. Equal axes give plain positions.

    Raises:
      ValueError: positions of another shape than ``sections`` ask for.
    """
    if positions.ndim != (3 if sections else 2):
        wanted = "[b, n, 3] for M-RoPE" if sections else "[b, n]"
        raise ValueError(f"positions are {list(positions.shape)}; this decoder takes {wanted}")
    inverse, scale = _frequencies(positions, segments, width, theta, scaling)
    wide = positions.astype(jnp.float32)
    if sections:
        wide = wide[..., np.repeat(np.arange(3), sections)]
    else:
        wide = wide[..., None]
    turns = wide * inverse
    turns = jnp.concatenate([turns, turns], axis=-1)[:, :, None, :]
    return jnp.cos(turns) * scale, jnp.sin(turns) * scale


def rotate(x: Array, cos_sin: tuple[Array, Array]) -> Array:
    """Rotary embedding of x [b, n, h, c]."""
    cos, sin = cos_sin
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos + turned * sin).astype(x.dtype)


def _frequencies(positions: Array, segments: Array, width: int, theta: float, scaling: RopeScaling) -> tuple[Any, Any]:
    """Radians per position, float32 [c/2] or (dynamic) [b, n, c/2], and the factor on cos and sin."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    if scaling.rope_type == "dynamic":
        return 1.0 / _dynamic_base(positions, segments, width, theta, scaling)[..., None] ** exponents, 1.0
    inverse = np.float32(1.0) / np.float32(theta) ** exponents
    if scaling.rope_type == "linear":
        return inverse / np.float32(scaling.factor), 1.0
    if scaling.rope_type == "llama3":
        return _llama3(inverse, scaling), 1.0
    if scaling.rope_type == "yarn":
        return _yarn(inverse, width, theta, scaling), _yarn_attention(scaling)
    return inverse, 1.0


def _dynamic_base(positions: Array, segments: Array, width: int, theta: float, scaling: RopeScaling) -> Array:
    """theta * (factor * length / context - (factor - 1)) ** (c / (c - 2)), float32 [b, n], from each row's length.

    transformers takes the longest row of the batch for all; here a row does not depend on its companions. Both branches
    of a preference pair take the longer one's length, for they share their prompt.
    """
    last = positions if positions.ndim == 2 else jnp.max(positions, axis=-1)
    last = jnp.where(segments > 0, last, 0)
    count = last.shape[1] + 1  # segments that a row can have, padding included
    longest = jax.vmap(lambda x, ids: jax.ops.segment_max(x, ids, num_segments=count)[ids])(last, segments)
    context, factor = scaling.original_max_position_embeddings, scaling.factor
    length = jnp.maximum(longest + 1, context).astype(jnp.float32)
    return theta * (factor * length / context - (factor - 1)) ** (width / (width - 2))


def _llama3(inverse: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Waves longer than context / low divided by factor, shorter than context / high kept, a blend between."""
    context, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = np.float32(2 * math.pi) / inverse
    kept = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return ((1 - kept) * inverse / scaling.factor + kept * inverse).astype(np.float32)


def _yarn(inverse: np.ndarray, width: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """A linear ramp over the pairs from kept (fast) to divided by factor (slow)."""

    def pair(turns: float) -> float:
        """The pair that makes this many turns within the pretrained context."""
        context = scaling.original_max_position_embeddings
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last = last + 0.001 if first == last else last
    divided = np.clip((np.arange(width // 2, dtype=np.float32) - first) / (last - first), 0, 1)
    return (inverse / scaling.factor * divided + inverse * (1 - divided)).astype(np.float32)


def _yarn_attention(scaling: RopeScaling) -> float:
    def factor(scale: float) -> float:
        return 0.1 * scale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return factor(scaling.mscale) / factor(scaling.mscale_all_dim)
    return factor(1.0)
