"""A completion as rewards read it, and the parts of its text that hold the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pivot_jax.eval.scoring.solutions import boxed, final_answer

Extract = Literal["boxed", "answer", "final", "whole"]


@dataclass(frozen=True)
class Completion:
    """One sampled completion of a row's prompt.

    Attributes:
      row_id: id of the data row, for messages.
      prompt: the prompt's text.
      text: the completion without its end token.
      tokens: int32 [t], the end token included where there is one.
      truncated: the limit of tokens was reached, so there is no end token.
      columns: the other fields of the data row, such as ``answer``.
    """

    row_id: str
    prompt: str
    text: str
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    truncated: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)


def gold_of(item: Completion, column: str) -> Any:
    """Value of the row's ``column``; None where the row has none, or an empty one."""
    value = item.columns.get(column)
    return None if isinstance(value, str) and not value.strip() else value


def answer_of(text: str, extract: Extract) -> str:
    r"""The answer's text, "" where there is none.

    Args:
      extract: ``boxed``: the content of the last ``\boxed{}``, see
        :func:`pivot_jax.eval.scoring.solutions.boxed`. ``answer``: the content of the last
        ``<answer>…</answer>``. ``final``: the final answer (``\boxed{}``, after "answer is", or the last line) of what
        ``answer`` gives, or of the whole text where it has no such tags. ``whole``: the text without blanks around it.
    """
    if extract == "boxed":
        return boxed(text)
    if extract == "whole":
        return text.strip()
    tagged = tagged_answer(text)
    if extract == "answer":
        return tagged or ""
    if extract == "final":
        return final_answer(text if tagged is None else tagged)
    raise ValueError(f"extract '{extract}' is unknown; there are boxed, answer, final, whole")


def tagged_answer(text: str) -> str | None:
    """Content of the last ``<answer>…</answer>``, without blanks around it; None where there is none."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end].strip() if start >= 0 else None
