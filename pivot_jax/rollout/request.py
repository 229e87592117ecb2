"""What is checked about prompts and sampling before the first token is computed, by every engine."""

from __future__ import annotations

from collections.abc import Sequence

from pivot_jax.errors import RowError, UserError
from pivot_jax.rollout.engine import Prompt, Sampling


def check_sampling(n: int, sampling: Sampling, vocabulary: int) -> None:
    """Raises UserError for a number out of its range; ``vocabulary``: the number of ids of the model."""
    if n < 1:
        raise UserError(f"n is {n}; a prompt has at least 1 response")
    if sampling.max_tokens < 1:
        raise UserError(f"max_tokens is {sampling.max_tokens}; a response has at least 1 token")
    ranges = {
        "temperature": (sampling.temperature >= 0, "0 (greedy) or above"),
        "top_p": (0 < sampling.top_p <= 1, "above 0 and at most 1"),
        "top_k": (sampling.top_k >= 0, "0 (all tokens) or above"),
        "min_p": (0 <= sampling.min_p <= 1, "between 0 and 1"),
    }
    for name, (fine, wanted) in ranges.items():
        if not fine:
            raise UserError(f"{name} is {getattr(sampling, name)}; it is {wanted}")
    for name in ("stop_ids", "banned_ids"):
        if outside := [i for i in getattr(sampling, name) if not 0 <= i < vocabulary]:
            raise UserError(f"{name} holds {outside[0]}; the model's ids are 0 to {vocabulary - 1}")
    if unreachable := set(sampling.stop_ids) & set(sampling.banned_ids):
        raise UserError(f"stop_ids and banned_ids both hold {min(unreachable)}; remove it from one of them")
    if len(set(sampling.banned_ids)) == vocabulary:
        raise UserError("banned_ids holds all ids of the model; leave some")


def limit_of(prompt: Prompt, sampling: Sampling, longest: int) -> int:
    """The most tokens of a response to this prompt.

    Args:
      longest: tokens of a prompt with its response that the engine can hold; 0: no limit.

    Raises:
      RowError: an empty prompt, one with a wrong limit, or one that does not fit with its response.
    """
    row = prompt.row
    if prompt.max_tokens < 0:
        raise RowError(row.id, f"max_tokens is {prompt.max_tokens}; it is 0 (the sampling's) or above")
    limit = min(sampling.max_tokens, prompt.max_tokens or sampling.max_tokens)
    if not len(row.tokens):
        raise RowError(row.id, "the prompt has no token; nothing can follow it")
    if longest and len(row.tokens) + limit > longest:
        raise RowError(
            row.id,
            f"the prompt has {len(row.tokens)} tokens and its response up to {limit}; the cache holds {longest}. Raise "
            "it (longest), lower max_tokens, or drop the row",
        )
    return limit


def check_numbers(prompts: Sequence[Prompt]) -> None:
    """Raises UserError where two prompts have one number: their responses would get the same random numbers."""
    seen: dict[int, str] = {}
    for prompt in prompts:
        number = prompt.number % 2**32
        if number in seen:
            raise UserError(
                f"rows '{seen[number]}' and '{prompt.row.id}' have the same number {prompt.number}, so they would draw "
                "the same random numbers; give each prompt its own"
            )
        seen[number] = prompt.row.id
