"""The value head on a whole tiny MLLM: which states it reads, and gradients of PPO's loss on head and trunk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.models import value_head
from pivot_jax.models.logprobs import target_states
from pivot_jax.objectives.policy import stored_values
from pivot_jax.objectives.table import build_objective, has_value_head
from pivot_jax.optim.accumulate import loss_and_gradients
from tests.objectives.test_policy_step import ADVANTAGES, BANNED, MLLM, PARAMS, ROWS, batch, rows_of, scored, section

RNG = np.random.default_rng(5)
HEAD = {
    "kernel": RNG.normal(size=(16, 1)).astype(np.float32) * 0.3,
    "bias": np.asarray([0.2], np.float32),
}
WITH_HEAD = {**PARAMS, value_head.PART: HEAD}


def ppo(**changes):
    return section(**{"rl.algorithm": "ppo", "rl.importance": ""} | changes)


def stored(config):
    """What a batch stores: old log-probs and values near those of now, so that nothing is at the edge of a clip."""
    old = [x + 0.05 for x in rows_of(scored(config).logps)]
    values = rows_of(value_head.values(WITH_HEAD, states()))
    old_values = [x + 0.1 for x in values]
    returns = [RNG.normal(size=len(x)).astype(np.float32) for x in ADVANTAGES]
    return {"old_logps": old, "old_values": old_values, "returns": returns}


def states(data=None):
    return jax.jit(lambda p, b: target_states(MLLM, p, b))(PARAMS, batch() if data is None else data)


def test_values_are_of_the_state_before_each_token():
    """The first token of every response has the value of the prompt's last state; a value reads no later token."""
    data = batch()
    values = np.asarray(value_head.values(WITH_HEAD, states(data)))
    hidden = np.asarray(MLLM.apply({"params": PARAMS}, data, None, method="hidden"))
    for row, one in enumerate(ROWS):
        first = [int(np.flatnonzero(one.target_branches == branch)[0]) for branch in (1, 2, 3)]
        prompt_end = int(np.sum(one.branches == 0)) - 1
        want = hidden[row, prompt_end] @ HEAD["kernel"][:, 0] + HEAD["bias"][0]
        np.testing.assert_allclose(values[row, first], want, atol=1e-5)
    tokens = np.array(data.tokens)
    row, one = 0, ROWS[0]
    last = len(one.tokens) - 1  # the last token of the last response predicts nothing
    tokens[row, last] = (tokens[row, last] + 1) % 38
    changed = np.asarray(value_head.values(WITH_HEAD, states(data.replace(tokens=tokens))))
    np.testing.assert_allclose(changed[row, : len(one.targets)], values[row, : len(one.targets)], atol=1e-6)


def test_a_fresh_head_gives_0_and_is_float32():
    head = {value_head.PART: value_head.create(16)}
    found = value_head.values(head, jnp.ones((2, 3, 16), jnp.bfloat16))
    assert found.dtype == jnp.float32 and found.shape == (2, 3) and not np.any(found)
    assert value_head.without({**PARAMS, **head}).keys() == PARAMS.keys()


def test_an_algorithm_has_a_value_head_where_its_advantage_reads_values():
    assert has_value_head(ppo()) and has_value_head(section(**{"rl.advantage": "gae"}))
    assert not has_value_head(section())
    assert not has_value_head(section(**{"objective.name": "sft", "rl.algorithm": ""}))
    assert set(stored_values(ppo().rl)) == {"advantages", "old_logps", "sampling_logps", "old_values", "returns"}
    assert not {"old_values", "returns"} & set(stored_values(section().rl))


def gradients(config, data, accumulate=1):
    objective = build_objective(MLLM, config, BANNED)
    compute = jax.jit(lambda p, b: loss_and_gradients(objective, p, {}, b, accumulate, objective.memory, None))
    loss, grads, metrics = compute(WITH_HEAD, data)
    return float(loss), grads, {name: float(term.mean()) for name, term in metrics.items()}


@pytest.mark.parametrize("part", ["value", "decoder", "vision", "projector"])
@pytest.mark.heavy_after(2)
def test_gradients_on_head_and_trunk_are_those_of_finite_differences(part):
    """Along a random direction of the part's parameters, and along its gradient; the value loss weighs most."""
    config = ppo(**{"rl.value_coefficient": 5.0})
    data = batch(**stored(config))
    _, grads, _ = gradients(config, data)
    objective = build_objective(MLLM, config, BANNED)
    totals = objective.totals(data)
    loss = jax.jit(lambda params: objective.loss(params, data, totals, None, None)[0])
    rng, own = np.random.default_rng(0), rules.flatten(grads[part])
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in own.values()))
    assert norm > 1e-3
    noise = {path: rng.normal(size=x.shape) for path, x in own.items()}
    for direction in (noise, {path: np.asarray(x) / norm for path, x in own.items()}):
        size = np.sqrt(sum(np.sum(np.square(x)) for x in direction.values()))
        direction = {path: x / size for path, x in direction.items()}

        def moved(step, direction=direction):
            flat = rules.flatten(WITH_HEAD[part])
            shifted = {path: np.float32(x + step * direction[path]) for path, x in flat.items()}
            return float(loss({**WITH_HEAD, part: rules.unflatten(shifted)}))

        step = 2e-3
        numeric = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
        analytic = sum(float(np.sum(np.asarray(own[path]) * direction[path])) for path in own)
        np.testing.assert_allclose(numeric, analytic, rtol=2e-2, atol=2e-3 * norm)


@pytest.mark.heavy
def test_the_value_loss_alone_trains_the_trunk_and_accumulation_changes_nothing():
    config = ppo()
    values = stored(config)
    zero = {**values, "advantages": [np.zeros_like(x) for x in ADVANTAGES]}
    loss, grads, metrics = gradients(config, batch(**zero))
    np.testing.assert_allclose(loss, 0.1 * metrics["value/loss"], rtol=1e-5)
    assert np.abs(grads["decoder"]["embed"]).max() > 1e-5
    whole, parts = (gradients(config, batch(**values), k) for k in (1, 2))
    np.testing.assert_allclose(whole[0], parts[0], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole[1], parts[1])
    for name in ("value/loss", "value/clip_ratio", "value/mean"):
        np.testing.assert_allclose(whole[2][name], parts[2][name], atol=1e-5, err_msg=name)
