"""Intervals and tests against closed forms and scipy, and their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from pivot_jax.eval import statistics


def test_bootstrap_mean_matches_the_normal_interval():
    values = np.random.default_rng(0).normal(2.0, 1.0, 2000)
    found = statistics.mean(values, draws=4000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert found == statistics.mean(values, draws=4000) and found != statistics.mean(values, draws=4000, seed=1)


def test_chunks_of_draws_are_whole():
    values = np.random.default_rng(1).random(3000)
    assert statistics.draw_sums(values, draws=1500).shape == (1500,)
    assert statistics.draw_sums(values, draws=1500).mean() == pytest.approx(values.sum(), rel=0.01)


def test_agrees_with_scipy_bootstrap():
    values = (np.random.default_rng(2).random(300) < 0.7).astype(float)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=0)
    ours = statistics.mean(values, draws=4000)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.006)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.006)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (20, 20)])
def test_wilson_equals_scipy(k, n):
    theirs = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    ours = statistics.wilson(k, n)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def test_all_right_is_no_certainty():
    found = statistics.mean(np.ones(20))
    assert found.value == found.high == 1.0 and found.low < 0.9 and found.method == "wilson"


def test_clusters_widen_the_interval():
    values = np.repeat((np.random.default_rng(3).random(100) < 0.5).astype(float), 10)
    alone, clustered = statistics.mean(values), statistics.mean(values, units=np.repeat(np.arange(100), 10))
    assert clustered.n == 100 and alone.n == 1000
    assert (clustered.high - clustered.low) == pytest.approx(np.sqrt(10) * (alone.high - alone.low), rel=0.15)


def test_paired_difference_is_narrower_than_two_intervals():
    generator = np.random.default_rng(4)
    difficulty = generator.random(500)
    first = (difficulty < 0.62).astype(float)
    second = (difficulty < 0.58).astype(float)
    gap = statistics.difference(first, second)
    assert gap.value == pytest.approx(first.mean() - second.mean()) and gap.excludes_zero
    assert gap.high - gap.low < 0.5 * (statistics.mean(first).high - statistics.mean(first).low)
    assert statistics.difference(first, first).low == statistics.difference(first, first).high == 0.0


@pytest.mark.parametrize("deviation", [0.0, 0.02, 0.04])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.heavy_after(3)
def test_the_difference_of_two_arms_is_covered(seeds, deviation, capsys):
    """600 questions that both arms and all seeds answer; each training moves its arm's accuracy by ``deviation``."""
    generator, inside, widths, found = np.random.default_rng(1), 0, [], []
    gap = 0.02
    for _ in range(1000):
        # of how many models a question is answered: what all share, what an arm's seeds share, and what none does
        difficulty, of_arm = generator.normal(size=600), 0.3 * generator.normal(size=(2, 1, 600))
        noise = generator.normal(size=(2, seeds, 600))
        latent = (difficulty + of_arm + noise) / np.sqrt(1 + 0.09 + 1)
        accuracy = 0.6 + np.array([gap, 0.0])[:, None] + deviation * generator.normal(size=(2, seeds))
        first, second = (latent < scipy.special.ndtri(accuracy)[..., None]).astype(float)
        interval = statistics.difference(first, second)
        inside += interval.low <= gap <= interval.high
        widths.append(interval.high - interval.low)
        found.append(interval.detectable)
    with capsys.disabled():
        print(f"\n{seeds} seeds, deviation {100 * deviation:.0f} points: {inside / 10:.1f} % covered, width "
              f"{100 * np.mean(widths):.1f} points, detectable {100 * np.mean(found):.1f}")  # fmt: skip
    assert inside >= 930
    assert inside <= 970 or seeds < 3 or not deviation


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_the_bound_covers_whatever_the_shares_of_seeds_and_items(seeds):
    """Neither of the two approximations that it is the mean of does."""
    generator, n, tail = np.random.default_rng(0), 100_000, 0.025
    found = []
    for items in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0):
        error = generator.normal(size=n)
        of_seeds = (1 - items) * generator.chisquare(seeds - 1, n) / (seeds - 1)
        bound = statistics.error_bound(tail, of_seeds, items, seeds - 1)
        banerjee = np.hypot(
            scipy.stats.t.isf(tail, seeds - 1) * np.sqrt(of_seeds), scipy.stats.norm.isf(tail) * items**0.5
        )
        found.append([(np.abs(error) <= one).mean() for one in (bound, banerjee, 2 * bound - banerjee)])
    ours, wide, narrow = np.transpose(found)
    assert ours.min() > 0.94 and ours.max() < (0.985 if seeds == 2 else 0.97)
    assert wide.max() > ours.max() and narrow.min() < ours.min()


def test_items_alone_say_too_little():
    """An interval over items holds the method's mean much less often than it says, one over seeds as often."""
    hits = alone = 0
    for trial in range(300):
        generator = np.random.default_rng(trial)
        values = generator.normal(0, 0.5, (8, 1)) + generator.normal(0, 1.0, (8, 60)) + generator.normal(0, 0.3, 60)
        found, items_only = statistics.over_seeds(values), statistics.mean(values.mean(0), draws=400, seed=trial)
        hits += found.low <= 0 <= found.high
        alone += items_only.low <= 0 <= items_only.high
    assert 0.92 < hits / 300 < 0.98 and alone / 300 < 0.85


