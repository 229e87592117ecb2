"""Scenes: a built-in data set of rendered images (shapes, real handwritten digits) with texts and masks."""

from pivot_jax.data.scenes.builder import (
    DEFAULT_SIZES,
    ProbeSplit,
    Scenes,
    open_split,
    prepare,
    probe_split,
    scenes_config,
    things,
)
from pivot_jax.data.scenes.draw import class_mask, render
from pivot_jax.data.scenes.tasks import TASKS, label_names, make_rows
from pivot_jax.data.scenes.world import World

__all__ = [
    "DEFAULT_SIZES",
    "TASKS",
    "ProbeSplit",
    "Scenes",
    "World",
    "class_mask",
    "label_names",
    "make_rows",
    "open_split",
    "prepare",
    "probe_split",
    "render",
    "scenes_config",
    "things",
]
