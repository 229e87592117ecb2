"""The responses of one run as arrays: what the scheme needs of each, without its text.

Letters: n responses, w reflection words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.rl.rewards.completion import Completion, answer_of
from pivot_jax.rl.rewards.table import REWARDS
from pivot_jax.rl.scheme import reflection
from pivot_jax.rl.scheme.logs import Response
from pivot_jax.rl.scheme.reflection import CHANGES, WORDS

RECORDED = "recorded"
# Rewards that compare a text with the right answer. Mathematics is read from the final answer, boxed or not.
JUDGES: Mapping[str, Callable[..., float | None]] = {
    "math": partial(REWARDS["math"], extract="final"),
    **{name: REWARDS[name] for name in ("maye_math", "choice", "number", "exact", "text", "box")},
}
EXAMPLES = 200  # texts that are kept of a run, at most, the last ones
_GOLD_COLUMNS = ("answer", "solution", "chosen")  # in which rewards look for the right answer


@dataclass(frozen=True)
class Scoring:
    """Which responses are correct.

    Attributes:
      judge: ``recorded``: by the score in the log; or one of :data:`JUDGES`, which compares the text with the right
        answer.
      above: a score above it is correct.

    Raises:
      UserError: an unknown judge.
    """

    judge: str = RECORDED
    above: float = 0.5

    def __post_init__(self) -> None:
        if self.judge not in (RECORDED, *JUDGES):
            known = ", ".join((RECORDED, *JUDGES))
            raise UserError(f"judge '{self.judge}' is unknown (there are: {known})")

    def score(self, text: str, gold: Any, recorded: float | None = None) -> float | None:
        """Score of a text; None where there is nothing to judge it by."""
        if self.judge == RECORDED:
            return recorded
        if gold is None:
            return None
        item = Completion("", "", text, columns=dict.fromkeys(_GOLD_COLUMNS, gold))
        return JUDGES[self.judge](item)

    def accepts(self, answer: str, gold: Any) -> bool:
        """Whether the bare text of an answer is right, by mathematics where the log's own scores are taken."""
        judge = self if self.judge != RECORDED else replace(self, judge="math")
        return (judge.score(rf"\boxed{{{answer}}}", gold) or 0.0) > self.above

    def is_right(self, one: Response) -> bool:
        """Whether a response is correct.

        Raises:
          UserError: there is nothing to judge it by; the message says how to name it.
        """
        score = self.score(one.text, one.gold, one.correct)
        if score is not None:
            return score > self.above
        where = f"question '{one.question:.60}'"
        if self.judge == RECORDED:
            raise UserError(
                f"{where}: the log does not say whether its response is correct; judge it with --judge math (or "
                "another reward), or name the column with --columns correct=COLUMN"
            )
        raise UserError(
            f"{where}: there is no right answer that --judge {self.judge} can read; name its column with "
            "--columns gold=COLUMN"
        )


DEFAULT = Scoring()


@dataclass(frozen=True)
class Responses:
    """The responses of one run.

    Attributes:
      questions: texts that tell the questions apart. question: int [n], indices into them.
      groups: (split, setting) that occur. group: int [n], indices into them.
      step: float [n]. correct: bool [n].
      tokens: int [n], 0: unknown. words: int [n]. unit: ``tokens`` or ``words``, of ``length``.
      truncated: float [n], 0 or 1; NaN: unknown.
      substrings, whole: int [n, w], reflection words as the paper counts them, and as whole words.
      position: float [n], of the first whole word in the text, 0..1; NaN: none.
      repetition: float [n], share of repeated 4-grams.
      change: int [n], indices into ``reflection.CHANGES``.
      answer: int [n], the same for responses with the same answer.
      examples: the last responses with their texts.
      judging_s: seconds that judging took.
    """

    questions: tuple[str, ...]
    question: np.ndarray
    groups: tuple[tuple[str, str], ...]
    group: np.ndarray
    step: np.ndarray
    correct: np.ndarray
    tokens: np.ndarray
    words: np.ndarray
    unit: str
    truncated: np.ndarray
    substrings: np.ndarray
    whole: np.ndarray
    position: np.ndarray
    repetition: np.ndarray
    change: np.ndarray
    answer: np.ndarray
    examples: tuple[tuple[Response, bool], ...] = field(repr=False)
    judging_s: float = 0.0

    def __len__(self) -> int:
        return len(self.question)

    @property
    def length(self) -> np.ndarray:
        """Length of each response in ``unit``: int [n]."""
        return self.tokens if self.unit == "tokens" else self.words

    @property
    def reflects(self) -> np.ndarray:
        """Whether a response has a reflection word, whole, and is no repetition loop: bool [n]."""
        return self.whole.any(axis=1) & ~self.loops

    @property
    def loops(self) -> np.ndarray:
        """Whether a response repeats itself so much that its words say nothing: bool [n]."""
        return self.repetition > reflection.LOOP


def collect(responses: Iterable[Response], scoring: Scoring) -> Responses:
    """Reads all responses of a run, in one pass.

    Raises:
      UserError: none, or one that cannot be judged; the message says how.
    """
    codes = _Codes()
    rows: list[tuple[Any, ...]] = []
    examples: list[tuple[Response, bool]] = []
    judging = 0.0
    for one in responses:
        began = time.perf_counter()
        correct = scoring.is_right(one)
        judging += time.perf_counter() - began
        found = reflection.words(one.text)
        change = reflection.UNKNOWN
        if found.position == found.position and one.gold is not None:
            change = reflection.change(one.text, found.position, correct, partial(scoring.accepts, gold=one.gold))
        rows.append(
            (
                codes("question", one.question), codes("group", (one.split, one.setting)), one.step, correct,
                one.tokens, len(one.text.split()), np.nan if one.truncated is None else one.truncated,
                found.substrings, found.whole, found.position, reflection.repetition(one.text),
                CHANGES.index(change), codes("answer", answer_of(one.text, "final")),
            )
        )  # fmt: skip
        examples.append((one, correct))
        if len(examples) > 2 * EXAMPLES:
            del examples[:EXAMPLES]
    if not rows:
        raise UserError("no responses")
    columns = list(zip(*rows, strict=True))
    question, group, step, right, tokens, words, truncated, substrings, whole, position, repeated, changes, answer = (
        columns
    )
    return Responses(
        questions=codes.names("question"),
        question=np.asarray(question, np.int32),
        groups=codes.names("group"),
        group=np.asarray(group, np.int16),
        step=np.asarray(step, np.float64),
        correct=np.asarray(right, bool),
        tokens=np.asarray(tokens, np.int32),
        words=np.asarray(words, np.int32),
        unit="tokens" if all(tokens) else "words",
        truncated=np.asarray(truncated, np.float32),
        substrings=np.asarray(substrings, np.uint16).reshape(-1, len(WORDS)),
        whole=np.asarray(whole, np.uint16).reshape(-1, len(WORDS)),
        position=np.asarray(position, np.float32),
        repetition=np.asarray(repeated, np.float32),
        change=np.asarray(changes, np.int8),
        answer=np.asarray(answer, np.int32),
        examples=tuple(examples[-EXAMPLES:]),
        judging_s=judging,
    )


class _Codes:
    """Numbers for values, from 0, by what they are of."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Any, int]] = {}

    def __call__(self, kind: str, value: Any) -> int:
        known = self._known.setdefault(kind, {})
        return known.setdefault(value, len(known))

    def names(self, kind: str) -> tuple[Any, ...]:
        return tuple(self._known[kind])
