"""Scorers of questions that are nobody's benchmark."""

from __future__ import annotations

from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, exact, strict_letter


def choice_or_exact(answer: str, gold: Gold) -> Verdict:
    """Our own: ``strict_letter`` where the question has options, else ``exact``."""
    return strict_letter(answer, gold) if gold.choices else exact(answer, gold)


SCORERS: dict[str, Scorer] = {"choice_or_exact": choice_or_exact}
