"""The built-in rewards by name."""

from __future__ import annotations

from collections.abc import Callable

from pivot_jax.rl.rewards.answers import choice, exact, number, text
from pivot_jax.rl.rewards.boxes import box
from pivot_jax.rl.rewards.formats import format
from pivot_jax.rl.rewards.language import language
from pivot_jax.rl.rewards.length import cosine_length, soft_overlong
from pivot_jax.rl.rewards.math import math
from pivot_jax.rl.rewards.maye import maye_math
from pivot_jax.rl.rewards.repetition import repetition

# Each is a pure function of one completion; its other arguments are the options of the config.
REWARDS: dict[str, Callable[..., float | None]] = {
    "math": math,
    "maye_math": maye_math,
    "choice": choice,
    "number": number,
    "exact": exact,
    "text": text,
    "box": box,
    "format": format,
    "language": language,
    "cosine_length": cosine_length,
    "repetition": repetition,
    "soft_overlong": soft_overlong,
}
