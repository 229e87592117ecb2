"""Tasks with exact answers about rendered scenes, made as they are needed, without an end."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pivot_jax.config.check import coerce
from pivot_jax.data.sources.base import Endless, Source
from pivot_jax.errors import UserError, suggest


def scenes_tasks(
    tasks: Sequence[tuple[str, float]] = (("count", 1.0), ("compare", 1.0), ("locate", 1.0)),
    split: str = "train",
    seed: int = 0,
    world: Mapping[str, Any] | None = None,
    instructions: bool = True,
    suffix: str = "",
) -> Source:
    """Prompts about fresh scenes, with exact answers: an example for every index, always the same one.

    Args:
      tasks: (name, weight) of ``count``, ``compare`` and ``locate`` (an answer that is a box), and of the other kinds
        of question that scenes have: ``color``, ``shape``, ``place``, ``digit``, ``relation``, ``exists``.
      split: ``train``, ``validation`` or ``test``: no layout of things and no handwritten digit of ``train`` occurs in
        the other two, whatever the seeds; see ``scenes.stream.SPLITS``.
      seed: another seed gives other examples.
      world: fields of ``scenes.World`` that differ from its defaults, such as ``{"image_size": 48, "max_objects": 5}``.
      instructions: the prompt says in which form to answer; False asks as the ``vqa`` split does. That of a box is
        always there. suffix: added to every prompt.

    ``extra``: ``task``, ``answer`` (text), ``choices`` (all answers of that kind, of tasks other than ``locate``),
    ``boxes`` ([[x1, y1, x2, y2]] in pixels, edges of the object's outermost pixels, of ``locate``), ``image_size``
    ([width, height]) and ``things`` (all objects).

    Raises:
      UserError: an unknown task, split or field of the world, a weight that is not above 0, or a world in which a task
        cannot be asked.
    """
    from pivot_jax.data.scenes import World, stream  # imports TFDS and scikit-learn: only for runs that use it

    for task in tasks:
        good = isinstance(task, (list, tuple)) and len(task) == 2 and isinstance(task[0], str)
        if not good or type(task[1]) not in (int, float) or not 0 < task[1] < math.inf:
            raise UserError(f"scenes_tasks: task {task!r} is not a pair (name, weight above 0)")
        if task[0] not in stream.TASKS:
            known = ", ".join(stream.TASKS)
            raise UserError(f"scenes_tasks: no task '{task[0]}' (there are: {known}){suggest(task[0], stream.TASKS)}")
    names = [name for name, _ in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"scenes_tasks: task '{twice[0]}' is named twice")
    if not tasks:
        raise UserError("scenes_tasks: tasks is empty; name at least one, such as (('count', 1.0),)")
    if split not in stream.SPLITS:
        known = ", ".join(stream.SPLITS)
        raise UserError(f"scenes_tasks: no split '{split}' (there are: {known}){suggest(split, stream.SPLITS)}")
    default, own = World(), {}
    fields = [field.name for field in dataclasses.fields(World)]
    for key, value in (world or {}).items():
        if key not in fields:
            raise UserError(
                f"scenes_tasks: world has no field '{key}' (allowed: {', '.join(fields)}){suggest(key, fields)}"
            )
        own[key] = coerce(f"scenes_tasks: world.{key}", value, getattr(default, key))
    made = dataclasses.replace(default, **own)
    weights = {name: float(weight) for name, weight in tasks}
    found = stream.Stream(made, weights, split, seed, instructions, suffix)
    settings = [dataclasses.asdict(made), list(weights.items()), split, seed, instructions, suffix]
    fingerprint = f"scenes_tasks|{json.dumps(settings, sort_keys=True)}"
    return Endless(found.example, f"scenes_tasks/{split}", fingerprint, found.columns)
