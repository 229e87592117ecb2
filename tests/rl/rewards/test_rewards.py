"""The built-in rewards, against hand-computed values and a brute-force overlap."""

from __future__ import annotations

import math as numbers

import numpy as np
import pytest

from pivot_jax.rl.rewards.answers import choice, exact, number, read_number, text
from pivot_jax.rl.rewards.boxes import box, iou, read_box
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.formats import format
from pivot_jax.rl.rewards.language import language
from pivot_jax.rl.rewards.length import cosine_length, soft_overlong
from pivot_jax.rl.rewards.repetition import repetition


def item(words: str, tokens=(), truncated: bool = False, **columns) -> Completion:
    return Completion("0", "", words, np.array(tokens, np.int32), truncated, columns)


@pytest.mark.parametrize(
    ("words", "answer", "choices", "wanted"),
    [
        ("B", "B", (), 1),
        ("The answer is B.", "B", (), 1),
        ("<think>A or B?</think><answer>(B)</answer>", "B", (), 1),
        (r"so \boxed{B}", "B", ("red", "blue"), 1),
        ("blue", "B", ("red", "blue"), 1),
        ("B", "blue", ("red", "blue"), 1),
        ("C", "B", ("red", "blue"), 0),
        ("Apples", "A", (), 0),  # names no letter
        ("", "A", (), 0),
        ("answer" + " " * 5000, "A", (), 0),
    ],
)
def test_choice(words, answer, choices, wanted):
    assert choice(item(words, answer=answer, choices=choices)) == wanted


def test_answers_without_a_gold():
    assert [reward(item("3")) for reward in (choice, number, exact, text, box)] == [None] * 5


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("12", 12), ("There are 3 cubes.", 3), ("x = -2.5 cm", -2.5), ("1,234", 1234), ("12%", 0.12), ("3/4", 0.75),
        (r"\frac{1}{4}", 0.25), ("−7", -7), ("2 or 3", None), ("none", None), ("nan", None), ("inf", None),
        ("9" * 5000, None), ("1e999", None),
    ],
)  # fmt: skip
def test_read_number(words, wanted):
    assert read_number(words) == wanted


def test_number_tolerance():
    row = dict(answer="100")
    assert number(item("100.0000001", **row)) == 1
    assert [number(item(x, **row), relative=0.05) for x in ("95", "94.9", "105", "105.1")] == [1, 0, 1, 0]
    assert [number(item(x, **row), absolute=2.0) for x in ("98", "97.9")] == [1, 0]
    assert number(item("3", answer=[1, 3])) == 1
    assert number(item("3", answer="three")) is None


def test_exact_and_text():
    assert exact(item(" Red \n", answer="Red")) == 1
    assert exact(item("red", answer="Red")) == 0
    assert exact(item("red", answer=["Red", "red"])) == 1
    assert text(item("It's RED!", answer="its red")) == 1
    assert text(item("Red.", answer="red"), normalise="plain") == 1
    assert text(item("a red ball", answer="red ball"), normalise="evalai") == 1
    assert text(item("a red ball", answer="red ball"), normalise="words") == 0
    assert text(item("!", answer="?")) == 0  # nothing is left of the answer
    worked = {"chosen": "The bars show 4 and 3.\nFinal answer: 7."}
    found = [text(item(x, **worked), column="chosen", gold="final") for x in ("So it is 7\n\n7", "Answer: 8")]
    assert found == [1, 0]


def test_box_overlap_by_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, two = (np.sort(rng.integers(0, 20, (2, 2)), axis=0).ravel().tolist() for _ in range(2))
        grids = []
        for x1, y1, x2, y2 in (one, two):
            grids.append(np.zeros((20, 20), bool))
            grids[-1][y1:y2, x1:x2] = True
        union = (grids[0] | grids[1]).sum()
        wanted = (grids[0] & grids[1]).sum() / union if all(grid.any() for grid in grids) else 0.0
        assert iou(tuple(one), tuple(two)) == pytest.approx(wanted)


