"""Endless tasks: exact answers, boxes of the pixels, repeatable by index, and held-out streams that share nothing."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from pivot_jax.data.scenes import World, draw
from pivot_jax.data.scenes.stream import FORM, SPLITS, TASKS
from pivot_jax.data.scenes.world import Thing, fold
from pivot_jax.data.sources import read, read_all
from pivot_jax.errors import UserError
from tests.data.scenes.test_scenes import named, solve

FREE = {"image_size": 48, "grid": 0, "max_objects": 5, "max_overlap": 0.9, "digit_share": 0.3, "noise": 0.0}


def stream(**entry):
    return read({"format": "scenes_tasks", **entry})


def scene_of(example) -> tuple[Thing, ...]:
    return tuple(Thing(**{k: v for k, v in t.items() if k != "phrase"}) for t in example.extra["things"])


def question_of(example) -> str:
    return example.messages[0].content.removeprefix("<image>\n")


def test_an_index_always_has_the_same_example():
    a, b = stream(seed=5), stream(seed=5)
    for index in (9, 0, 1_000_000_007, 3):
        x, y = a[index], b[index]
        assert (x.id, x.messages, x.extra) == (y.id, y.messages, y.extra)
        assert np.array_equal(x.images[0], y.images[0]) and x.images[0].dtype == np.uint8
    other = stream(seed=6)
    assert sum(a[i].extra["things"] == other[i].extra["things"] for i in range(50)) <= 1
    assert a.fingerprint != other.fingerprint and a.fingerprint == b.fingerprint
    turned, straight = ((("compare", 1.0), ("count", 1.0)), (("count", 1.0), ("compare", 1.0)))
    assert stream(tasks=turned).fingerprint != stream(tasks=straight).fingerprint  # other examples
    with pytest.raises(IndexError):
        a[-1]


@pytest.mark.parametrize("world", [{}, FREE])
def test_answers_are_those_of_the_scene(world):
    """Against a solver that reads things and question, not the code that asked."""
    tasks = tuple((name, 1.0) for name in TASKS if name != "locate")
    source = stream(tasks=tasks, world=world, instructions=False)
    seen = set()
    for index in range(300):
        example = source[index]
        assert solve(scene_of(example), question_of(example)) == example.extra["answer"]
        assert example.extra["answer"] in example.extra["choices"] and "boxes" not in example.extra
        seen.add(example.extra["task"])
    assert seen == set(TASKS) - {"locate"}


@pytest.mark.parametrize("world", [{"noise": 0.0}, FREE])
def test_boxes_are_those_of_the_pixels(world):
    """The box encloses exactly the pixels that the instance map gives to the object, and they have its colour."""
    source, made = stream(tasks=(("locate", 1.0),), world=world), World(**world)
    for index in range(200):
        example = source[index]
        scene, (box,) = scene_of(example), example.extra["boxes"]
        assert json.loads(example.extra["answer"]) == box and "choices" not in example.extra
        name = re.fullmatch(r"Where exactly is the (.+?)\?" + re.escape(FORM["locate"].format(size=made.image_size)),
                            question_of(example))[1]  # fmt: skip
        thing = named(scene, name)
        _, instances = draw.render(made, scene, np.random.default_rng(0))
        ys, xs = np.nonzero(instances == scene.index(thing) + 1)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        size = example.images[0].shape[0]
        assert example.extra["image_size"] == [size, size] == [made.image_size] * 2
        assert 0 <= box[0] < box[2] <= size and 0 <= box[1] < box[3] <= size
        inked = example.images[0][ys, xs].astype(int).mean(0)
        nearest = min(made.colors, key=lambda color: np.abs(inked - draw.COLORS[color]).sum())
        assert nearest == thing.color


def test_the_prompt_says_the_form_of_the_answer():
    for name in TASKS:
        text = question_of(stream(tasks=((name, 1.0),), suffix=" Think.")[0])
        assert text.endswith(FORM[name].format(place="top left", size=32) + " Think.") and "Answer with" in text
    plain = question_of(stream(tasks=(("count", 1.0),), instructions=False)[0])
    assert re.fullmatch(r"How many \w+( things)? are there\?", plain)


def test_shares_of_tasks_and_answers():
    source = stream(tasks=(("count", 3.0), ("compare", 1.0)))
    examples = [source[i] for i in range(600)]
    counts = [e.extra["answer"] for e in examples if e.extra["task"] == "count"]
    assert 410 < len(counts) < 490  # 450 expected, 4 standard deviations
    assert max(Counter(counts).values()) < 0.5 * len(counts) and set(counts) == {"0", "1", "2", "3"}
    first = [question_of(e).split("the ", 1)[1].startswith(e.extra["answer"]) for e in examples
             if e.extra["task"] == "compare"]  # fmt: skip
    assert 0.35 < np.mean(first) < 0.65


@pytest.mark.heavy
def test_held_out_streams_share_no_layout_and_no_handwriting():
    """By construction: other folds of layouts and other samples of digits, whatever the seeds. And so it is."""
    folds = [set(part.folds) for part in SPLITS.values()]
    assert all(not a & b for i, a in enumerate(folds) for b in folds[i + 1 :])
    layouts, digits = {}, {}
    for split, part in SPLITS.items():
        scenes = [scene_of(stream(split=split, seed=seed, world={"digit_share": 0.5})[i])
                  for seed in (0, 1) for i in range(250)]  # fmt: skip
        assert {fold(scene) for scene in scenes} <= set(part.folds)
        layouts[split] = {tuple(sorted(f"{t.phrase} {t.place}" for t in scene)) for scene in scenes}
        digits[split] = {t.sample for scene in scenes for t in scene if t.sample >= 0}
        assert len(layouts[split]) > 250 and len(digits[split]) > 50
    for split in ("validation", "test"):
        assert not layouts["train"] & layouts[split] and not digits["train"] & digits[split]
    assert not layouts["validation"] & layouts["test"]


def test_columns_are_those_of_the_examples():
    for tasks in ((("locate", 1.0),), (("count", 1.0),), (("count", 1.0), ("locate", 1.0))):
        source = stream(tasks=tasks)
        assert set(source.columns) == {name for i in range(30) for name in source[i].extra}


def test_a_part_of_a_stream_is_a_data_set():
    source = stream(sampling="first:20")
    assert len(source) == 20 and source[19].id == stream()[19].id
    with pytest.raises(IndexError):
        source[20]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"tasks": (("cuont", 1.0),)}, "no task 'cuont'.*did you mean 'count'"),
        ({"tasks": (("count", 0),)}, "not a pair"),
        ({"tasks": (("count", float("inf")),)}, "not a pair"),
        ({"tasks": ("count",)}, "not a pair"),
        ({"tasks": ()}, "tasks is empty"),
        ({"tasks": (("count", 1.0), ("count", 2.0))}, "'count' is named twice"),
        ({"split": "tset"}, "no split 'tset'.*did you mean 'test'"),
        ({"world": {"image_sice": 48}}, "no field 'image_sice'.*did you mean 'image_size'"),
        ({"world": {"grid": 7}}, "grid is 7"),
        ({"world": {"image_size": "big"}}, "world.image_size"),
        ({"world": {"max_objects": 1}, "tasks": (("compare", 1.0),)}, "'compare' cannot be asked"),
        ({"sampling": "random:5"}, "has no end; write 'first:N'"),
        ({"sampling": "first:5%"}, "has no end; write 'first:N'"),
        ({"filter": "under30"}, "has no end; leave it out"),
    ],
)
def test_mistakes(entry, words):
    with pytest.raises(UserError, match=words) as caught:
        stream(**entry)
    assert "\n" not in str(caught.value)


def test_nothing_can_follow_a_source_without_an_end():
    one = {"format": "scenes_tasks"}
    with pytest.raises(UserError, match="has no end, so no other source can follow it"):
        read_all((one, one))
    assert len(read_all(({**one, "sampling": "first:3"}, {**one, "sampling": "first:4", "seed": 1}))) == 7
