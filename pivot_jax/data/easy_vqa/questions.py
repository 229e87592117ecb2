"""The questions of easy-VQA, read from the installed package, and what they say about their images.

Every image shows one shape in one of eight colors. Questions have no ids of their own; here they are named by split
and position, ``train-17``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pivot_jax.config.paths import INSTALL, located
from pivot_jax.errors import UserError

PACKAGE = "easy_vqa"
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
YES_NO = ("yes", "no")
# Kinds of question: "what color is the shape?", "what shape is present?", "is there a red shape?", "is there not a …?"
KINDS = ("color", "shape", "presence", "absence")
_WORD = re.compile(r"[a-z]+")
_NOT = {"not", "no"}


@dataclass(frozen=True)
class Question:
    """One question about one image."""

    id: str
    image: int  # number of the image in its split
    text: str
    answer: str

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        if self.answer in COLORS:
            return "color"
        if self.answer in SHAPES:
            return "shape"
        return "absence" if _NOT & set(_WORD.findall(self.text)) else "presence"

    @property
    def others(self) -> tuple[str, ...]:
        """The wrong answers of the same kind: colors to a color, shapes to a shape, no to yes."""
        same = next(group for group in (COLORS, SHAPES, YES_NO) if self.answer in group)
        return tuple(answer for answer in same if answer != self.answer)


def read(split: str) -> list[Question]:
    """All questions of ``train`` or ``test``, in the package's order.

    Raises:
      UserError: the package is not installed, or its file is not what version 1.0 has.
    """
    file = located(f"package:{PACKAGE}/data/{split}/questions.json")
    try:
        rows = [
            Question(f"{split}-{index}", int(image), str(text), str(answer))
            for index, (text, answer, image) in enumerate(json.loads(file.read_text(encoding="utf-8")))
        ]
    except (ValueError, TypeError) as error:
        raise _damaged(file, str(error)) from None
    known = {*COLORS, *SHAPES, *YES_NO}
    if wrong := next((row for row in rows if row.answer not in known), None):
        raise _damaged(file, f"question {wrong.id} has the answer '{wrong.answer}'")
    return rows


def image_file(split: str, image: int) -> Path:
    """The PNG file of an image, 64 × 64 pixels. Raises UserError where the package has none."""
    return located(f"package:{PACKAGE}/data/{split}/images/{image}.png")


def facts(questions: Iterable[Question]) -> dict[int, tuple[str, str]]:
    """Image → (color, shape) of what it shows, where its questions tell both; ascending.

    ``what is the blue shape?`` with the answer ``circle`` tells both, ``is there a red shape?`` with ``yes`` a color.

    Raises:
      UserError: questions that contradict each other.
    """
    told: dict[int, tuple[set[str], set[str]]] = {}
    for question in questions:
        words = set(_WORD.findall(question.text))
        affirmed = question.answer in YES_NO and (question.answer == "yes") == (question.kind == "presence")
        if question.kind in ("color", "shape") or affirmed:
            found = words | {question.answer}
            colors, shapes = told.setdefault(question.image, (set(), set()))
            colors |= found & set(COLORS)
            shapes |= found & set(SHAPES)
    if twice := [image for image, both in told.items() if max(map(len, both)) > 1]:
        raise UserError(f"easy-VQA: the questions about image {twice[0]} contradict each other; {INSTALL[PACKAGE]}")
    return {image: (min(c), min(s)) for image, (c, s) in sorted(told.items()) if c and s}


def by_image(questions: Iterable[Question]) -> Mapping[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for question in questions:
        found.setdefault(question.image, []).append(question)
    return found


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file} is not that of easy-VQA 1.0 ({reason}); {INSTALL[PACKAGE]}")
