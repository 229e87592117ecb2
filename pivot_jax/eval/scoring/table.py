"""All scorers by name: what ``--scorer`` takes, and what a result says it was scored by."""

from __future__ import annotations

from pivot_jax.errors import UserError, suggest
from pivot_jax.eval.scoring import letters, math, option_readers, scorers, short, yes_no
from pivot_jax.eval.scoring.scorers import Scorer

SCORERS: dict[str, Scorer] = {
    **scorers.SCORERS,
    **math.SCORERS,
    **yes_no.SCORERS,
    **short.SCORERS,
    **option_readers.SCORERS,
    **letters.SCORERS,
}


def find(name: str) -> Scorer:
    """The scorer of that name.

    Raises:
      UserError: there is none; the message lists the names.
    """
    if name not in SCORERS:
        raise UserError(f"scorer '{name}' is unknown; there are {', '.join(SCORERS)}{suggest(name, SCORERS)}")
    return SCORERS[name]
