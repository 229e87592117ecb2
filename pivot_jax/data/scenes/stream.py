"""Endless tasks with exact answers: the example of an index depends on (world, tasks, split, seed, index) alone.

The prepared splits (:mod:`tasks`) keep answers even by counting what came before. Here nothing comes before: for every
example, several scenes are sampled, and the answer is drawn evenly from those that any of them has.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pivot_jax.data.example import Example, Message
from pivot_jax.data.scenes import draw
from pivot_jax.data.scenes.language import ASK, Question
from pivot_jax.data.scenes.tasks import Task
from pivot_jax.data.scenes.world import Scene, World, sample_scene
from pivot_jax.errors import UserError

# Layouts and handwriting of ``train`` are none of ``validation`` and ``test``. The latter are the folds of the
# prepared splits preference_test and test.
SPLITS = {
    "train": Task("task", (0, 1, 2, 3, 4, 5, 6)),
    "validation": Task("task", (7,), held_out_digits=True),
    "test": Task("task", (9,), held_out_digits=True),
}
LOCATE = "locate"
TASKS: tuple[str, ...] = ("count", "compare", LOCATE, *(kind for kind in ASK if kind not in ("count", "compare")))
# What the prompt says about the form of the answer.
FORM = {
    "color": " Answer with one word.",
    "shape": " Answer with one word.",
    "place": " Answer with a position, such as {place}.",
    "count": " Answer with a number.",
    "digit": " Answer with a number.",
    "relation": " Answer with one word.",
    "compare": " Answer with color and shape.",
    "exists": " Answer with yes or no.",
    LOCATE: " Answer with its box [x1, y1, x2, y2] in pixels of the {size} x {size} image.",
}
POOL, POOLS = 8, 100  # scenes that an answer is drawn from; such draws before a world is taken as unfit for a task


class Stream:
    """Examples by index.

    Args:
      weights: task → weight. split: of :data:`SPLITS`.
      instructions: the prompt says in which form to answer (always for boxes). suffix: ends every prompt.

    Attributes:
      columns: the extra fields of the examples.

    Raises:
      UserError: a task that cannot be asked in this world.
    """

    def __init__(
        self, world: World, weights: Mapping[str, float], split: str, seed: int, instructions: bool, suffix: str
    ):
        self.world, self.split, self.seed = world, split, seed
        self._names, self._weights = list(weights), list(weights.values())
        self._instructions, self._suffix = instructions, suffix
        self._part = SPLITS[split]
        self._digits = draw.digit_samples(self._part.held_out_digits)
        chosen = {"choices": set(weights) != {LOCATE}, "boxes": LOCATE in weights}
        self.columns = ("task", "answer", *(name for name, there in chosen.items() if there), "image_size", "things")
        for name in self._names:
            self._ask(name, random.Random(0))

    def example(self, index: int) -> Example:
        """The example of an index from 0."""
        rng = random.Random(f"{self.seed}/scenes_tasks/{self.split}/{index}")
        task = rng.choices(self._names, self._weights)[0]
        scene, question = self._ask(task, rng)
        pixels = np.random.default_rng([self.seed, zlib.crc32(f"scenes_tasks/{self.split}".encode()), index])
        image, _ = draw.render(self.world, scene, pixels)
        size = self.world.image_size
        extra: dict[str, Any] = {"task": task, "answer": question.answer, "image_size": [size, size]}
        if task == LOCATE:
            extra["boxes"] = [json.loads(question.answer)]
        else:
            extra["choices"] = sorted((question.answer, *question.wrong))
        extra["things"] = [{**vars(thing), "phrase": thing.phrase} for thing in scene]
        form = FORM[task].format(place=self.world.places[0], size=size)
        text = question.text + (form if self._instructions or task == LOCATE else "") + self._suffix
        message = Message("user", f"<image>\n{text}")
        return Example(f"{self.split}-{self.seed}-{index}", (message,), (image,), extra=extra)

    def _ask(self, task: str, rng: random.Random) -> tuple[Scene, Question]:
        """A scene and a question about it."""
        for _ in range(POOLS):
            pool: dict[str, dict[str, list[tuple[Scene, Question]]]] = {}
            for _ in range(POOL):
                scene = sample_scene(self.world, rng, self._part.folds, self._digits)
                for question in _QUESTIONS[task](self.world, scene):
                    pool.setdefault(question.form, {}).setdefault(question.answer, []).append((scene, question))
            if pool:
                answers = pool[rng.choice(sorted(pool))]
                return rng.choice(answers[rng.choice(sorted(answers))])
        raise UserError(
            f"scenes_tasks: '{task}' cannot be asked about the scenes of this world; change max_objects, "
            "digit_share or the shapes, or leave the task out"
        )


def _locate(world: World, scene: Scene) -> list[Question]:
    """Boxes of the things that their colour and shape pick out and that no later thing hides."""
    boxes = [draw.box(world, thing) for thing in scene]
    out = []
    for index, thing in enumerate(scene):
        alone = sum(other.short == thing.short for other in scene) == 1
        if alone and not any(_overlap(boxes[index], later) for later in boxes[index + 1 :]):
            text = f"Where exactly is the {thing.short}?"
            out.append(Question(LOCATE, "color and shape", text, json.dumps(boxes[index]), ()))
    return out


def _overlap(a: list[int], b: list[int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


_QUESTIONS: dict[str, Callable[[World, Scene], list[Question]]] = {**ASK, LOCATE: _locate}
