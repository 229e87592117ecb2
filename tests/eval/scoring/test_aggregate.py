"""Scores of whole benchmarks from single answers, against values by hand."""

from __future__ import annotations

import numpy as np

from pivot_jax.eval import statistics
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


def test_shares_of_none_and_of_all_have_a_width():
    """As a mean has: three of three units right do not prove that all are."""
    sums = np.asarray([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    found = aggregate.of_sums(sums, {"all": lambda s: s[:, 0] / s[:, 1], "none": lambda s: 0 * s[:, 0]})
    assert (found["all"].value, found["none"].value) == (1.0, 0.0)
    assert found["all"] == statistics.wilson(3, 3) and found["none"] == statistics.wilson(0, 3)
    points = aggregate.of_sums(sums, {"none": lambda s: 0 * s[:, 0]}, shares=False)
    assert (points["none"].low, points["none"].high) == (0.0, 0.0)
