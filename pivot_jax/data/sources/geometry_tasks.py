"""Geometry questions with whole numbers as answers, made as they are needed, without an end."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Collection, Sequence

import numpy as np

from pivot_jax.data import figures
from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import Endless, Source
from pivot_jax.errors import UserError, suggest

ANSWERS = ("none", "plain", "worked", "mixed")
COLUMNS = ("task", "answer", "working")


def geometry_tasks(
    questions: Sequence[str] = tuple(figures.QUESTIONS),
    split: str = "train",
    seed: int = 0,
    grid: int = 5,
    size: int = 40,
    answers: str = "none",
    suffix: str = "",
) -> Source:
    r"""Prompts about fresh figures (rectangles, right triangles, L-shapes) on a lattice, each index always the same.

    Args:
      questions: kinds, evenly: ``area``, ``perimeter``, ``sides``. Of each kind the answers are drawn evenly too.
      split: ``train``, ``validation`` or ``test``; no layout of one occurs in another.
      seed: another seed gives other examples.
      grid: unit squares along each side of the image. size: pixels of it.
      answers: ``none``: prompts only. For SFT: ``plain``: ``\boxed{12}``; ``worked``:
        ``<think>4 x 3 = 12</think>\boxed{12}``; ``mixed``: either, half of the rows each.
      suffix: added to every prompt.

    ``extra``: ``task``, ``answer`` (text), ``working``.

    Raises:
      UserError: an unknown question, split or form of answer, or a size that is no lattice.
    """
    _known("split", split, figures.SPLITS)
    _known("answers", answers, ANSWERS)
    for one in questions:
        _known("question", one, figures.QUESTIONS)
    if not questions or grid < 2 or size < 4 * grid:
        raise UserError(
            f"geometry_tasks: {len(questions)} questions, grid {grid}, size {size}; it takes at least one question, a "
            "grid of 2 and 4 pixels for each unit"
        )
    tasks = _Tasks(tuple(questions), split, seed, grid, size, answers, suffix)
    settings = json.dumps([list(questions), split, seed, grid, size, answers, suffix])
    return Endless(tasks.example, f"geometry_tasks/{split}", f"geometry_tasks|{settings}", COLUMNS)


def _known(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise UserError(f"geometry_tasks: no {name} '{value}' (there are: {', '.join(known)}){suggest(value, known)}")


class _Tasks:
    def __init__(
        self, questions: tuple[str, ...], split: str, seed: int, grid: int, size: int, answers: str, suffix: str
    ):
        self.split, self.seed, self.grid, self.size, self.answers, self.suffix = (
            split,
            seed,
            grid,
            size,
            answers,
            suffix,
        )
        self.pools: dict[str, dict[int, list[figures.Problem]]] = {name: {} for name in questions}
        for layout in figures.layouts(grid, split):
            for one in figures.problems(layout):
                if one.kind in self.pools:
                    self.pools[one.kind].setdefault(one.answer, []).append(one)

    def example(self, index: int) -> Example:
        """The example of an index from 0."""
        name = f"{self.seed}/geometry_tasks/{self.split}/{index}"
        rng = random.Random(name)
        by_answer = self.pools[rng.choice(tuple(self.pools))]
        problem = rng.choice(by_answer[rng.choice(sorted(by_answer))])
        pixels = np.random.default_rng(zlib.crc32(name.encode()))
        image = figures.render(problem.layout, self.grid, self.size, rng, pixels)
        messages = [Message("user", f"<image>\n{problem.text}{self.suffix}")]
        if self.answers != "none":
            worked = self.answers == "worked" or (self.answers == "mixed" and rng.random() < 0.5)
            working = f"<think>{problem.working}</think>" if worked else ""
            messages.append(Message("assistant", f"{working}\\boxed{{{problem.answer}}}"))
        extra = {"task": problem.kind, "answer": str(problem.answer), "working": problem.working}
        return Example(f"{self.split}-{self.seed}-{index}", tuple(messages), (image,), extra=extra)
