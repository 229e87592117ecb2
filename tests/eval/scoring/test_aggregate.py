"""Scores of whole benchmarks from single answers, against values by hand."""

from __future__ import annotations

from pivot_jax.eval.scoring import aggregate


def test_mmvp_pairs():
    scores = [1, 1, 1, 0, 0, 1, 0, 0]
    pairs = [0, 0, 1, 1, 2, 2, 3, 3]
    pair = aggregate.unit_accuracy(scores, pairs)
    assert pair.value == 0.25 and pair.n == 4
    assert pair.low <= 0.25 <= pair.high
    assert aggregate.accuracy(scores).value == 0.5


def test_mmbench_circular():
    # One question in four rotations, another in three: only the second is right in all.
    right = [1, 1, 0, 1, 1, 1, 1]
    assert aggregate.unit_accuracy(right, [10, 10, 10, 10, 11, 11, 11]).value == 0.5