def test_seeds_alone_are_students_t():
    """Items that all seeds score alike leave the seeds' means, as scipy's interval has them."""
    values = np.repeat(np.array([[0.2], [0.5], [0.3]]), 50, axis=1)
    found = statistics.difference(values, np.zeros_like(values))
    theirs = scipy.stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert (found.seeds, found.n, found.method) == (3, 50, "t over seeds")


def test_a_difference_of_shares_is_at_most_one():
    first, second = np.repeat([[0.0], [1.0]], 40, axis=1), np.zeros((2, 40))
    found = statistics.difference(first, second)
    assert (found.value, found.low, found.high) == (0.5, -1.0, 1.0)


def test_seeds_that_agree_by_chance_are_no_certainty():
    """Two models that are right on 20 of 60 items each, but on others."""
    values = np.array([[1.0] * 20 + [0.0] * 40, [1.0] * 10 + [0.0] * 40 + [1.0] * 10])
    found = statistics.over_seeds(values)
    assert found.value == pytest.approx(1 / 3) and found.low < 1 / 3 - 0.04 and found.high > 1 / 3 + 0.04


def test_the_detectable_difference_is_found_in_four_of_five_experiments():
    """A true difference of that size, known from many experiments, is outside zero's interval in about 80 % of them."""
    generator = np.random.default_rng(0)

    def experiment(gap):
        shared, own = generator.normal(0, 1, 200), generator.normal(0, 1, (4, 200))
        return statistics.difference(gap + shared + own + generator.normal(0, 0.1, (4, 1)), np.zeros((4, 200)))

    detectable = np.mean([experiment(0.0).detectable for _ in range(300)])
    assert 0.7 < np.mean([experiment(detectable).excludes_zero for _ in range(600)]) < 0.95


def test_crossed_of_means_equals_over_seeds():
    values = np.random.default_rng(6).normal(0.3, 1, (4, 80)) + np.array([[0.0], [0.4], [-0.3], [0.1]])
    sums = np.stack([values, np.ones_like(values)], axis=-1)
    found = statistics.crossed(sums, lambda drawn: drawn[..., 0] / drawn[..., 1], draws=4000)
    plain = statistics.over_seeds(values)
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.03), pytest.approx(plain.high, abs=0.03))


def test_crossed_paired_difference():
    first = np.random.default_rng(7).random((2, 50))
    pair = np.stack([first + 0.1, first], axis=-1)
    gap = statistics.crossed(pair, lambda drawn: (drawn[..., 0] - drawn[..., 1]) / 50)
    assert gap.value == pytest.approx(0.1) and gap.low == pytest.approx(0.1) and gap.n == 50


def test_over_seeds_of_one_seed_is_the_plain_interval():
    values = np.random.default_rng(5).random(200)
    one, plain = statistics.over_seeds(values[None]), statistics.mean(values)
    assert (one.low, one.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    assert statistics.over_seeds(np.ones((3, 20))) == statistics.mean(np.ones(20))
    paired = statistics.over_seeds(values[None], units=np.arange(200) // 2)
    assert paired.n == 100 and paired.value == pytest.approx(values.mean())


def test_mcnemar_closed_form():
    first = np.array([1] * 9 + [0] * 1 + [1] * 40, bool)
    second = np.array([0] * 9 + [1] * 1 + [1] * 40, bool)
    # 9 against 1 of 10 discordant: 2 * (1 + 10) / 2^10
    assert statistics.mcnemar(first, second) == pytest.approx(22 / 1024)
    assert statistics.mcnemar(first, first) == 1.0


@pytest.mark.parametrize("n", [9, 40])
def test_permutation_agrees_with_scipy(n):
    generator = np.random.default_rng(n)
    first, second = generator.normal(0.4, 1, n), generator.normal(0, 1, n)
    theirs = scipy.stats.permutation_test(
        (first, second),
        lambda x, y, axis: (x - y).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20000,
        rng=np.random.default_rng(0),
    ).pvalue
    assert statistics.permutation(first, second) == pytest.approx(theirs, abs=1e-9 if n == 9 else 0.01)
    assert statistics.permutation(first, first) == 1.0


def test_permutation_of_signs_equals_mcnemar():
    first = np.array([1] * 9 + [0] * 2 + [1] * 10, float)
    second = np.array([0] * 9 + [1] * 2 + [1] * 10, float)
    assert statistics.permutation(first, second) == pytest.approx(statistics.mcnemar(first, second))


def test_holm():
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_bad_input():
    with pytest.raises(ValueError, match="same seeds and items"):
        statistics.difference(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="NaN"):
        statistics.over_seeds(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="nothing to resample"):
        statistics.draw_sums(np.zeros(0))
    with pytest.raises(ValueError, match="non-empty"):
        statistics.mean(np.zeros(0))
