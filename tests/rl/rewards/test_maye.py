"""MAYE's judge and text rewards: the decisions of the released code, and which of them are errors."""

from __future__ import annotations

import json

import pytest

from pivot_jax.rl.rewards import maye
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.formats import format
from pivot_jax.rl.rewards.language import language
from pivot_jax.rl.rewards.math import math

# (prediction, solution, MAYE's decision, ours where it differs)
CASES = {
    "int_wrong": (r"The answer is \boxed{21}.", r"\boxed{20}", 0),
    "no_box": ("The answer is 20.", r"\boxed{20}", 0),
    "frac_slash": (r"\boxed{1/2}", r"\boxed{\frac{1}{2}}", 1),
    "frac_tfrac": (r"\boxed{\tfrac{3}{4}}", r"\boxed{0.75}", 1),
    "frac_nobrace": (r"\boxed{\frac12}", r"\boxed{\frac{1}{2}}", 1),
    "sqrt": (r"\boxed{2\sqrt{3}}", r"\boxed{\sqrt{12}}", 1),
    "sqrt_word": (r"\boxed{2{sqrt}{3}}", r"\boxed{2\sqrt{3}}", 1),
    "decimal": (r"\boxed{13.4}", r"\boxed{13.42}", 0),
    "percent": (r"\boxed{50\%}", r"\boxed{0.5}", 1),
    "thousands": (r"\boxed{1,000}", r"\boxed{1000}", 1),
    "degrees": (r"\boxed{60^{\text{circ}}}", r"\boxed{60^\circ}", 1),
    "degrees_wrong": (r"\boxed{61^\circ}", r"\boxed{60^\circ}", 0),
    "unit": (r"\boxed{5\text{ cm}}", r"\boxed{5}", 1),
    "letter": (r"\boxed{B}", r"\boxed{A}", 0),
    "nested_box": (r"\boxed{\boxed{20}}", r"\boxed{20}", 1),
    "fbox": (r"\fbox{20}", r"\boxed{20}", 0),
    "set_order": (r"\boxed{3, 5}", r"\boxed{5, 3}", 1),
    "tuple_order": (r"\boxed{(5,3)}", r"\boxed{(3,5)}", 0),
    "interval": (r"\boxed{(0, 1]}", r"\boxed{(0,1]}", 1),
    "plus_minus": (r"\boxed{\pm 3}", r"\boxed{3, -3}", 1),
    "approx": (r"\boxed{\approx 13.4}", r"\boxed{13.4}", 1),
    "minus_sign": (r"\boxed{−7}", r"\boxed{-7}", 1),
    "two_boxes": (r"We get \boxed{20} or \boxed{5}", r"\boxed{20}", 0),
    "chinese": ("答案是 \\boxed{20}。", r"\boxed{20}", 1),
    "worked_solution": (r"Therefore \boxed{52}.", r"We have $x=51$. So the answer is $\boxed{51}$.", 0),
    "factorial": (r"\boxed{x!}", r"\boxed{x!}", 1),
    "equation": (r"\boxed{\angle AOD = 51^\circ}", r"\boxed{51}", 1),
    "sum": (r"\boxed{15+5}", r"\boxed{20}", 1),
    # Ours differs on purpose:
    "power_false_positive": (r"\boxed{2^3}", r"\boxed{2^5}", 1, 0),
    "degree_false_positive": (r"\boxed{60^2}", r"\boxed{60^\circ}", 1, 0),
    "empty_false_positive": (r"\boxed{^a}", r"\boxed{^\circ}", 1, None),  # the gold has no value
    "no_box_false_positive": ("The answer is 7.", "20", 1, 0),
    "no_box_right": ("The answer is 20.", "20", 1, 0),
    "word_boxed": ("The boxed answer is 20", "The boxed answer is 20", 1, 0),
    "unit_false_positive": (r"\boxed{5 m}", r"\boxed{5 cm}", 1, 0),
    "degree_sign": (r"\boxed{60°}", r"\boxed{60^\circ}", 0, 1),
    "degree_sign_missing": (r"\boxed{60°}", r"\boxed{60}", 0, 1),
    # Decided: a box that is never closed is no answer (the completion was truncated).
    "unclosed": (r"The answer is \boxed{20", r"\boxed{20}", 0),
}


