"""Nested means over parts of a benchmark, against values by hand."""

from __future__ import annotations

import pytest

from pivot_jax.eval.scoring.aggregate import Scored
from pivot_jax.eval.scoring.parts import Number, category, field_of, numbers
from pivot_jax.eval.scoring.scorers import Gold, Verdict


def _scored(right: int, part: str, source: str | None, unit: int = 0, at: int = 0) -> Scored:
    fields = {"source": source} if source else {}
    return Scored(str(at), Verdict(right), Gold(("A",), category=part, fields=fields), unit)


ROWS = [
    *[_scored(1, "2D", "ADE20K")] * 3,
    _scored(0, "2D", "COCO"),
    _scored(1, "3D", "Omni3D"),
    _scored(0, "3D", None),
]
SOURCE = field_of("source")


def test_means_of_means() -> None:
    found = numbers("nested", {"nested": Number((category, SOURCE)), "sources": Number((SOURCE,)), "all": Number()})
    summary = found.summarise(ROWS, 0)
    assert (summary.metric, summary.value.value) == ("nested", 0.75)  # ½((1 + 0)/2 + 1): the last row has no source
    assert summary.others["sources"].value == pytest.approx(2 / 3)
    assert summary.others["all"].value == pytest.approx(4 / 6)


def test_one_number_for_each_value_of_a_label() -> None:
    summary = numbers("all", {"all": Number(), "part/": Number((SOURCE,), each=category)}).summarise(ROWS, 0)
    assert {name: one.value for name, one in summary.others.items()} == {"part/2D": 0.5, "part/3D": 1.0}


def test_a_number_of_no_question_is_left_out() -> None:
    rows = [_scored(1, "3D", None), _scored(0, "3D", None)]
    summary = numbers("all", {"all": Number(), "sources": Number((SOURCE,))}).summarise(rows, 0)
    assert summary.others == {} and summary.value.value == 0.5


def test_units_are_drawn_whole() -> None:
    """Ten answers to one question each are as uncertain as one; ten questions are not."""
    rows = [_scored(at % 2, "2D", "COCO", unit=at % 2, at=at) for at in range(40)]
    named = {"mean": Number((SOURCE,))}
    alone, whole = (numbers("mean", named, units).summarise(rows, 0).value for units in ("", "cluster"))
    assert alone.value == whole.value == 0.5
    assert (whole.low, whole.high) == (0.0, 1.0) and 0.2 < alone.low < 0.5 < alone.high < 0.8
