"""Logs of real GRPO runs (VLM-R1, R1-V): recorded accuracies, and every answer that our judge sees otherwise."""

from __future__ import annotations

import pytest

import pivot_jax as pj
from pivot_jax.rl.rewards.completion import answer_of
from pivot_jax.rl.scheme.logs import read

SIZE = "reads the first number only: a false positive"
FORM = "does not compare typed and LaTeX forms: a false negative"
LETTER = "takes one letter after a number for a unit; ours for a product"
SENTENCE = "finds a number in a sentence; ours takes the whole last line for the answer"
ROUNDED = "accepts another value: a false positive"
# (end of the answer, right answer) → what the recorded judge does. Ours decides the opposite.
DIFFERENCES = {
    "instruct": {
        ("10", "10√{2}"): SIZE, ("5", "5√{3}"): SIZE, ("6", "6√{2}-6"): SIZE, ("120.0", "60√{3}+1"): ROUNDED,
        ("2", "2√{2}"): SIZE, ("5√2", "5cm"): SIZE, ("5sqrt(3)", "5"): SIZE, ("3.0", "3√{3}cm"): SIZE,
        ("27.1", "27"): ROUNDED, ("4.0 + PE + PF", "4"): SIZE, ("1.5", "1.5m"): LETTER, ("34.0", "34m"): LETTER,
        ("15.0", "15m"): LETTER, ("100", "100m"): LETTER, ("/ 1.5 = 10.8", "10.8m"): LETTER,
        ("segment DB is 2.0", "2"): SENTENCE, ("angle 1 is 120.0", "120°"): SENTENCE, (" 22.7 meters", "10√{3}"): SIZE,
        ("sum of DE, CE, and", "8cm"): SENTENCE, ("frac{1}{2}\\pi = -", "\\frac{1}{2}cm²"): SIZE,
        ("express this as AB^2", "2√{13}"): SIZE, ("point E to circle", "16"): SENTENCE,
        ("0.6", "\\frac{3}{5}"): FORM, ("2*sqrt(5)/5", "\\frac{2√{5}}{5}"): FORM, ("100.0", "100°"): FORM,
        ("√5", "√{5}"): FORM, ("1/3", "\\frac{1}{3}"): FORM, ("1.2", "1.2"): FORM, ("2:3", "\\frac{2}{3}"): FORM,
        ("1:4", "\\frac{1}{4}"): FORM, ("12", "12"): FORM, ("3.0", "3"): FORM, ("3\\sqrt{3}", "3√{3}"): FORM,
    },
    "grpo_2epochs": {
        ("10.0", "10√{2}"): SIZE, ("2√10", "2√{13}"): SIZE, ("2.0", "2√{2}-2"): SIZE, ("1.5", "\\frac{3}{2}√{3}"): SIZE,
        ("sqrt(1/3)", "\\frac{1}{3}"): SIZE, ("5", "5√{3}"): SIZE, ("4.0", "4√{3}"): SIZE, ("6.0", "6√{2}-6"): SIZE,
        ("60sqrt(3)m", "60√{3}+1"): SIZE, ("10√3", "10"): SIZE, ("3", "3√{3}cm"): SIZE, ("2√2", "2√{6}m"): SIZE,
        ("6.0", "6√{5}m"): SIZE, ("16.2", "16"): ROUNDED, ("3.0", "3√{3}"): SIZE, ("10.0", "10√{3}cm"): SIZE,
        ("5.0", "5m"): LETTER, ("10.8", "10.8m"): LETTER, ("50π", "50πm^{2}"): LETTER,
        ("by the rotation", "3π"): SENTENCE, ("sqrt(3)/2", "\\frac{√{3}}{2}"): FORM, ("pi", "π"): FORM,
    },
}  # fmt: skip
RECORDED = {"instruct": 30.6366, "grpo_2epochs": 38.7268}


@pytest.mark.parametrize("name", RECORDED)
def test_geometry(shared_data, name):
    """The recorded accuracy from the log; ours from raw text, with each difference explained."""
    log = shared_data / f"eval_outputs/rl_logs/geoqa_test_qwen2vl_7b_{name}_legacy.json.gz"
    (recorded,) = pj.scheme.read_arms([log])
    (judged,) = pj.scheme.read_arms([log], pj.scheme.Settings(scoring=pj.scheme.Scoring("math")))
    assert 100 * recorded.runs[0].correct.mean() == pytest.approx(RECORDED[name], abs=1e-3)
    ours, theirs = judged.runs[0].correct, recorded.runs[0].correct
    known, seen = DIFFERENCES[name], set()
    for one, mine, other in zip(read(log), ours, theirs, strict=True):
        if mine != other:
            answer = answer_of(one.text, "final")
            key = next((key for key in known if answer.endswith(key[0]) and one.gold == key[1]), None)
            assert key is not None, (answer[-60:], one.gold)
            assert (known[key] == FORM) == mine, key
            seen.add(key)
    assert seen == set(known)
    assert abs(ours.mean() - theirs.mean()) < 0.03


def test_counting(shared_data):
    """200 questions with recorded accuracy 82.5 %, whose log has no judgement of single answers."""
    (log,) = (shared_data / "eval_outputs/rl_logs").glob("counting_*.json.gz")
    (arm,) = pj.scheme.read_arms([log], pj.scheme.Settings(scoring=pj.scheme.Scoring("number")))
    assert arm.runs[0].correct.mean() == 0.825
