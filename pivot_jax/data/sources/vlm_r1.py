"""VLM-R1: JSON Lines of ``{id, image, conversations}`` with an answer or boxes, as prompts for online RL or for SFT."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import IMAGE, ImageRoot, Mapped, Source, listed, root_of, rooted
from pivot_jax.data.sources.rows import need, open_rows
from pivot_jax.errors import RowError
from pivot_jax.words import counted

_KNOWN = ("id", "image", "conversations")
_ANSWER_TAG = re.compile(r"</?answer>")
_FENCED = re.compile(r"```(?:json)?(.*?)```", re.DOTALL)


def vlm_r1(path: Any, image_root: str | ImageRoot | None = None, suffix: str = "", answered: bool = False) -> Source:
    """VLM-R1's rows as prompts, or ``answered`` with the answer as a turn; ``suffix`` is added to every question.

    The first turn is the question, the second the answer: text, a number, a box ``[x1, y1, x2, y2]``, or a list of
    ``{"bbox_2d", "label"}``. Images come before the text, wherever the question has ``<image>``. ``extra["answer"]``
    and ``extra["solution"]`` are the answer as text without ``<answer>`` tags, ``extra["boxes"]`` its boxes in pixels
    where it consists of boxes; the other fields go to ``Example.extra``.
    """
    root = root_of(path, image_root)

    def convert(row: dict[str, Any], row_id: str) -> Example:
        return vlm_r1_example(row, row_id, root, suffix, answered)

    return Mapped(open_rows(path), convert, f"vlm_r1|{root}|{suffix}|{answered}")


def vlm_r1_example(
    row: dict[str, Any], row_id: str, image_root: ImageRoot, suffix: str = "", answered: bool = False
) -> Example:
    """One row of VLM-R1 → Example.

    Raises:
      RowError: not one question and one answer.
    """
    turns = need(row, "conversations", (list, tuple), row_id)
    if len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        raise RowError(
            row_id, f"'conversations' must hold a question and its answer, it holds {counted(len(turns), 'turn')}"
        )
    question, value = need(turns[0], "value", str, row_id), turns[1].get("value")
    if value is None:
        raise RowError(row_id, "the answer's 'value' is missing")
    images = rooted(listed(row.get("image")), image_root, row_id)
    text = f"{IMAGE}\n" * len(images) + question.replace(IMAGE, "").strip() + suffix
    answer = _ANSWER_TAG.sub("", value).strip() if isinstance(value, str) else json.dumps(value)
    extra = {key: item for key, item in row.items() if key not in _KNOWN} | {"answer": answer, "solution": answer}
    if boxes := boxes_of(value if not isinstance(value, str) else answer):
        extra["boxes"] = boxes
    reply = (Message("assistant", answer),) if answered else ()
    return Example(row_id, (Message("user", text), *reply), images, extra=extra)


def boxes_of(value: Any) -> list[list[float]]:
    """Boxes ``[x1, y1, x2, y2]`` of an answer that consists of them; [] where it does not.

    Args:
      value: four numbers, ``{"bbox_2d": four numbers}``, a list of either, or that as JSON text (perhaps in a fence).
    """
    if isinstance(value, str):
        fenced = _FENCED.search(value)
        try:
            value = json.loads(fenced.group(1) if fenced else value)
        except (ValueError, RecursionError):
            return []
    found = [_box(item) for item in (value if isinstance(value, list) and _box(value) is None else [value])]
    return [box for box in found if box is not None] if None not in found else []


def _box(value: Any) -> list[float] | None:
    """Four numbers that enclose an area, or None."""
    if isinstance(value, dict):
        value = value.get("bbox_2d")
    numbers = isinstance(value, list) and len(value) == 4 and all(type(x) in (int, float) for x in value)
    if not numbers or not all(map(math.isfinite, value)) or value[0] >= value[2] or value[1] >= value[3]:
        return None
    return value
