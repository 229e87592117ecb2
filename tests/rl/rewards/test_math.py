"""The strict judge of mathematics, and units."""

from __future__ import annotations

import pytest

from pivot_jax.eval.scoring import units
from pivot_jax.eval.scoring.equality import equal
from pivot_jax.rl.rewards.completion import Completion, answer_of
from pivot_jax.rl.rewards.math import math


@pytest.mark.parametrize(
    ("answer", "gold", "wanted"),
    [
        ("20", "20", True),
        ("20.0", "20", True),
        ("-20", "20", False),
        ("1,234", "1234", True),
        (".5", "0.50", True),
        ("0.3333333", r"\frac{1}{3}", True),  # six decimals
        ("0.3333", r"\frac{1}{3}", False),
        ("13.4", "13.400001", False),
        ("13.4", "13.4000001", True),
        (r"\frac{\sqrt{5}}{\frac{1}{2}}", r"2\sqrt{5}", True),
        ("2√3", r"2\sqrt{3}", True),  # as people type it
        ("2sqrt(3)", "2√{3}", True),
        ("sqrt(1/3)", r"\frac{1}{3}", False),
        ("9pi", "9πcm^{2}", True),
        ("4 * pi", r"4\pi", True),
        ("10", "10√{2}", False),
        (r"3\sqrt{5}", r"2\sqrt{5}", False),
        (r"\frac{x^2-1}{x-1}", "x+1", True),
        ("x+2", "x+1", False),
        ("x=5", "5", True),
        ("y=5", "x=5", False),
        (r"1.2\times10^3", "1200", True),
        (r"50\text{ percent}", "0.5", True),
        (r"50\%", "50", True),
        (r"49\%", "0.5", False),
        (r"\text{Yes}", r"\text{No}", False),
        ("2m", "2", False),  # a product
        ("", "20", False),
        ("20\0", "20", False),
        ("9" * 3000, "9", False),
    ],
)
def test_equal(answer, gold, wanted):
    assert equal(answer, gold) is wanted


@pytest.mark.parametrize(
    ("answer", "gold", "same", "require"),
    [
        ("5 m", "5 cm", False, False),
        (r"5\text{ cm}", "5cm", True, True),
        (r"5\,\mathrm{cm}^2", "5 square centimeters", True, True),
        (r"5\text{ cm}^2", r"5\text{ cm}^3", False, False),
        ("5 cm", "5", True, False),
        ("5", "5 cm^2", True, False),
        (r"60^\circ", "60°", True, True),
        (r"60\text{ degrees}", r"60^{\circ}", True, True),
        (r"60^\circ", r"60\text{ rad}", False, False),
        (r"3\text{ apples}", r"3\text{ pears}", False, False),
        ("5", "5", True, True),
    ],
)
def test_unit_policy(answer, gold, same, require):
    assert equal(answer, gold, "same") is same
    assert equal(answer, gold, "require") is require
    assert equal(answer, gold, "ignore") is True


def test_values_still_count_with_units():
    assert not any(equal("6 cm", "5 cm", policy) for policy in ("same", "require", "ignore"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"5\sqrt{3}\text{ km/h}", (r"5\sqrt{3}", "km h")),
        ("12 ft", ("12", "ft")),
        ("5m", ("5m", "")),
        ("5 m", ("5", "m")),
        (r"\frac{1}{2} cm^{2}", (r"\frac{1}{2}", "cm^2")),
        ("25 cm²", ("25", "cm^2")),
        ("x", ("x", "")),
        (r"\text{Yes}", (r"\text{Yes}", "")),
        (r"50\text{%}", (r"50\text{%}", "")),
        ("5 厘米", ("5", "cm")),
        ("58米", ("58", "m")),
        ("40海里", ("40", "nmi")),
        ("9πcm^{2}", ("9π", "cm^2")),
    ],
)
def test_split(text, wanted):
    assert units.split(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"so \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{1} no, \boxed{2}", "2"),  # the last one
        (r"\boxed{1}, \boxed{2}", "1, 2"),  # joined: one answer
        (r"$\boxed{1}$ or $\boxed{2}$", "1, 2"),
        (r"\boxed{2} and \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {3}", "3"),
        (r"\boxed{1} then \boxed{2", "1"),  # truncated
        (r"\boxed{1", ""),
        ("{{{}", ""),
    ],
)
def test_boxed(text, wanted):
    assert answer_of(text, "boxed") == wanted


@pytest.mark.parametrize(
    ("extract", "wanted"),
    [("boxed", "1"), ("answer", "It is 3."), ("final", "It is 3"), ("whole", r"\boxed{1} <answer>It is 3.</answer> x")],
)
def test_extract(extract, wanted):
    assert answer_of(r" \boxed{1} <answer>It is 3.</answer> x ", extract) == wanted


def test_gold():
    """A value or a worked solution; without a value the completion has no score, as in TRL."""
    answer = Completion(
        "0", "", r"\boxed{7}", columns={"answer": 7, "solution": r"$a=\boxed{7}$", "none": None, "t": ""}
    )
    assert math(answer) == 1.0
    assert math(answer, column="solution") == 1.0
    assert [math(answer, column=name) for name in ("none", "t", "absent")] == [None] * 3
    assert math(Completion("0", "", "7", columns={"answer": "7"})) == 0.0
    assert math(Completion("0", "", "7", columns={"answer": "7"}), extract="final") == 1.0
