"""The scheme's intervals and tests on simulated runs with a known truth, sized as the paper's curves.

A run answers the same questions at every epoch. Which questions a model answers depends on how hard they are (shared
by all), on what its arm and its run learnt of each (kept over epochs), and on chance at each epoch. A run's accuracy is
off by ``deviation``: the paper's runs differ by 0.6 to 2.7 points at the end, chance included.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from pivot_jax.eval import statistics

EPOCHS, DRAWS = 10, 2000
OF_ARM, OF_RUN, OF_EPOCH = 0.4, 0.5, 0.7  # standard deviations beside the questions' own, which is 1
TOTAL = np.sqrt(1 + OF_ARM**2 + OF_RUN**2 + OF_EPOCH**2)


def simulated(rng, truths, runs, questions, deviation):
    """Right or wrong of each arm, [arms, r, e, q], where arm a answers a share ``truths[a]`` of all questions."""
    arms = len(truths)
    hard = rng.normal(size=questions)
    latent = hard + OF_ARM * rng.normal(size=(arms, 1, 1, questions))
    latent = latent + OF_RUN * rng.normal(size=(arms, runs, 1, questions))
    latent = latent + OF_EPOCH * rng.normal(size=(arms, runs, EPOCHS, questions))
    accuracy = np.asarray(truths)[:, None] + deviation * rng.normal(size=(arms, runs))
    return (latent / TOTAL < scipy.special.ndtri(np.clip(accuracy, 0.01, 0.99))[..., None, None]).astype(float)


def share(count):
    return f"{100 * count / DRAWS:.1f} %"


CELLS = [(runs, n, deviation) for runs in (2, 3, 5) for n in (100, 600) for deviation in (0.0, 0.01, 0.025)]


@pytest.mark.parametrize(("runs", "questions", "deviation"), CELLS)
@pytest.mark.heavy_after(1)
def test_the_accuracy_of_an_arm_is_covered(runs, questions, deviation, capsys):
    """Mean over epochs, and the last epoch; a bootstrap over questions alone covers less once runs differ."""
    truth, rng = 0.35, np.random.default_rng([runs, questions, round(1000 * deviation)])
    inside, last, alone = 0, 0, 0
    for _ in range(DRAWS):
        (right,) = simulated(rng, (truth,), runs, questions, deviation)
        found = statistics.over_seeds(right.mean(axis=1))
        end = statistics.over_seeds(right[:, -1])
        inside += found.low <= truth <= found.high
        last += end.low <= truth <= end.high
        items = right.mean(axis=(0, 1))
        half = 1.96 * items.std(ddof=1) / np.sqrt(questions)  # what a bootstrap over questions comes to
        alone += abs(items.mean() - truth) <= half
    with capsys.disabled():
        print(f"\n{runs} runs, {questions} questions, deviation {100 * deviation:.1f}: mean {share(inside)}, last "
              f"epoch {share(last)}, questions alone {share(alone)}", end="")  # fmt: skip
    for hits in (inside, last):
        assert hits >= 0.93 * DRAWS
        assert hits <= 0.97 * DRAWS or runs < 3 or not deviation
    if questions == 600 and deviation == 0.025:
        assert alone < 0.9 * DRAWS


@pytest.mark.parametrize(("runs", "questions", "deviation"), CELLS)
@pytest.mark.heavy_after(1)
def test_two_arms_without_a_difference_are_rarely_told_apart(runs, questions, deviation, capsys):
    """5 % at most, within what 2,000 draws can tell; and how often 5 points are found."""
    rng = np.random.default_rng([7, runs, questions, round(1000 * deviation)])
    errors, power, alone = 0, 0, 0
    for _ in range(DRAWS):
        first, second, better = simulated(rng, (0.35, 0.35, 0.40), runs, questions, deviation).mean(axis=2)
        errors += statistics.difference(first, second).excludes_zero
        power += statistics.difference(better, second).low > 0
        items = (first - second).mean(axis=0)
        alone += abs(items.mean()) > 1.96 * items.std(ddof=1) / np.sqrt(questions)
    with capsys.disabled():
        print(f"\n{runs} runs, {questions} questions, deviation {100 * deviation:.1f}: {share(errors)} told apart, "
              f"power at 5 points {share(power)}, error of questions alone {share(alone)}", end="")  # fmt: skip
    assert errors <= 0.065 * DRAWS
    if questions == 600 and deviation == 0.025:
        assert alone > 0.1 * DRAWS
