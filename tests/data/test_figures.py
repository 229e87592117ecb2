"""Geometry questions: answers against the outline, images against the area, and splits without a common layout."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from pivot_jax.data import figures, sources
from pivot_jax.errors import UserError

GRID = 5


def shoelace(corners):
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(x * v - u * y for (x, y), (u, v) in pairs)) / 2


def around(corners):
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return sum(np.hypot(u - x, v - y) for (x, y), (u, v) in pairs)


def test_answers_are_those_of_the_outline():
    kinds = Counter()
    for layout in figures.layouts(GRID, "test"):
        corners = figures.outline(layout)
        assert all(0 <= x <= GRID and 0 <= y <= GRID for x, y in corners)
        truth = {"area": shoelace(corners), "perimeter": around(corners), "sides": len(corners)}
        for one in figures.problems(layout):
            assert one.answer == pytest.approx(truth[one.kind]), layout
            assert "=" not in one.working or one.working.endswith(f"= {one.answer}")
            kinds[one.kind, layout.figure] += 1
    assert len(kinds) == 8 and min(kinds.values()) > 10


def test_the_image_shows_the_figure():
    for layout in list(figures.layouts(GRID, "validation"))[::40]:
        image = figures.render(layout, GRID, 80, random.Random(0), np.random.default_rng(0)).astype(int)
        filled = (image.max(-1) - image.min(-1)) > 25  # colour, which neither paper nor lattice has
        assert filled.mean() * GRID**2 == pytest.approx(shoelace(figures.outline(layout)), abs=0.9), layout


def test_splits_share_no_layout_and_every_turn_occurs():
    of = {split: set(figures.layouts(GRID, split)) for split in figures.SPLITS}
    everything = set().union(*of.values())
    assert sum(map(len, of.values())) == len(everything) == 225 + 900 + 1600
    assert len({tuple(figures.outline(one)) for one in everything}) == len(everything)
    assert all({one.turn for one in layouts} == {0, 1, 2, 3} for layouts in of.values())


def test_prompts_and_rows_with_answers():
    prompts = sources.read({"format": "geometry_tasks", "suffix": " Think first."})
    again = sources.read({"format": "geometry_tasks", "suffix": " Think first."})
    assert (prompts[7].images[0] == again[7].images[0]).all() and prompts[7].extra == again[7].extra
    assert prompts[7].images[0].shape == (40, 40, 3) and prompts[7].messages[0].content.endswith(" Think first.")
    mixed = sources.read({"format": "geometry_tasks", "answers": "mixed", "sampling": "first:300"})
    said = [mixed[index].messages[-1].content for index in range(300)]
    assert all(text.endswith(f"\\boxed{{{mixed[index].extra['answer']}}}") for index, text in enumerate(said))
    assert 100 < sum(text.startswith("<think>") for text in said) < 200
    answers = Counter(mixed[index].extra["answer"] for index in range(300) if mixed[index].extra["task"] == "area")
    assert len(answers) > 12 and max(answers.values()) < 20  # no answer is worth guessing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tests"}, "no split 'tests' .*did you mean 'test'"),
        ({"questions": ("areas",)}, "no question 'areas' .*did you mean 'area'"),
        ({"answers": "short"}, "no answers 'short'"),
        ({"grid": 1}, "grid 1"),
        ({"size": 10}, "size 10"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        sources.read({"format": "geometry_tasks"} | options)
