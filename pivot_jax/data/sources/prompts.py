"""Any source as prompts for online RL: rows that end with a question, with their answers among the extra fields."""

from __future__ import annotations

from dataclasses import replace

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import Endless, RowByRow, Source
from pivot_jax.errors import RowError


def prompt_example(example: Example) -> Example:
    """The example up to its last question.

    The last assistant turn of a conversation, or the chosen answer of a preference row, becomes ``extra["answer"]``,
    unless the row has an answer among its fields. Of a preference row, ``extra`` holds ``chosen`` and ``rejected`` too.

    Raises:
      RowError: there is no question.
    """
    messages, answer, extra = example.messages, example.chosen, dict(example.extra)
    if messages and messages[-1].role == "assistant":
        messages, answer = messages[:-1], messages[-1].content
    if example.chosen is not None:
        extra |= {"chosen": example.chosen, "rejected": example.rejected}
    if not messages or messages[-1].role != "user":
        last = f"it ends with a {messages[-1].role} turn" if messages else "it has no turns"
        raise RowError(example.id, f"a prompt ends with a user turn; {last}")
    if answer is not None and extra.get("answer") is None:
        extra["answer"] = answer
    return replace(example, messages=messages, chosen=None, rejected=None, extra=extra)


class Prompts(RowByRow):
    """A source's examples as prompts, see :func:`prompt_example`."""

    def __init__(self, source: Source):
        self.source, self.name = source, source.name
        self.fingerprint = f"{source.fingerprint}|prompts" if source.fingerprint else ""

    def __getitem__(self, index: int) -> Example:
        return prompt_example(self.source[index])


def prompts(source: Source) -> Source:
    """The source's rows as prompts; one without an end consists of prompts already."""
    return source if isinstance(source, Endless) else Prompts(source)
