"""Tokens by the inverse distribution function: counts of 20,000 draws, truncation, ties, banned ids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from transformers.generation import logits_process

from pivot_jax.rollout import choice
from pivot_jax.rollout.engine import Sampling

VOCAB, DRAWS = 700, 20_000  # more than two chunks of words, and no multiple of one


@pytest.fixture(scope="module")
def logits():
    return (2 * np.random.default_rng(0).normal(size=VOCAB)).astype(np.float32)


@jax.jit
def numbers(seed):
    keys = choice.row_keys(seed, jnp.arange(DRAWS, dtype=jnp.uint32) // 8, jnp.arange(DRAWS, dtype=jnp.uint32) % 8)
    return choice.uniforms(keys, jnp.full(DRAWS, 5))


def drawn(logits, sampling, seed=(3, 4), u=None):
    draw = choice.draw_of(sampling, len(logits), seed)
    u = numbers(draw.seed) if u is None else jnp.asarray(u, jnp.float32)
    run = jax.jit(choice.choose, static_argnums=2)
    found = run(jnp.broadcast_to(logits, (len(u), len(logits))), u, choice.rule_of(sampling), draw)
    return [np.asarray(x) for x in found]


def wanted(logits, sampling):
    """Log-probs before and after truncation, the latter by the processors of transformers."""
    import torch

    scores = torch.tensor(logits)[None].clone()
    scores[:, list(sampling.banned_ids)] = -torch.inf
    scores = scores / sampling.temperature
    whole = torch.log_softmax(scores, -1)[0].numpy()
    if sampling.top_k:
        scores = logits_process.TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = logits_process.TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = logits_process.MinPLogitsWarper(sampling.min_p)(None, scores)
    return whole, torch.log_softmax(scores, -1)[0].numpy()


CASES = {
    "plain": Sampling(1),
    "hot": Sampling(1, temperature=1.7),
    "cold": Sampling(1, temperature=0.6),
    "top-p": Sampling(1, top_p=0.8),
    "top-k": Sampling(1, top_k=12),
    "min-p": Sampling(1, min_p=0.1),
    "all": Sampling(1, temperature=1.3, top_p=0.9, top_k=50, min_p=0.02, banned_ids=(1, 400, 699)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.heavy_after(2)
def test_20000_draws_match_the_distribution(logits, name):
    """Chi-square; and both log-probs of every token."""
    sampling = CASES[name]
    tokens, logps, sampling_logps = drawn(logits, sampling)
    whole, truncated = wanted(logits, sampling)
    np.testing.assert_allclose(logps, whole[tokens], atol=2e-5)
    np.testing.assert_allclose(sampling_logps, truncated[tokens], atol=2e-5)
    expected = DRAWS * np.exp(truncated.astype(np.float64))
    found = np.bincount(tokens, minlength=VOCAB)
    assert not found[expected == 0].any()
    often = expected >= 5
    observed, predicted = np.r_[found[often], found[~often].sum()], np.r_[expected[often], expected[~often].sum()]
    keep = predicted > 0
    p = stats.chisquare(observed[keep], predicted[keep] * DRAWS / predicted[keep].sum()).pvalue
    assert 1e-3 < p < 1 - 1e-6


def test_greedy_takes_the_first_of_equals_and_says_its_log_prob_at_temperature_1():
    logits = np.zeros(VOCAB, np.float32)
    logits[[300, 310, 650]] = 4.0, 3.0, 4.0
    sampling = Sampling(1, temperature=0.0, top_p=0.5)
    tokens, logps, sampling_logps = drawn(logits, sampling, u=[0.0, 0.9])
    assert tokens.tolist() == [300, 300] and (sampling_logps == 0).all()
    np.testing.assert_allclose(logps, np.log(np.exp(4) / (2 * np.exp(4) + np.exp(3) + VOCAB - 3)), atol=1e-5)
    banned = Sampling(1, temperature=0.0, banned_ids=(300,))
    assert drawn(logits, banned, u=[0.5])[0].tolist() == [650]


def test_the_ends_of_the_interval_never_choose_a_word_of_probability_0():
    """0 at both ends of the vocabulary and of a chunk; the largest number there is; sums that rounding makes equal."""
    logits = np.full(VOCAB, -np.inf, np.float32)
    logits[[1, 257, 698]] = 0.0, -1.0, -2.0
    largest = 1 - 2**-24
    tokens = drawn(logits, Sampling(1), u=[0.0, largest, 0.6652])[0]
    assert tokens.tolist() == [1, 698, 1]
    weights = np.zeros((1, 600), np.float32)
    weights[0, 5], weights[0, 300:400] = 1.0, 1e-9  # the sums of the second chunk round to the first one's
    token, total = choice.inverse(jnp.asarray(weights), jnp.asarray([largest]))
    assert weights[0, int(token[0])] > 0 and abs(float(total[0]) - 1) < 1e-6


def test_a_number_depends_on_seed_rollout_prompt_response_and_position():
    def one(seed=1, rollout=2, prompt=3, response=4, position=5):
        key = choice.row_keys(jnp.asarray([seed, rollout], jnp.uint32), *(jnp.asarray([x]) for x in (prompt, response)))
        return float(choice.uniforms(key, jnp.asarray([position]))[0])

    changed = [{}, {"seed": 9}, {"rollout": 9}, {"prompt": 9}, {"response": 9}, {"position": 9}]
    found = {one(**change) for change in changed} | {one(prompt=4, response=3)}
    assert len(found) == 7 and one() == one() and all(0 <= u < 1 for u in found)
    large = choice.draw_of(Sampling(1), 3, (2**40 + 7, 0))
    assert large.seed.tolist() == [7, 0]
