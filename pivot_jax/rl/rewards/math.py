r"""Verifiable mathematics: the value of the final answer equals that of the gold answer.

Rewards run in processes with limits of time and memory (:mod:`.pool`), so the comparison itself has none.
"""

from __future__ import annotations

from pivot_jax.eval.scoring.equality import equal, gold_value
from pivot_jax.eval.scoring.units import Policy
from pivot_jax.rl.rewards.completion import Completion, Extract, answer_of, gold_of


def math(
    item: Completion, *, column: str = "answer", extract: Extract = "boxed", units: Policy = "same"
) -> float | None:
    r"""1 where the final answer equals the gold answer as mathematics, else 0; None where the gold has no value.

    Args:
      column: the gold answer: a value ("20", ``\frac{1}{2}``), or a solution with the value in its last ``\boxed{}``.
      extract: where the answer is, see :func:`.completion.answer_of`. A box that is never closed is no answer.
      units: ``ignore`` | ``same`` | ``require``, see :func:`pivot_jax.eval.scoring.units.agree`.
    """
    gold = gold_value(gold_of(item, column))
    if gold is None:
        return None
    return float(equal(answer_of(item.text, extract), gold, units))
