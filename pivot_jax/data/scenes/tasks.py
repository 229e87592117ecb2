"""Splits of the scenes data set: their purpose, the layouts that they may show, and how their rows are made.

========================  ======  ==========================================================================
split                     folds   a row is
========================  ======  ==========================================================================
caption                   0–4     an image and its caption (stages 0 and 1a)
vqa                       0–4     ``world.turns`` questions and perhaps a description (stage 1b)
stage3                    0–4     the same on other images (stage 3)
preference                5, 6    a prompt with a true and a minimally wrong answer (stage 2)
preference_test           7       the same, unseen layouts and handwriting
probe_train, probe_val    0–6     an image with one large shape, its class (colour × shape) and masks
probe_test                8       the same, unseen layouts and handwriting
test                      9       one short question and its answer, unseen layouts and handwriting
========================  ======  ==========================================================================
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pivot_jax.data.scenes import draw
from pivot_jax.data.scenes.language import DESCRIBE, IN_A_SENTENCE, Balance, caption, wrong_caption
from pivot_jax.data.scenes.world import DIGIT, Scene, World, sample_scene


@dataclass(frozen=True)
class Task:
    kind: str  # caption | conversation | preference | probe | question
    folds: tuple[int, ...]
    held_out_digits: bool = False


TASKS = {
    "caption": Task("caption", (0, 1, 2, 3, 4)),
    "vqa": Task("conversation", (0, 1, 2, 3, 4)),
    "stage3": Task("conversation", (0, 1, 2, 3, 4)),
    "preference": Task("preference", (5, 6)),
    "preference_test": Task("preference", (7,), held_out_digits=True),
    "probe_train": Task("probe", (0, 1, 2, 3, 4, 5, 6)),
    "probe_val": Task("probe", (0, 1, 2, 3, 4, 5, 6)),
    "probe_test": Task("probe", (8,), held_out_digits=True),
    "test": Task("question", (9,), held_out_digits=True),
}


def label_names(world: World) -> tuple[str, ...]:
    """Classes of the classification probe: colour and shape of the one large shape."""
    return tuple(f"{color} {shape}" for color in world.colors for shape in world.shapes)


def _large(scene: Scene) -> list[int]:
    return [i for i, t in enumerate(scene) if t.size == "large" and t.shape != DIGIT]


def _label(world: World, scene: Scene) -> int:
    """Class of the scene's one large shape, -1 where there is not exactly one."""
    large = _large(scene)
    return label_names(world).index(scene[large[0]].short) if len(large) == 1 else -1


def _conversation(world: World, scene: Scene, balance: Balance, rng: random.Random) -> dict[str, Any]:
    """Questions, then sometimes a description. It comes last; otherwise it would answer the questions after it."""
    pairs: list[tuple[str, str]] = []
    for _ in range(world.turns):
        q = balance.pick(scene, rng, frozenset(text.removesuffix(IN_A_SENTENCE) for text, _ in pairs))
        if q is None:
            break
        if q.sentence and rng.random() < world.sentence_share:
            pairs.append((q.text + IN_A_SENTENCE, q.sentence.format(q.answer)))
        else:
            pairs.append((q.text, q.answer))
    if not pairs or rng.random() < world.describe_share:
        pairs.append((DESCRIBE, caption(scene)))
    turns = [{"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair, strict=True)]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {"conversations": json.dumps(turns)}


def _preference(world: World, scene: Scene, balance: Balance, rng: random.Random) -> dict[str, Any]:
    """A third descriptions, a third sentences, a third short answers: two thirds share a prefix with their rival.

    ``world.reasoning_share`` of them are reasoned, with thoughts that describe the image.
    """
    row = _pair(world, scene, balance, rng)
    if world.reasoning_share and rng.random() < world.reasoning_share:
        thoughts = {"chosen": caption(scene), "rejected": wrong_caption(world, scene, rng)}
        row |= {side: f"<think> {thought} </think> {row[side]}" for side, thought in thoughts.items()}
    return row


def _pair(world: World, scene: Scene, balance: Balance, rng: random.Random) -> dict[str, Any]:
    style = rng.choice(("description", "sentence", "short"))
    q = None if style == "description" else balance.pick(scene, rng)
    if q is None:
        wrong = wrong_caption(world, scene, rng)
        return {"prompt": f"<image>\n{DESCRIBE}", "chosen": caption(scene), "rejected": wrong, "kind": "describe"}
    chosen, rejected, text = q.answer, rng.choice(q.wrong), q.text
    if style == "sentence" and q.sentence:
        chosen, rejected, text = q.sentence.format(chosen), q.sentence.format(rejected), text + IN_A_SENTENCE
    return {"prompt": f"<image>\n{text}", "chosen": chosen, "rejected": rejected, "answer": q.answer, "kind": q.kind}


def _question(scene: Scene, balance: Balance, rng: random.Random) -> dict[str, Any]:
    q = balance.pick(scene, rng)
    if q is None:
        return {}
    choices = sorted((q.answer, *q.wrong))
    return {"prompt": f"<image>\n{q.text}", "answer": q.answer, "kind": q.kind, "choices": json.dumps(choices)}


def _text_fields(world: World, kind: str, scene: Scene, balance: Balance, rng: random.Random) -> dict[str, Any]:
    if kind == "caption":
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption(scene)}]
        return {"conversations": json.dumps(turns)}
    if kind == "conversation":
        return _conversation(world, scene, balance, rng)
    if kind == "preference":
        return _preference(world, scene, balance, rng)
    if kind == "question":
        return _question(scene, balance, rng)
    return {}


def make_rows(world: World, split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a split in order: image and instances as PNG in ``BytesIO``, texts, things as JSON, label.

    Row i depends on (world, seed, split) and on the rows before it (the balance of answers), never on time or machine.
    """
    task, balance = TASKS[split], Balance(world)
    digits = draw.digit_samples(task.held_out_digits)
    accept = (lambda scene: len(_large(scene)) == 1) if task.kind == "probe" else None
    rng = random.Random(f"{seed}/{split}")
    pixels = np.random.default_rng([seed, zlib.crc32(split.encode())])
    for index in range(count):
        text: dict[str, Any] = {}
        while not text:
            scene = sample_scene(world, rng, task.folds, digits, accept)
            text = {"kind": task.kind, **_text_fields(world, task.kind, scene, balance, rng)}
            if task.kind == "question" and not text.get("prompt"):
                text = {}
        image, instances = draw.render(world, scene, pixels)
        things = [{**vars(t), "phrase": t.phrase} for t in scene]
        empty = {name: "" for name in ("conversations", "prompt", "chosen", "rejected", "answer", "choices")}
        yield {
            **empty,
            **text,
            "id": f"{split}-{index:06d}",
            "image": draw.png(image),
            "instances": draw.png(instances),
            "things": json.dumps(things),
            "label": _label(world, scene),
        }
