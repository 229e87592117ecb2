"""MAYE's released behaviour, the preset ``maye``: golden numbers of its own functions, and each quirk's switch.

The numbers were computed with the released torch code (GAIR-NLP/MAYE, af35b9a).
"""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pivot_jax import config
from pivot_jax.objectives.advantages import Scores, advantages, returns_to_go, whiten
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.divergences import k3
from pivot_jax.objectives.policy import policy_loss, policy_totals
from pivot_jax.objectives.presets import PRESETS, algorithm_of
from pivot_jax.objectives.responses import Responses, response_stats
from tests.tiny.responses import Layout, loss_of

MAYE = Algorithm(**PRESETS["maye"])
SCORES, LENGTHS = np.asarray([1, 0, 1, -0.1]), np.asarray([3, 5, 2, 4])
MASK = np.arange(5) < LENGTHS[:, None]


@pytest.fixture(scope="module")
def golden(shared_data):
    path = shared_data.parent / "reference" / "maye_golden.json"
    if not path.is_file():
        pytest.skip(f"golden numbers not at {path}")
    return {case["id"]: case for case in json.loads(path.read_text())["cases"]}


def scored(rewards, lengths, **more):
    return Scores(np.asarray(rewards, np.float64), np.arange(len(rewards)), np.asarray(lengths), **more)


def test_the_preset_is_selected_by_name_and_each_quirk_has_a_switch():
    run = config.base()
    config.set_key(run, "rl.algorithm", "maye")
    assert algorithm_of(run.rl) == MAYE
    corrected = {
        "rl.whitened_mean": "removed", "rl.statistics_parts": 7, "rl.aggregation": "token_mean", "rl.kl_clamp": "none",
        "rl.kl_coefficient": 0.01,
    }  # fmt: skip
    for key, value in corrected.items():
        config.set_key(run, key, value)
    assert algorithm_of(run.rl) == replace(
        MAYE,
        whitened_mean="removed",
        statistics_parts=7,
        aggregation="token_mean",
        kl_clamp="none",
        kl_coefficient=0.01,
    )


@pytest.mark.parametrize(
    ("policy", "reference", "want"),
    [(-0.5, -0.7, 0.0187308), (-1.0, -0.9, 0.0051709), (-2.0, -2.5, 0.1065307), (-1.0, -1.0, 0.0)],
)
def test_k3_of_single_tokens(policy, reference, want):
    np.testing.assert_allclose(k3(policy, reference, 0.0), want, atol=1e-6)


def test_rewards_with_a_kl_term_per_token():
    """β = 0.01: row [-0.00018731, -0.00005171, 0.99893469, 0]; a KL of a token is at most 10."""
    old, ref = np.asarray([[-0.5, -1.0, -2.0, -1.0]]), np.asarray([[-0.7, -0.9, -2.5, -1.0]])
    algorithm = replace(MAYE, kl_in="reward", kl_coefficient=0.01, kl_clamp="token")
    found = scored([1.0], [3], old_logps=old, ref_logps=ref).token_rewards(algorithm)
    np.testing.assert_allclose(found, [[-0.00018731, -0.00005171, 0.99893469, 0]], atol=1e-7)
    far = scored([0.0], [1], old_logps=np.asarray([[-9.0]]), ref_logps=np.asarray([[-1.0]]))
    np.testing.assert_allclose(far.token_rewards(algorithm), [[-0.1]], atol=1e-7)


@pytest.mark.parametrize(
    ("mean", "want"),
    [
        ("kept", [1.617331, -0.302098, 1.617331, -0.494041]),
        ("removed", [1.288760, -0.630670, 1.288760, -0.822613]),
    ],
)
def test_advantages_of_four_responses(mean, want):
    """Token-weighted statistics; MAYE adds the mean 4.6 / 14 back."""
    got = advantages(replace(MAYE, whitened_mean=mean), scored(SCORES, LENGTHS))
    np.testing.assert_allclose(got, np.asarray(want)[:, None] * MASK, atol=1e-5)


def test_advantages_with_a_discount():
    got = advantages(replace(MAYE, gamma=0.9), scored(SCORES, LENGTHS))
    np.testing.assert_allclose(got[0, :3], [1.355474, 1.542634, 1.750589], atol=1e-5)


@pytest.mark.parametrize(("mean", "want"), [("kept", 1.0), ("removed", 0.0)])
def test_a_batch_of_correct_answers_only(mean, want):
    got = advantages(replace(MAYE, whitened_mean=mean), scored([1, 1, 1], [2, 2, 2]))
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_statistics_of_each_rank_alone():
    """With two ranks, the advantages of each half are those of that half as a batch."""
    whole = advantages(replace(MAYE, statistics_parts=2), scored(SCORES, LENGTHS))
    for rows in (slice(0, 2), slice(2, 4)):
        alone = advantages(MAYE, scored(SCORES[rows], LENGTHS[rows]))
        np.testing.assert_allclose(whole[rows, : alone.shape[1]], alone, atol=1e-6)
    assert np.abs(whole - advantages(MAYE, scored(SCORES, LENGTHS))).max() > 0.1


