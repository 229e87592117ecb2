"""Learning-rate curves as multipliers of each parameter's peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from pivot_jax.errors import UserError


def multiplier(section: Any, total_steps: int) -> Callable[[Any], Any]:
    """Step (0-based) → multiplier in [0, 1]: linear warm-up from 0, then ``config.optimizer.schedule``.

    As transformers' ``get_cosine_schedule_with_warmup``: warm-up lasts ceil(ratio * total) steps, step 0 has
    multiplier 0 if there is any, and the cosine reaches 0 at ``total_steps``.
    """
    warmup = math.ceil(section["warmup_ratio"] * total_steps)
    kind = section["schedule"]
    if kind not in ("cosine", "constant"):
        raise UserError(f"optimizer.schedule: '{kind}' is unknown; there are: cosine, constant")

    def curve(step: Any) -> Any:
        # A plain number is computed on the host: on a device the result would wait for the steps that are queued.
        xp: Any = np if isinstance(step, int) else jnp
        step = xp.asarray(step, xp.float32)
        rising = step / max(1, warmup)
        if kind == "constant":
            return xp.where(step < warmup, rising, 1.0)
        progress = (step - warmup) / max(1, total_steps - warmup)
        falling = xp.maximum(0.0, 0.5 * (1.0 + xp.cos(xp.pi * progress)))
        return xp.where(step < warmup, rising, falling)

    return curve
