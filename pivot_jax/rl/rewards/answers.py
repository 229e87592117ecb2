"""Short answers: an option's letter, a number, a text. 1 where the answer is right, else 0; None without a gold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.scorers import Gold, gold_letter
from pivot_jax.eval.scoring.values import LONGEST, read_number
from pivot_jax.rl.rewards.completion import Completion, Extract, answer_of, gold_of

NORMALISED = {"plain": parse.plain, "words": parse.normalise, "evalai": parse.evalai}


def choice(
    item: Completion, *, column: str = "answer", choices_column: str = "choices", extract: Extract = "final"
) -> float | None:
    """Multiple choice; the answer must name one option (:func:`pivot_jax.eval.scoring.parse.strict_letter`).

    Args:
      column: the right option's letter or text.
      choices_column: texts of the options in the order of their letters. Without them only letters are read.
    """
    gold = gold_of(item, column)
    if gold is None:
        return None
    choices = tuple(map(str, item.columns.get(choices_column) or ()))
    answer = answer_of(item.text, extract)
    named = parse.strict_letter(answer, choices or len(parse.LETTERS)) if len(answer) <= LONGEST else ""
    return float(named == gold_letter(Gold((str(gold).strip(),), choices)) != "")


def number(
    item: Completion,
    *,
    column: str = "answer",
    extract: Extract = "final",
    relative: float = 0.0,
    absolute: float = 1e-6,
) -> float | None:
    """A number within a tolerance: \\|answer - gold\\| at most ``absolute + relative * |gold|``.

    The answer is one number, with words around it or not, or an arithmetic expression
    (:func:`pivot_jax.eval.scoring.values.evaluate`); an answer with several numbers is wrong. The gold may be a list:
    any of its numbers.
    """
    golds = [value for value in map(read_number, _texts(gold_of(item, column))) if value is not None]
    if not golds:
        return None
    value = read_number(answer_of(item.text, extract))
    return float(value is not None and any(abs(value - gold) <= absolute + relative * abs(gold) for gold in golds))


def exact(item: Completion, *, column: str = "answer", extract: Extract = "final") -> float | None:
    """The answer is the gold, or one of a list of golds, character by character. Blanks around them do not count."""
    golds = _texts(gold_of(item, column))
    return float(answer_of(item.text, extract).strip() in [gold.strip() for gold in golds]) if golds else None


def text(
    item: Completion,
    *,
    column: str = "answer",
    extract: Extract = "final",
    gold: Extract = "whole",
    normalise: Literal["plain", "words", "evalai"] = "words",
) -> float | None:
    """As :func:`exact`, with both normalised.

    Args:
      gold: how the column is read; ``final`` where it has worked solutions, such as MMPR's chosen answers.
      normalise: ``plain``: lower case, without blanks and full stops at the end. ``words``: lower case, without any
        punctuation. ``evalai``: VQA's normalisation (punctuation, number words, articles, contractions).
    """
    if normalise not in NORMALISED:
        raise ValueError(f"normalise '{normalise}' is unknown; there are {', '.join(NORMALISED)}")
    clean = NORMALISED[normalise]
    golds = [clean(answer_of(value, gold)) for value in _texts(gold_of(item, column))]
    answer = clean(answer_of(item.text, extract))
    return float(answer != "" and answer in golds) if golds else None


def _texts(gold: Any) -> list[str]:
    """A gold value, or a list of them, as texts; those that are empty are left out."""
    values = [gold] if isinstance(gold, str) or not isinstance(gold, Sequence) else list(gold)
    return [str(value) for value in values if value is not None and str(value).strip()]
