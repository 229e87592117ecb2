"""A task's generation settings: which are followed, which change no answer here, and which are an error."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from pivot_jax.errors import UserError

log = logging.getLogger(__name__)
SAMPLING = {"temperature", "top_p", "top_k", "min_p"}
# Settings that change answers and cannot be had, with the values at which they do not.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "n": (1,),
    "best_of": (1,),
    "num_return_sequences": (1,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "no_repeat_ngram_size": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "min_new_tokens": (0,),
    "min_tokens": (0,),
    "min_length": (0,),
    "logit_bias": ({},),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
}
_said: set[tuple[str, tuple[str, ...]]] = set()


def check(options: Mapping[str, Any], known: Collection[str], task: str, fix: str) -> None:
    """Checks that a task's answers can be drawn as it says; a warning names once what has no effect.

    Args:
      known: settings that the caller reads, or that mean nothing here, beside :data:`SAMPLING`.
      fix: what to do with ``KEY=VALUE``, in a message.

    Raises:
      UserError: a setting of :data:`NEUTRAL` at another value; the message names it.
    """
    for key, allowed in NEUTRAL.items():
        value = options.get(key)
        if value is not None and value not in allowed:
            raise UserError(f"{task}: {key} is {value}, which is not supported; {fix} {key}={allowed[0]}")
    unused = tuple(sorted(options.keys() - set(known) - SAMPLING - NEUTRAL.keys()))
    if unused and (task, unused) not in _said:
        _said.add((task, unused))
        log.warning("%s: generation_kwargs %s have no effect here", task, ", ".join(unused))


def sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings of sampling, as ``rollout.engine.Sampling`` names them; temperature 0 truncates nothing."""
    temperature = float(options.get("temperature") or 0)
    if not temperature:
        return {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    top_p, top_k, min_p = (options.get(name) for name in ("top_p", "top_k", "min_p"))
    return {
        "temperature": temperature,
        "top_p": 1.0 if top_p is None else float(top_p),
        "top_k": int(top_k or 0),
        "min_p": float(min_p or 0),
    }
