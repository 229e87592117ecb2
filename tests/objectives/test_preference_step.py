"""Preference steps on the whole model: tiny random MLLM, random shared-prompt pairs."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.models.logprobs import answer_logps, answer_sums, score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.paired_losses import RewardMean, bco_pair
from pivot_jax.objectives.pairs import PairStats
from pivot_jax.objectives.preference import build_preference
from pivot_jax.objectives.sft import build_sft
from pivot_jax.optim.update import build_step, init_state
from tests.tiny import pairs

MODEL = MLLM(pairs.CONFIG)
scored = jax.jit(partial(score, MODEL))


def section(**changes):
    made = configs.base().objective
    made.update({"name": "dpo", **changes})
    return made


def dpo(**changes):
    return build_preference(MODEL, section(**changes))


def run(objective, params, batch, reference=None, memory=None):
    """(loss, gradients, metrics) over the whole batch."""

    @jax.jit
    def compute(params, batch, reference):
        def loss(params):
            return objective.loss(params, batch, objective.totals(batch), memory or objective.memory, reference)

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, {name: term.mean() for name, term in metrics.items()}

    return compute(params, batch, reference)


@cache
def plain():
    """DPO with its default settings on the default pairs, which several tests compare with."""
    return run(dpo(), pairs.params(), pairs.pairs())


@cache
def chosen_only():
    """SFT on the chosen answers of the default pairs."""
    return run(build_sft(MODEL), pairs.params(), pairs.single(pairs.pairs(), 1))


def close(a, b, tolerance):
    """Each leaf, and the whole tree relative to its own size: the tolerance must not hide small leaves."""
    whole = [np.concatenate([np.ravel(x) for x in rules.flatten(tree).values()]) for tree in (a, b)]
    assert np.linalg.norm(whole[0] - whole[1]) < 1e-5 * np.linalg.norm(whole[1])
    for (path, x), y in zip(rules.flatten(a).items(), rules.flatten(b).values(), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * (1 + float(jnp.abs(y).max())), err_msg=path)


def vision_gradient(grads):
    used = [v for k, v in rules.flatten(grads["vision"]).items() if not k.startswith("final/")]
    return max(float(jnp.abs(leaf).max()) for leaf in used)


def test_dpo_at_the_reference_is_ln_2_with_rewards_of_zero():
    params, batch = pairs.params(), pairs.pairs(ref=False)
    loss, grads, metrics = run(dpo(), params, batch, reference=params)
    np.testing.assert_allclose(loss, np.log(2), atol=1e-6)
    np.testing.assert_allclose(metrics["rewards/margins"], 0.0, atol=1e-6)
    assert float(metrics["rewards/accuracies"]) == 0.0  # strictly greater
    assert vision_gradient(grads) > 1e-6


def test_no_gradient_where_chosen_equals_rejected():
    params = pairs.params()
    row = pairs.pairs(1, ref=False)
    half = np.where(row.branches[0] == 1)[0]
    prompt = int(half[0])
    size = len(half)
    same = jax.tree.map(np.copy, row)
    for name in ("tokens", "positions"):
        values = getattr(same, name)
        values[0, prompt + size : prompt + 2 * size] = values[0, prompt : prompt + size]
    same.segments[0] = np.arange(24) < prompt + 2 * size
    same.branches[0] = np.select([np.arange(24) < prompt, np.arange(24) < prompt + size], [0, 1], 2)
    answers = [np.arange(prompt, prompt + size), np.arange(prompt + size, prompt + 2 * size)]
    sources = np.concatenate([np.r_[prompt - 1, a[:-1]] for a in answers])
    count = 2 * size
    same.weights[0] = np.arange(12) < count
    same.sources[0, :count], same.targets[0, :count] = sources, same.tokens[0, np.concatenate(answers)]
    same.target_branches[0, :count] = np.repeat([1, 2], size)
    loss, grads, _ = run(dpo(), params, same, reference=params)
    np.testing.assert_allclose(loss, np.log(2), atol=1e-6)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) < 1e-6


def test_dpo_gradient_on_the_model_equals_the_closed_form():
    params, batch = pairs.params(), pairs.pairs(1)
    _, grads, _ = run(dpo(), params, batch)

    @jax.jit
    @jax.value_and_grad
    def logp(params, answer):
        return answer_logps(score(MODEL, params, batch), batch)[0, 0, answer]

    values, parts = zip(*(logp(params, answer) for answer in (0, 1)), strict=True)
    ref = answer_sums(batch.ref_logps, batch)[0, 0]
    delta = (values[0] - ref[0]) - (values[1] - ref[1])
    factor = -0.1 * jax.nn.sigmoid(-0.1 * delta)
    close(grads, jax.tree.map(lambda c, r: factor * (c - r), *parts), 1e-5)


def test_log_probs_are_summed_not_averaged():
    params, batch = pairs.params(), pairs.pairs(2)
    stats = scored(params, batch)
    sums = answer_logps(stats, batch)
    for row in range(2):
        for answer in (0, 1):
            chosen = (batch.target_branches[row] == answer + 1) & (batch.weights[row] > 0)
            np.testing.assert_allclose(sums[row, 0, answer], np.asarray(stats.logps)[row, chosen].sum(), rtol=1e-5)


def test_halving_beta_at_the_reference_halves_the_gradient():
    params, batch = pairs.params(), pairs.pairs(2, ref=False)
    _, whole, _ = run(dpo(beta=0.2), params, batch, reference=params)
    _, half, _ = run(dpo(beta=0.1), params, batch, reference=params)
    close(jax.tree.map(lambda g: g / 2, whole), half, 1e-6)


@pytest.mark.heavy
def test_prompt_targets_change_sft_but_not_dpo():
    params = pairs.params()
    masked, unmasked = pairs.pairs(ref=False), pairs.pairs(ref=False, prompt_targets=True)
    # the same rows: only the label mask differs
    np.testing.assert_array_equal(masked.tokens, unmasked.tokens)
    reference = pairs.params(1)
    a = run(dpo(), params, masked, reference)
    b = run(dpo(), params, unmasked, reference)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    close(a[1], b[1], 1e-5)
    nll = [run(build_sft(MODEL), params, pairs.single(batch, 1))[0] for batch in (masked, unmasked)]
    assert abs(float(nll[0] - nll[1])) > 1e-3


def test_gamma_adds_the_mean_nll_of_the_chosen():
    params, batch = pairs.params(), pairs.pairs()
    without, without_grads, metrics = plain()
    mixed, mixed_grads, _ = run(dpo(terms=(("sigmoid", 1.0), ("sft", 0.7))), params, batch)
    nll, nll_grads, _ = chosen_only()
    np.testing.assert_allclose(metrics["nll_loss"], nll, rtol=1e-5)
    np.testing.assert_allclose(mixed, without + 0.7 * nll, rtol=1e-5)
    close(mixed_grads, jax.tree.map(lambda d, n: d + 0.7 * n, without_grads, nll_grads), 1e-5)


@pytest.mark.heavy
def test_bco_delta_runs_through_the_steps():
    """Each step uses the mean of all rewards before it, whatever accumulation; here two steps of known rewards."""
    objective, params = dpo(name="mpo"), pairs.params()
    tx = optax.sgd(0.0)
    step = jax.jit(build_step(objective, tx, clip=0.0, accumulate=2))
    state, seen = init_state(params, {}, tx.init(params), objective), []
    for seed in (0, 1):
        batch = pairs.pairs(seed=seed)
        np.testing.assert_allclose(state.memory["bco_pair"].mean, np.mean(seen) if seen else 0.0, rtol=1e-5)
        sums = answer_logps(scored(params, batch), batch) - answer_sums(batch.ref_logps, batch)
        seen += np.ravel(0.1 * sums).tolist()
        state, _ = step(state, batch, None)
    np.testing.assert_allclose(state.memory["bco_pair"].mean, np.mean(seen), rtol=1e-5)
    assert float(state.memory["bco_pair"].count) == len(seen) == 16


def test_mpo_on_the_model_is_its_weighted_terms():
    params, batch = pairs.params(), pairs.pairs()
    objective = dpo(name="mpo")
    memory = RewardMean(jnp.float32(0.4), jnp.float32(8))
    loss, _, metrics = run(objective, params, batch, memory={"bco_pair": memory})
    alone, _, _ = plain()
    stats = PairStats(scored(params, batch).logps, batch.ref_logps, batch, section())
    quality = jnp.mean(bco_pair(stats, memory))
    np.testing.assert_allclose(loss, 0.8 * alone + 0.2 * quality + metrics["nll_loss"], rtol=1e-5)
    terms = {"losses/sigmoid": alone, "losses/bco_pair": quality, "losses/sft": metrics["nll_loss"]}
    assert {name for name in metrics if name.startswith("losses/")} == terms.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("layout", ["shared prompt, image once", "two sequences, image encoded once"])
def test_encoding_the_image_once_equals_twice(layout):
    """Plain two-sequence computation, every image encoded per sequence, against ours."""
    params, batch = pairs.params(), pairs.pairs()
    sequences = [pairs.single(batch, branch) for branch in (1, 2)]

    def logps(params, features):
        sums = [
            jnp.sum(score(MODEL, params, s, f).logps * s.weights, 1) for s, f in zip(sequences, features, strict=True)
        ]
        return jnp.stack(sums, 1) - answer_sums(batch.ref_logps, batch)[:, 0]

    def twice(params):
        ratios = logps(params, (None, None))
        return jnp.mean(-jax.nn.log_sigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])))

    def once(params):
        features = MODEL.apply({"params": params}, batch.images, method="encode_images")
        ratios = logps(params, (features, features))
        return jnp.mean(-jax.nn.log_sigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])))

    want, want_grads = jax.jit(jax.value_and_grad(twice))(params)
    if layout.startswith("shared"):
        got, got_grads, _ = plain()
    else:
        got, got_grads = jax.jit(jax.value_and_grad(once))(params)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    close(got_grads, want_grads, 1e-6)
