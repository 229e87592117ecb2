"""The score of a rule that guesses, and beside it the score in which a guess is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from pivot_jax.eval.scoring.aggregate import Aggregate, Scored, Summary, accuracy, scores_of


def _with_and_without(rows: Sequence[Scored], seed: int) -> Summary:
    kept = [0.0 if row.verdict.guessed else float(row.verdict) for row in rows]
    without = {"without_guesses": accuracy(kept, seed=seed)}
    return Summary("accuracy", accuracy(scores_of(rows), seed=seed), without)


WITH_GUESSES = Aggregate(_with_and_without)
