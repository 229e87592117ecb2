"""A value head: the expected return of a state, for policies that are trained with PPO.

    V = s · kernel + bias        s [d] the decoder's closing-norm state, kernel [d, 1], bias [1]

Its parameters are the part ``value`` beside the model's own. They are no layer of the model: what answers, scores or
exports a model does not read them. Letters: b sequences, t scored targets, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

PART = "value"
_PREFIX = f"{PART}/"


def is_value_head(path: str) -> bool:
    """Whether a parameter belongs to the value head."""
    return path.startswith(_PREFIX)


def create(width: int) -> dict[str, Any]:
    """Parameters of a fresh head, all zero: every state has the value 0, and the trunk gets no gradient from it yet."""
    return {"kernel": jnp.zeros((width, 1), jnp.float32), "bias": jnp.zeros((1,), jnp.float32)}


def without(params: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own parameters."""
    return {part: tree for part, tree in params.items() if part != PART}


def values(params: Mapping[str, Any], states: Any) -> Any:
    """V of each state, float32 [b, t], computed in float32 whatever the compute dtype is.

    The state that predicts a target is the one in which this token, the action, is taken.

    Args:
      params: of the whole model.
      states: [b, t, d], of ``logprobs.target_states``.
    """
    head = params[PART]
    found = jnp.einsum("btd,do->bt", states.astype(jnp.float32), head["kernel"], precision=jax.lax.Precision.HIGHEST)
    return found + head["bias"]