def test_whitening_without_the_mean_is_standardised():
    rng = np.random.default_rng(0)
    out = whiten(rng.normal(3, 2, MASK.shape), MASK, Algorithm())[MASK]
    assert abs(out.mean()) < 1e-6
    np.testing.assert_allclose(out.var(ddof=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [(1.5, 1, -1.2, 0.0), (0.5, 1, -0.5, -0.5), (1.5, -1, 1.5, 1.5), (0.5, -1, 0.8, 0.0), (1.1, 2, -2.2, -2.2)],
)
def test_the_clipped_loss_of_one_token(ratio, advantage, loss, gradient):
    old = np.full((1, 1), -2.0, np.float32)
    logps = (old + np.log(ratio)).astype(np.float32)
    value, grad, *_ = loss_of(
        replace(MAYE, kl_coefficient=0.0), Layout((1,)), logps, old_logps=old, advantages=np.full((1, 1), advantage)
    )
    np.testing.assert_allclose([value, grad[0, 0]], [loss, gradient], atol=1e-5)


def test_a_saturated_kl_has_the_value_10_and_no_gradient():
    """MAYE clamps the mean, not each token; without its clamp the gradient is there."""
    logps, ref = np.full((1, 2), -9.0, np.float32), np.full((1, 2), -2.0, np.float32)
    arrays = dict(ref_logps=ref, advantages=np.zeros((1, 2)))
    value, grad, *_ = loss_of(replace(MAYE, kl_coefficient=1.0), Layout((2,)), logps, **arrays)
    np.testing.assert_allclose(value, 10, atol=1e-6)
    np.testing.assert_array_equal(grad, 0)
    value, grad, *_ = loss_of(replace(MAYE, kl_coefficient=1.0, kl_clamp="none"), Layout((2,)), logps, **arrays)
    assert value > 1000
    assert np.abs(grad).max() > 100


def test_the_first_update_on_policy():
    """ρ = 1 exactly, nothing clipped, loss = -masked mean of A."""
    rng = np.random.default_rng(1)
    a = np.where(MASK, rng.normal(size=MASK.shape), 0)
    logps = -rng.exponential(size=MASK.shape).astype(np.float32)
    value, _, _, metrics = loss_of(MAYE, Layout(tuple(LENGTHS)), logps, advantages=a, ref_logps=logps)
    np.testing.assert_allclose(value, -a.sum() / MASK.sum(), atol=1e-6)
    assert metrics["clip_ratio/region_mean"] == metrics["kl"] == metrics["approx_kl"] == 0


# Full cases from the file of golden numbers.


def test_golden_whitening_and_advantages(golden):
    seen = 0
    for name, case in golden.items():
        if not name.startswith("adv/"):
            continue
        inputs, out = case["inputs"], case["outputs"]
        if "/whiten_" in name:
            x = np.asarray(inputs["x"], np.float64)
            mask = np.ones(x.shape, bool) if inputs["mask"] is None else np.asarray(inputs["mask"], bool)
            mean = "kept" if inputs["shift_mean"] else "removed"
            if inputs["mask"] is None:
                continue  # whitening without a mask; the algorithm always has one
            got = whiten(x, mask, Algorithm(whitened_mean=mean))
            np.testing.assert_allclose(got[mask], np.asarray(out["out"])[mask], atol=1e-5, err_msg=name)
        elif "/estimate_" in name:
            mask, r = np.asarray(inputs["masks"], bool), np.asarray(inputs["rewards"], np.float64)
            got = whiten(returns_to_go(r, inputs["gamma"]), mask, MAYE)
            np.testing.assert_allclose(got, out["advantages"], atol=1e-5, err_msg=name)
        else:
            continue
        seen += 1
    assert seen >= 7


def test_golden_losses_and_gradients(golden):
    cases = [case for name, case in golden.items() if name.startswith("loss/") and "single_at_high" not in name]
    for case in cases:  # at ρ = 1.2 exactly, torch and JAX split the gradient of a tie differently
        inputs, out = case["inputs"], case["outputs"]
        valid = np.asarray(inputs["padding_masks"], bool)
        lengths = valid.sum(1)
        assert (valid == (np.arange(valid.shape[1]) < lengths[:, None])).all()
        algorithm = replace(
            MAYE,
            clip_low=inputs["epsilon_low"],
            clip_high=inputs["epsilon_high"],
            kl_coefficient=inputs["kl_loss_coeff"],
        )
        value, grad, _, metrics = loss_of(
            algorithm,
            Layout(tuple(lengths)),
            np.asarray(inputs["pi_logprobs"], np.float32),
            old_logps=np.asarray(inputs["pi_old_logprobs"], np.float32),
            ref_logps=np.asarray(inputs["ref_logprobs"], np.float32),
            advantages=np.asarray(inputs["advantages"], np.float32),
        )
        close = dict(atol=1e-5, rtol=1e-4, err_msg=case["id"])
        np.testing.assert_allclose(value, out["loss"], **close)
        want = np.asarray(out["grad_pi_logprobs"])
        np.testing.assert_allclose(grad, want[:, : grad.shape[1]], **close)
        np.testing.assert_array_equal(want[~valid], 0)
        if algorithm.kl_coefficient and "saturated" not in case["id"]:
            np.testing.assert_allclose(metrics["kl"], out["kl_loss"], **close)
        np.testing.assert_allclose(metrics["clip_ratio/region_mean"], out["clipfrac"], **close)
    assert len(cases) >= 6


class Bigram:
    """The policy of the golden pipelines: the logits of a token are a row of a table, chosen by the token before."""

    def __init__(self, inputs):
        self.responses = np.asarray(inputs["responses"])
        self.before = np.concatenate([np.asarray(inputs["input_ids"])[:, -1:], self.responses[:, :-1]], axis=1)
        self.temperature = inputs["temperature"]

    def logps(self, table):
        """[N, t]."""
        logits = jnp.asarray(table)[self.before] / self.temperature
        return jnp.take_along_axis(jax.nn.log_softmax(logits), self.responses[..., None], axis=-1)[..., 0]

    def update(self, algorithm, table, rows, parts, lengths, arrays):
        """(loss, gradient) of the responses ``rows`` in ``parts`` micro-batches of consecutive ones."""

        def batch(rows):
            layout = Layout(tuple(lengths[rows]))
            return layout, layout.batch(**{key: x[rows] for key, x in arrays.items()})

        totals = policy_totals(algorithm, Responses(batch(rows)[1], 1), 16)

        def loss(table):
            total = 0.0
            for micro in np.split(rows, parts):
                layout, one = batch(micro)
                slots = layout.slots
                logps = self.logps(table)[micro][np.maximum(slots[..., 0], 0), slots[..., 1]]
                total += policy_loss(algorithm, response_stats(one, 1, logps, 0 * logps), 16, totals)[0]
            return total

        return jax.jit(jax.value_and_grad(loss))(table)


@pytest.mark.parametrize("name", ["paper_hparams_ga1", "script_hparams_ga2", "kl_reward_gamma", "no_penalty_sched"])
@pytest.mark.heavy_after(1)
def test_golden_steps_three_and_four(golden, name):
    """Log-probs, rewards, advantages, updates and the table after AdamW, on a bigram policy of 12 tokens."""
    inputs, out = golden[f"pipe/{name}"]["inputs"], golden[f"pipe/{name}"]["outputs"]
    policy, found = Bigram(inputs), out["trajectory"]
    valid = ~np.asarray(found["response_padding_masks"], bool)
    lengths = valid.sum(1)
    table, ref = (jnp.asarray(inputs[key], jnp.float32) for key in ("table", "ref_table"))
    old, ref_logps = np.asarray(policy.logps(table)), np.asarray(policy.logps(ref))
    np.testing.assert_allclose(np.where(valid, old, 1), found["logprobs"], atol=1e-5)

    rewarded = replace(
        MAYE, kl_in="reward", kl_coefficient=inputs["kl_reward_coeff"], kl_clamp="token", gamma=inputs["gamma"]
    )
    batch = scored(found["scores"], lengths, old_logps=old, ref_logps=ref_logps)
    np.testing.assert_allclose(batch.token_rewards(rewarded), out["rewards"], atol=1e-5)
    arrays = {"old_logps": old, "ref_logps": ref_logps, "advantages": advantages(rewarded, batch)}
    np.testing.assert_allclose(arrays["advantages"], out["advantages"], atol=2e-5)

    algorithm = replace(MAYE, kl_coefficient=inputs["kl_loss_coeff"])
    tx = optax.inject_hyperparams(optax.adamw)(
        inputs["lr"], *inputs["betas"], eps=inputs["adam_eps"], weight_decay=inputs["weight_decay"]
    )
    state, updates = tx.init(table), iter(out["updates"])
    for order in inputs["perms"]:
        for rows in np.split(np.asarray(order), len(order) // inputs["ppo_batch_size"]):
            want = next(updates)
            value, grad = policy.update(algorithm, table, rows, inputs["gradient_accumulation_steps"], lengths, arrays)
            np.testing.assert_allclose(value, want["loss"], atol=2e-5)
            np.testing.assert_allclose(grad, want["grad_before_clip"], atol=2e-5)
            if inputs["clip_grad_norm"]:
                grad *= jnp.minimum(1.0, inputs["clip_grad_norm"] / (optax.tree.norm(grad) + 1e-6))
            state.hyperparams["learning_rate"] = jnp.asarray(want["lr"])
            change, state = tx.update(grad, state, table)
            table = optax.apply_updates(table, change)
            np.testing.assert_allclose(table, want["table_after"], atol=2e-4)
    assert next(updates, None) is None
