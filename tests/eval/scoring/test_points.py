"""Aggregates that are no mean of right answers, against values by hand and a scikit-learn F1."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from pivot_jax.eval.scoring import points
from pivot_jax.eval.scoring.aggregate import Scored
from pivot_jax.eval.scoring.scorers import Gold
from pivot_jax.eval.scoring.table import SCORERS


def scored(answers, golds, categories, units, scorer="yes_no"):
    rows = enumerate(zip(answers, golds, categories, units, strict=True))
    made = [(str(i), answer, Gold((gold,), category=category), unit) for i, (answer, gold, category, unit) in rows]
    return [Scored(name, SCORERS[scorer](answer, gold), gold, unit) for name, answer, gold, unit in made]


def test_mme_acc_plus():
    """Image 1: both right; image 2: one right. acc = 3/4, acc⁺ = 1/2. Rows need not be in order."""
    rows = scored(["Yes.", "yes", "no", "Yes"], ["Yes", "Yes", "No", "No"], ["count"] * 4, [1, 2, 1, 2])
    found = points.MME.summarise(rows, 0)
    assert found.value.value == pytest.approx(125.0) and found.others["count"].value == pytest.approx(125.0)
    assert found.others["cognition"].value == 0 and not found.percent and found.value.n == 2
    assert found.value.low <= 125 <= found.value.high


def test_perfect_mme():
    names = (*points.MME_PERCEPTION, *points.MME_COGNITION)
    rows = scored(["yes", "no"] * 14, ["Yes", "No"] * 14, [c for c in names for _ in range(2)], [0] * 28)
    found = points.MME.summarise(rows, 0)
    assert (found.value.value, found.others["cognition"].value) == (pytest.approx(2000), pytest.approx(800))


def test_pope():
    answers, golds = ["Yes", "No, there is none.", "yes.", "There is not"], ["yes", "yes", "no", "no"]
    found = points.pope().summarise(scored(answers, golds, ["random"] * 4, [None] * 4, "yes_no_negation"), 0)
    numbers = {found.metric: found.value} | found.others
    assert {name: numbers[name].value for name in ("f1", "accuracy", "precision", "recall", "yes_share")} == {
        "f1": 0.5, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "yes_share": 0.5,
    }  # fmt: skip


def test_f1_of_categories_is_scikit_learn_s():
    generator = np.random.default_rng(0)
    golds = generator.choice(["yes", "no"], 300)
    answers = np.where(generator.random(300) < 0.7, golds, generator.choice(["yes", "no"], 300))
    categories = np.repeat(["adversarial", "popular", "random"], 100)
    found = points.pope("mean_f1").summarise(scored(answers, golds, categories, list(range(300))), 0)
    each = [f1_score(golds[c], answers[c], pos_label="yes") for c in np.arange(300).reshape(3, 100)]
    assert found.value.value == pytest.approx(np.mean(each)) and found.value.n == 300
    assert found.others["f1/popular"].value == pytest.approx(each[1])
    assert found.others["f1"].value == pytest.approx(f1_score(golds, answers, pos_label="yes"))


@pytest.mark.parametrize(
    ("answer", "ours", "negation", "head"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("no.", "no", "no", "no"),
        ("Answer: No", "no", "no", ""),
        ("There is not.", "", "no", ""),
        ("I see nothing there", "", "yes", ""),
        ("Yes, and no.", "yes", "no", "yes"),
        ("It is yes or no", "", "no", ""),
        ("north", "", "yes", "no"),
        ("", "", "yes", ""),
    ],
)
def test_what_is_read(answer, ours, negation, head):
    names = ("yes_no", "yes_no_negation", "yes_no_head")
    assert [SCORERS[name](answer, Gold(("yes",))).read for name in names] == [ours, negation, head]
