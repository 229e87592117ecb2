"""PPO with a value head against PyTorch: advantages, value loss, and the gradients of the whole loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pivot_jax import config as configs
from pivot_jax.kernels.token_logprobs import Distribution
from pivot_jax.models import value_head
from pivot_jax.models.logprobs import score_states
from pivot_jax.objectives.advantages import Scores, advantages, generalised, value_metrics, value_targets
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.policy import policy_loss, policy_totals
from pivot_jax.objectives.policy_losses import value_loss
from pivot_jax.objectives.presets import PRESETS, algorithm_of
from pivot_jax.objectives.responses import Responses, response_stats
from tests.tiny.responses import Layout

LENGTHS = (4, 2, 6, 1)
MASK = np.arange(max(LENGTHS)) < np.asarray(LENGTHS)[:, None]


def torch_gae(rewards, values, mask, gamma, rate):
    """(advantages, returns) by the sum Σ_k (γ λ)^k δ_(t+k), response by response."""
    found = torch.zeros_like(values)
    for i, length in enumerate(mask.sum(1).tolist()):
        following = torch.cat([values[i, 1:length], torch.zeros(1, dtype=values.dtype)])
        delta = rewards[i, :length] + gamma * following - values[i, :length]
        for t in range(length):
            weights = (gamma * rate) ** torch.arange(length - t, dtype=values.dtype)
            found[i, t] = (weights * delta[t:]).sum()
    return found, (found + values) * mask


@pytest.mark.parametrize(("gamma", "rate"), [(1.0, 0.95), (0.9, 0.8), (1.0, 0.0)])
def test_gae_and_its_returns_equal_pytorchs(gamma, rate):
    """With a KL reward of k1 on each token: r_t = -β (ℓ - ℓ_ref), and the score at the last one."""
    rng = np.random.default_rng(0)
    values, old, ref = rng.normal(size=(3, *MASK.shape))
    scores = Scores(
        rewards=np.asarray([1.0, 0.0, 2.0, -1.0]), groups=np.arange(4), lengths=np.asarray(LENGTHS),
        old_logps=old, ref_logps=ref, values=values,
    )  # fmt: skip
    algorithm = Algorithm(advantage="gae", gamma=gamma, gae_lambda=rate, kl="k1", kl_in="reward", kl_coefficient=0.1)
    mask = torch.tensor(MASK)
    rewards = -0.1 * torch.tensor(old - ref) * mask
    for i, length in enumerate(LENGTHS):
        rewards[i, length - 1] += float(scores.rewards[i])
    want, returns = torch_gae(rewards, torch.tensor(values), mask, gamma, rate)
    got = generalised(scores, algorithm)[0]
    np.testing.assert_allclose(got[MASK], want.numpy()[MASK], atol=1e-5)
    np.testing.assert_allclose(value_targets(scores, algorithm)[MASK], returns.numpy()[MASK], atol=1e-5)
    assert np.isnan(value_targets(scores, algorithm)[~MASK]).all()
    flat = want[mask]
    whitened = (flat - flat.mean()) / (flat.var() + 1e-8).sqrt()
    np.testing.assert_allclose(advantages(algorithm, scores)[MASK], whitened.numpy(), atol=1e-5)


def test_a_hand_computed_example():
    """γ = 1, λ = 0.5. δ = (0.5 - 1, 0 - 0.5, 2 - 0) = (-0.5, -0.5, 2): A_3 = 2, A_2 = 0.5, A_1 = -0.25; R = A + V."""
    values = np.asarray([[1.0, 0.5, 0.0], [9.0, 9.0, 9.0]])
    scores = Scores(np.asarray([2.0, np.nan]), np.arange(2), np.asarray([3, 2]), values=values)
    algorithm = Algorithm(advantage="gae", gae_lambda=0.5)
    found, _ = generalised(scores, algorithm)
    np.testing.assert_allclose(found, [[-0.25, 0.5, 2.0], [0, 0, 0]], atol=1e-12)
    returns = value_targets(scores, algorithm)
    np.testing.assert_allclose(returns, [[0.75, 1.0, 2.0], [np.nan] * 3], atol=1e-7)
    np.testing.assert_allclose(
        advantages(algorithm, scores)[0], np.asarray([-1.0, -0.25, 1.25]) / np.sqrt(1.3125), atol=1e-6
    )
    metrics = value_metrics(scores, returns)
    # Var(R - V) = Var(A) = 0.875, Var(R) = 0.2916667
    np.testing.assert_allclose(metrics["value/explained_variance"], 1 - 0.875 / 0.2916767, atol=1e-5)
    np.testing.assert_allclose(metrics["value/returns_mean"], 1.25, atol=1e-6)


def torch_value_loss(values, old, returns, clip):
    clipped = torch.clamp(values, old - clip, old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def test_value_loss_and_its_gradient_equal_pytorchs():
    values, old, returns = np.random.default_rng(1).normal(size=(3, 200)).astype(np.float32)
    mine = torch.tensor(values, requires_grad=True)
    want = torch_value_loss(mine, torch.tensor(old), torch.tensor(returns), 0.5)
    want.sum().backward()
    got, grad = (
        value_loss(values, old, returns, 0.5),
        jax.grad(lambda v: value_loss(v, old, returns, 0.5).sum())(values),
    )
    np.testing.assert_allclose(got, want.detach(), atol=1e-6)
    np.testing.assert_allclose(grad, mine.grad, atol=1e-6)
    assert 0.02 < np.mean(mine.grad.numpy() == 0) < 0.5  # where the clipped value has the larger loss


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.heavy_after(1)
def test_the_whole_losss_gradients_equal_those_of_a_pytorch_twin(accumulate):
    """On the states (where the trunk's gradient begins), the language model's head, and the value head."""
    layout, width, vocabulary, temperature = Layout(LENGTHS, n=2, padding=1), 8, 13, 0.8
    rng = np.random.default_rng(2)
    slots = layout.slots
    states = rng.normal(size=(*slots.shape[:2], width)).astype(np.float32)
    params = {
        "decoder": {"embed": rng.normal(size=(vocabulary, width)).astype(np.float32)},
        "value": {"kernel": rng.normal(size=(width, 1)).astype(np.float32), "bias": np.ones(1, np.float32)},
    }
    targets = rng.integers(0, vocabulary, slots.shape[:2]).astype(np.int32)
    old_logps, advantage, old_values, returns = rng.normal(size=(4, *MASK.shape)).astype(np.float32)
    old_logps = (old_logps * 0.3 - 3).astype(np.float32)
    stored = dict(old_logps=old_logps, advantages=advantage, old_values=old_values, returns=returns)
    batch = layout.batch(**stored).replace(targets=jnp.asarray(targets))
    algorithm = Algorithm(**PRESETS["ppo"])

    def loss(params, states):
        totals, total = policy_totals(algorithm, Responses(batch, layout.n), 16), 0.0
        for i in range(accumulate):
            micro, own = jax.tree.map(lambda x, i=i: x[i::accumulate], (batch, states))
            found = score_states(params, own, micro, Distribution(temperature))
            values = value_head.values(params, own)
            stats = response_stats(micro, layout.n, found.logps, found.entropy, values)
            total += policy_loss(algorithm, stats, 16, totals)[0]
        return total

    got, grads = jax.value_and_grad(loss, argnums=(0, 1))(params, jnp.asarray(states))

    real = torch.tensor(slots[..., 0] >= 0)
    place = {name: torch.tensor(np.asarray(layout.place(x)))[real] for name, x in stored.items()}
    mine = {
        name: torch.tensor(x, requires_grad=True)
        for name, x in (
            ("states", states), ("embed", params["decoder"]["embed"]), ("kernel", params["value"]["kernel"]),
            ("bias", params["value"]["bias"]),
        )
    }  # fmt: skip
    logits = mine["states"] @ mine["embed"].T / temperature
    picked = torch.tensor(targets, dtype=torch.long)[..., None]
    logps = torch.log_softmax(logits, -1).gather(-1, picked)[..., 0][real]
    ratio, a = (logps - place["old_logps"]).exp(), place["advantages"]
    policy = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
    values = (mine["states"] @ mine["kernel"] + mine["bias"])[..., 0][real]
    critic = torch_value_loss(values, place["old_values"], place["returns"], 0.5).mean()
    whole = policy + 0.1 * critic
    whole.backward()

    np.testing.assert_allclose(got, whole.item(), atol=1e-5)
    for name, grad in (
        ("states", grads[1]), ("embed", grads[0]["decoder"]["embed"]), ("kernel", grads[0]["value"]["kernel"]),
        ("bias", grads[0]["value"]["bias"]),
    ):  # fmt: skip
        np.testing.assert_allclose(grad, mine[name].grad, atol=1e-5, err_msg=name)
        assert np.abs(grad).max() > 1e-3


def test_the_preset_is_ppo_as_documented():
    run = configs.base()
    configs.set_key(run, "rl.algorithm", "ppo")
    found = algorithm_of(run.rl)
    assert (found.advantage, found.clip, found.ratio, found.aggregation) == ("gae", "ppo", "token", "token_mean")
    assert (found.gamma, found.gae_lambda, found.clip_low, found.clip_high) == (1.0, 0.95, 0.2, 0.2)
    assert (found.value_clip, found.value_coefficient, found.kl_coefficient) == (0.5, 0.1, 0.0)