def test_box():
    row = dict(box=[10, 20, 110, 220], image_size=(1000, 500), resized_size=(500, 250))
    assert box(item("<answer>[10, 20, 110, 220]</answer>", **row)) == 1
    assert box(item("[0,0,1,1] then (10,20),(110,220)", **row)) == 1  # the last one
    assert box(item('{"bbox_2d": [10, 20, 110, 120]}', **row)) == pytest.approx(0.5)
    assert box(item("[10, 20, 110, 120]", **row), threshold=0.5) == 1
    assert box(item("[10, 20, 110, 119]", **row), threshold=0.5) == 0
    assert box(item("[110, 220, 10, 20]", **row)) == 0  # corners are swapped
    assert box(item("nothing", **row)) == 0
    # The same box in other coordinates. Compared without mapping them, the overlap is wrong.
    assert box(item("[5, 10, 55, 110]", **row)) < 0.3
    assert box(item("[5, 10, 55, 110]", **row), coordinates="resized") == pytest.approx(1)
    assert box(item("[10, 40, 110, 440]", **row), coordinates="thousandths") == pytest.approx(1)
    assert box(item("[.01, .04, .11, .44]".replace("[.", "[0.").replace(" .", " 0."), **row), coordinates="unit") == (
        pytest.approx(1)
    )
    with pytest.raises(ValueError, match=r"column 'resized_size' is None; it must be \(width, height\)"):
        box(item("[1, 2, 3, 4]", box=[1, 2, 3, 4], image_size=(9, 9)), coordinates="resized")
    assert read_box("[" + " " * 100_000) is None


FORMATS = {
    "<think>a</think><answer>b</answer>": ("think_answer", "think", "maye"),
    "<think>a</think>\n<answer>b</answer>\n": ("think_answer", "think", "maye"),
    "<think>a</think><answer>b</answer> more": ("think", "maye"),
    "<think>a</think><answer>b</answer><answer>c</answer>": ("think", "maye"),
    "x <think>a</think> b": ("maye",),
    "<think>a</think>": ("maye",),
    "<think>a</think> b <think>c</think>": (),
    r"<think>\boxed{1}</think> \boxed{2}": ("think", "think_boxed", "maye"),
    r"<think>\boxed{1}</think> 2": ("think", "boxed", "maye"),
    r"\boxed{2}": ("boxed",),
    r"\boxed{2": (),
    "": (),
}


@pytest.mark.parametrize("words", FORMATS)
def test_format(words):
    styles = ("think_answer", "think", "think_boxed", "boxed", "maye")
    assert tuple(style for style in styles if format(item(words), style=style)) == FORMATS[words]


def test_language():
    assert language(item("The answer is π ∈ ℝ, 20 cm²")) == 0
    assert language(item("abяъ"), scale=0.2) == pytest.approx(-0.1)
    assert language(item("答案")) == pytest.approx(-0.1)
    assert language(item("答案はab"), scripts=("CJK", "HIRAGANA")) == pytest.approx(-0.04)
    assert language(item("12 + 3 = 15")) == language(item("")) == 0


def test_soft_overlong_without_a_buffer():
    assert [soft_overlong(item("", range(n)), max_length=4, buffer=0) for n in (4, 5)] == [0, -1]


def test_repetition_of_words():
    assert repetition(item("so so so so"), n=2, unit="words", penalty=-0.5) == pytest.approx(-0.5 * 2 / 3)


@pytest.mark.parametrize("length", [0, 10, 50, 100])
@pytest.mark.parametrize("right", [True, False])
def test_cosine_length(length, right):
    found = cosine_length(item(r"\boxed{1}", range(length), answer="1" if right else "2"), max_length=100)
    first, last = (1.0, 0.5) if right else (-1.0, -0.5)
    assert found == pytest.approx(first * numbers.cos(numbers.pi * length / 200) ** 2 + last * (
        numbers.sin(numbers.pi * length / 200) ** 2))  # fmt: skip


def test_cosine_length_limits():
    assert cosine_length(item(r"\boxed{1}", range(101), answer="1"), max_length=100) == -1
    assert cosine_length(item(r"\boxed{1}", range(5), truncated=True, answer="1"), max_length=100) == -1
    assert cosine_length(item("B", (), answer="B"), judge="choice") == 1
    assert cosine_length(item("B")) is None
