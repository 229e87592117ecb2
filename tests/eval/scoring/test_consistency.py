"""Groups of answers that are all right, by hand."""

from __future__ import annotations

import pytest

from pivot_jax.eval.scoring.aggregate import Scored
from pivot_jax.eval.scoring.consistency import HALLUSION, NATURALBENCH, consistent
from pivot_jax.eval.scoring.scorers import Gold, Verdict


def row(name: str, right: bool, unit: object, category: str = "", **fields: object) -> Scored:
    return Scored(name, Verdict(right, "yes"), Gold(("yes",), category=category, fields=fields), unit)


def test_overlapping_groups() -> None:
    rows = [row(f"{f}{q}", (f, q) != (1, 1), "s", figure=f, question=q) for f in range(3) for q in range(2)]
    shares = consistent(
        "figures",
        {"figures": lambda one: one.gold.fields["figure"], "questions": lambda one: one.gold.fields["question"]},
        mean="mean",
    )
    found = shares.summarise(rows, 0)
    assert found.value.value == pytest.approx(2 / 3) and found.others["questions"].value == 1 / 2
    assert found.others["mean"].value == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_intervals_draw_units() -> None:
    """Of 40 units half are right in all of their rows: the interval is that of 40 answers, not of 160."""
    rows = [
        row(f"{unit}{at}", unit % 2 == 0, unit, question=at // 2, image=at % 2) for unit in range(40) for at in range(4)
    ]
    found = NATURALBENCH.summarise(rows, 0)
    assert found.value.n == 40
    for one in (found.value, *found.others.values()):
        assert one.value == 0.5 and one.high - one.low == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.1)


def test_a_question_without_its_figure_is_in_no_figure_of_hallusionbench() -> None:
    where = {"subcategory": "chart", "set_id": "0", "question_id": "0"}
    rows = [row(f"VS{f}", f > 0, "chart_0", "VS", figure_id=str(f), **where) for f in range(3)]
    found = HALLUSION.summarise(rows, 0)
    assert (found.value.value, found.others["fAcc"].value, found.others["qAcc"].value) == (pytest.approx(2 / 3), 1, 0)
    shown = [row(f"VD{f}", f > 0, "chart_0", "VD", figure_id=str(f), **where) for f in range(3)]
    assert HALLUSION.summarise(shown, 0).others["fAcc"].value == pytest.approx(2 / 3)
