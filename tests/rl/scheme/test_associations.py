"""Associations within questions: least squares with a column per question, clustered errors by hand, and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.rl.scheme.associations import association, correlation


def draw(seed, questions=30, each=12, effect=0.0):
    """Hard questions get longer responses that reflect more; given the question, reflecting adds ``effect``."""
    rng = np.random.default_rng(seed)
    question = np.repeat(np.arange(questions), each)
    hard = rng.random(questions)[question]
    reflects = rng.random(len(question)) < 0.2 + 0.6 * hard
    length = np.exp(4 + hard + 0.3 * reflects + 0.2 * rng.normal(size=len(question))).astype(int)
    correct = rng.random(len(question)) < 0.85 - 0.6 * hard + effect * reflects
    return reflects, correct, length, question


def test_slopes_are_those_with_a_column_for_every_question():
    reflects, correct, length, question = draw(0)
    columns = np.eye(30)[question]
    full = np.column_stack([reflects, np.log2(length), columns])
    slope = np.linalg.lstsq(full, correct.astype(float), rcond=None)[0]
    found = association(reflects, correct, length, question)
    assert found.controlled.value == pytest.approx(slope[0]) and found.per_doubling.value == pytest.approx(slope[1])
    only = np.linalg.lstsq(np.column_stack([reflects, columns]), correct.astype(float), rcond=None)[0]
    assert found.within.value == pytest.approx(only[0])
    assert found.raw.value == pytest.approx(correct[reflects].mean() - correct[~reflects].mean())


def test_clustered_errors_are_those_by_hand():
    """One regressor: sqrt(sum over questions of (sum x e)²) / sum x², with the correction q / (q - 1)."""
    reflects, correct, length, question = draw(1)
    x = reflects - np.asarray([reflects[question == one].mean() for one in question])
    y = correct - np.asarray([correct[question == one].mean() for one in question])
    slope = (x @ y) / (x @ x)
    sums = [np.sum((x * (y - slope * x))[question == one]) for one in range(30)]
    error = np.sqrt(np.sum(np.square(sums)) * 30 / 29) / (x @ x)
    found = association(reflects, correct, length, question).within
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error)


def test_the_question_is_what_the_raw_difference_mistakes_for_reflection():
    """No effect: within questions the 95 % interval holds 0 in 90 to 98 % of draws; over all responses in few."""
    within, raw = [], []
    for seed in range(200):
        found = association(*draw(seed))
        within.append(found.within.low <= 0 <= found.within.high)
        raw.append(found.raw.low <= 0 <= found.raw.high)
    assert 0.90 <= np.mean(within) <= 0.98 and np.mean(raw) < 0.5
    found = association(*draw(0, questions=200, effect=0.2))
    assert found.within.low > 0.1 > found.raw.value


def test_where_nothing_can_be_compared():
    reflects, correct, length, question = draw(2)
    assert association(np.ones_like(reflects), correct, length, question) is None
    by_question = question < 10  # no question has responses of both kinds
    found = association(by_question, correct, length, question)
    assert found.within is None and found.controlled is None and np.isfinite(found.raw.value)
    equal = association(reflects, correct, np.full_like(length, 7), question)
    assert equal.within is not None and equal.controlled is None


def test_a_common_trend_correlates_levels_but_not_changes():
    rng = np.random.default_rng(0)
    trend = np.linspace(0, 1, 60)
    one, two = trend + 0.05 * rng.normal(size=(3, 60)), trend + 0.05 * rng.normal(size=(3, 60))
    found = correlation(one, two)
    assert found.levels > 0.95 and abs(found.differences) < 0.3
    assert found.levels == pytest.approx(np.corrcoef(one.mean(0), two.mean(0))[0, 1])
    assert np.isnan(correlation(trend, np.ones(60)).levels)
