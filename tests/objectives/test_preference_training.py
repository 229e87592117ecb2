"""Every preference loss trains a tiny MLLM for 20 steps, and needs a reference model only if it says so."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pivot_jax import config as configs
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives import preference
from pivot_jax.objectives.pairs import PairStats
from pivot_jax.objectives.preference import build_preference, combined
from pivot_jax.objectives.preference_losses import LOSSES, terms_of
from pivot_jax.optim.update import build_step, init_state
from tests.tiny import pairs

MODEL, STEPS = MLLM(pairs.CONFIG), 20
OPTIMIZER = optax.adam(2e-3)


def section(**changes):
    made = configs.base().objective
    made.update({"name": "preference", **changes})
    return made


CASES = {
    **{name: section(terms=((name, 1.0),)) for name in LOSSES if name != "exo_pair"},
    "exo_pair": section(terms=(("exo_pair", 1.0),), label_smoothing=1e-3),
    "f-DPO, LD and WPO": section(
        name="dpo", f_divergence_type="js_divergence", ld_alpha=0.5, use_weighting=True, label_smoothing=0.1
    ),
    **{f"preset {name}": section(name=name) for name in ("mpo", "cpo", "orpo")},
}


def batch_of(reference):
    """Pairs with the log-probs of ``reference`` as stored."""
    batch = pairs.pairs(8, ref=False)
    return batch.replace(ref_logps=np.asarray(jax.jit(lambda p: score(MODEL, p, batch).logps)(reference)))


@cache
def shared_step():
    """(parameters, optimizer state, batch, number of the case) → loss, and the next of the first two.

    One program for all cases, which differ after the log-probs only: compiling one each takes minutes.
    """

    def one(name):
        settings = CASES[name]
        terms = terms_of(settings)

        def loss(logps, squares, batch):
            totals = {name: jnp.sum(LOSSES[name].weights(batch)) for name, _ in terms}
            memory = {name: LOSSES[name].state(settings) for name, _ in terms}
            return combined(terms, PairStats(logps, batch.ref_logps, batch, settings, squares), totals, memory)[0]

        return loss

    cases = [one(name) for name in CASES]

    @jax.jit
    def step(params, state, batch, case):
        def loss(params):
            scores = score(MODEL, params, batch, squares=True)
            return jax.lax.switch(case, cases, scores.logps, scores.log_sum_sq, batch)

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = OPTIMIZER.update(grads, state)
        return value, optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("name", CASES)
@pytest.mark.heavy_after(12)
def test_20_steps_lower_the_loss(name):
    params = pairs.params()
    batch = batch_of(params)
    state, losses = OPTIMIZER.init(params), []
    for _ in range(STEPS):
        value, params, state = shared_step()(params, state, batch, list(CASES).index(name))
        losses.append(float(value))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    assert losses[-1] < losses[0] - 1e-3 * abs(losses[0]), losses


def objective_of(name):
    return build_preference(MODEL, CASES[name])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.heavy_after(3)
def test_a_loss_needs_a_reference_if_it_reads_log_ratios(name, monkeypatch):
    """Of the others, the step runs one model, whether reference parameters and stored log-probs are there or not."""
    objective, models = objective_of(name), []
    free = name in ("sft", "unlikelihood", "margin", "simpo", "cpo", "orpo")
    assert objective.reference == (None if free else "stored")
    monkeypatch.setattr(preference, "score", lambda *args, **more: models.append(args[1]) or score(*args, **more))
    params, reference = pairs.params(), pairs.params(1)
    for stored in (True, False):
        batch = pairs.pairs(2, ref=stored)
        totals = objective.totals(batch)
        jax.eval_shape(lambda p, b=batch, t=totals: objective.loss(p, b, t, objective.memory, reference), params)
        assert len(models) == (1 if free or stored else 2)
        models.clear()


def test_without_a_reference_rewards_are_log_probs():
    """As TRL's CPOTrainer: β Σ log π, and with SimPO β per token."""
    batch = pairs.pairs(4, ref=False)
    logps = jax.jit(lambda p: score(MODEL, p, batch).logps)(pairs.params())
    stats = PairStats(logps, None, batch, section())
    for name, values in (("cpo", stats.sums), ("simpo", stats.means)):
        objective = objective_of(name)
        _, metrics = jax.jit(lambda p, o=objective: o.loss(p, batch, o.totals(batch), None, None))(pairs.params())
        np.testing.assert_allclose(metrics["rewards/chosen"].mean(), 0.1 * values[..., 0].mean(), rtol=1e-5)
        accuracy = np.mean(np.asarray(values[..., 0] > values[..., 1]))
        np.testing.assert_allclose(metrics["rewards/accuracies"].mean(), accuracy)


@pytest.mark.parametrize("name", ["f-DPO, LD and WPO", "preset mpo"])
@pytest.mark.heavy_after(1)
def test_micro_batches_change_no_loss_and_no_gradient(name):
    """Through the step of a run; the norm of the gradient stands for it."""
    params, batch = pairs.params(), pairs.pairs(4)
    objective, sgd, found = objective_of(name), optax.sgd(0.0), []
    for accumulate in (1, 2):
        step = jax.jit(build_step(objective, sgd, clip=0.0, accumulate=accumulate))
        found.append(step(init_state(params, {}, sgd.init(params), objective), batch, None)[1])
    for key in found[0]:
        np.testing.assert_allclose(found[1][key], found[0][key], rtol=2e-5, atol=1e-6, err_msg=key)


@pytest.mark.heavy
def test_losses_that_couple_rows_are_those_that_say_so():
    """A change of one row's log-probs changes the gradient of another row's in these alone."""
    lengths = np.asarray([[3, 2, 2], [1, 4, 3], [2, 2, 1]])
    batch = pairs.targets_only(lengths)
    rng = np.random.default_rng(0)
    logps, ref = (-np.abs(rng.normal(2, 1, batch.weights.shape)).astype(np.float32) * batch.weights for _ in range(2))
    changes = []
    for branch in (1, 2, 3):  # to the top and to the bottom of the batch, whatever is sorted or averaged
        for factor in (0, 10):
            changes.append(logps.copy())
            changes[-1][0, batch.target_branches[0] == branch] *= factor
    for name in LOSSES:
        settings = CASES[name]
        terms = terms_of(settings)
        totals = {name: jnp.sum(LOSSES[name].weights(batch))}

        def loss(logps, settings=settings, terms=terms, totals=totals):
            return combined(terms, PairStats(logps, ref, batch, settings), totals, None)[0]

        before, *after = (np.asarray(jax.grad(loss)(jnp.asarray(x)))[1:] for x in (logps, *changes))
        assert any(not np.array_equal(before, one) for one in after) == LOSSES[name].couples_rows, name