@pytest.mark.parametrize("name", CASES)
def test_judge(name):
    prediction, solution, wanted, *ours = CASES[name]
    assert maye.judge(prediction, solution) is bool(wanted)
    item = Completion("0", "", prediction, columns={"solution": solution})
    assert maye.maye_math(item) == wanted
    assert math(item, column="solution") == (ours or [wanted])[0]


def test_judge_without_a_solution():
    assert maye.maye_math(Completion("0", "", r"\boxed{1}", columns={"solution": ""})) is None


@pytest.mark.parametrize(
    ("prediction", "solution", "wanted"),
    [
        ("1, 2, 3", "1, 2.005, 3", True),
        ("1, 2, 3", "1, 2.02, 3", False),
        ("50", "0.5", True),  # a number, or its percentage
        ("0.5", "50", True),
        ("x+1", "1+x", False),
        ("1/2", "0.5", False),
        ("x=5", "5", False),
        ("(1,2]", "(1, 2]", False),
        ("1<x<2", "(1, 2)", True),
        ("20是", "20", True),
        ("是", "否", False),
        (r"3 \pm 1", "3 + 1, 3 - 1", True),
        ("b, a", "a, b", True),
        ("a, a", "a, b", False),
        ("a", "a, b", False),
        ("", "", True),
    ],
)
def test_parts(prediction, solution, wanted):
    """Decisions of the released ``AutoScoringJudge.judge``, run with sympy 1.14 and TexSoup 0.3.1."""
    assert maye.same_parts(prediction, solution) is wanted


def test_all_golden_strings(shared_data):
    """At least 98 of 100 decisions are MAYE's; each of the three rules and the preprocessing are compared apart."""
    path = shared_data.parent / "reference" / "maye_golden.json"
    if not path.is_file():
        pytest.skip(f"golden values not at {path}")
    cases = [case for case in json.loads(path.read_text())["cases"] if case["id"].startswith("judge/")]
    assert len(cases) > 60
    agree, differ = 0, []
    for case in cases:
        prediction, solution = case["inputs"]["prediction"], case["inputs"]["solution"]
        out = case["outputs"]
        first, second = maye.sentence(prediction), maye.sentence(solution)
        assert (first, second) == (out["pre_prediction"], out["pre_solution"]), case["id"]
        assert maye.same_digits(first, second) == out["number"], case["id"]
        assert maye.same_parts(first, second) == out["mv090"]["scorer"], case["id"]
        agree += maye.judge(prediction, solution) == out["mv090"]["judge"]
        ours = math(Completion("0", "", prediction, columns={"answer": solution}))
        if ours != out["mv090"]["judge"]:
            differ.append(case["id"].removeprefix("judge/"))
    assert agree >= 0.98 * len(cases)
    assert set(differ) <= {
        "pow_vs_deg_falsepos", "empty_box_pow_falsepos", "no_box_both_diff", "deg_unicode", "deg_unicode_int",
    }  # fmt: skip


TEXTS = (
    ("<think>a</think> b", 1, 0.0),
    ("x<think>\n</think>", 1, 0.0),
    ("<think><think>a</think>", 1, 0.0),
    ("<think>a</think></think>", 1, 0.0),
    ("<think>a</think><think>b</think>", 0, 0.0),
    ("<think>a", 0, 0.0),
    ("</think>a<think>", 0, 0.0),
    ("", 0, 0.0),
    ("答案是20", 0, -0.1 * 3 / 5),
    ("あ한я20", 0, 0.0),
    ("是" * 10, 0, -0.1),
)


@pytest.mark.parametrize(("text", "form", "penalty"), TEXTS)
def test_format_and_language(text, form, penalty):
    item = Completion("0", "", text)
    assert format(item, style="maye") == form
    assert language(item, style="maye") == pytest.approx(penalty, abs=1e-9)
