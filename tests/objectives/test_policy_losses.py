"""Policy losses against formulas in NumPy, and their invariances."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import config
from pivot_jax.errors import UserError
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.divergences import KL
from pivot_jax.objectives.importance import correction
from pivot_jax.objectives.policy_losses import AGGREGATIONS, CLIPS, RATIOS, value_loss
from pivot_jax.objectives.presets import PRESETS, algorithm_of
from pivot_jax.objectives.table import batch_kind, build_objective
from tests.tiny.responses import Layout, loss_of

LENGTHS = (5, 2, 7, 1, 4, 4, 6, 3)
MASK = np.arange(7) < np.asarray(LENGTHS)[:, None]
BOUNDS = dict(clip_low=0.2, clip_high=0.28, clip_cap=1.5)


def draw(seed=0, drift=0.4):
    """logps, old_logps and advantages, [N, t]."""
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(1.0, MASK.shape).astype(np.float32)
    old = (logps + rng.normal(0, drift, MASK.shape)).astype(np.float32)
    return logps, old, np.where(MASK, rng.normal(size=(len(MASK), 1)), 0).astype(np.float32)


def dual(delta, a, logps):
    """Ye et al. 2020 with c = 1.5."""
    ratio = np.exp(delta)
    lower = np.minimum(ratio * a, np.clip(ratio, 0.8, 1.28) * a)
    return -np.where(a < 0, np.maximum(lower, 1.5 * a), lower)


def cispo_verl(delta, a, logps):
    return -np.clip(np.exp(delta), 0.8, 1.28) * a * logps


def per_response(values):
    return ((values * MASK).sum(1) / MASK.sum(1))[:, None] * np.ones(values.shape)


@pytest.mark.parametrize(("clip", "formula"), [("dual", dual), ("cispo-verl", cispo_verl)])
@pytest.mark.parametrize("ratio", ["token", "sequence_token"])
def test_forms_that_trl_lacks_equal_their_formulas(clip, formula, ratio):
    """Values, and gradients by finite differences of the formula with its stopped parts held."""
    logps, old, a = draw()
    delta = logps - old
    level = per_response(delta) if ratio == "sequence_token" else delta
    value, grad, *_ = loss_of(
        Algorithm(clip=clip, ratio=ratio, **BOUNDS), Layout(LENGTHS), logps, old_logps=old, advantages=a
    )
    tokens = MASK.sum()
    np.testing.assert_allclose(value, (formula(level, a, logps) * MASK).sum() / tokens, atol=1e-5)
    if clip == "cispo-verl":
        want = -np.clip(np.exp(level), 0.8, 1.28) * a
    else:
        h = 1e-6
        want = (formula(level.astype(np.float64) + h, a, logps) - formula(level.astype(np.float64) - h, a, logps)) / (
            2 * h
        )
    np.testing.assert_allclose(grad, want * MASK / tokens, atol=1e-5)
    assert np.abs(want - -np.exp(level) * a)[MASK].max() > 0.05, "nothing was clipped"


def test_the_sequence_token_ratio_has_the_sequences_value_and_each_tokens_gradient():
    """GSPO-token, eq. 14: with one advantage per response and a token mean, its gradient is GSPO's."""
    logps, old, a = draw(1, drift=0.05)
    runs = {}
    for ratio in ("sequence", "sequence_token"):
        algorithm = Algorithm(ratio=ratio, aggregation="sequence_mean")
        runs[ratio] = loss_of(algorithm, Layout(LENGTHS), logps, old_logps=old, advantages=a)
    for got, want in zip(runs["sequence_token"][:2], runs["sequence"][:2], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    varied = a * np.linspace(0.5, 2, MASK.shape[1], dtype=np.float32)
    values = [
        loss_of(
            Algorithm(ratio=r, aggregation="sequence_mean"), Layout(LENGTHS), logps, old_logps=old, advantages=varied
        )
        for r in ("sequence", "sequence_token")
    ]
    assert np.abs(values[0][1] - values[1][1]).max() > 1e-3


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_at_ratio_1_the_gradients_of_all_clip_forms_are_equal(aggregation):
    """Before the first update every form is A ∇ log π; only the forms over whole responses differ between tokens."""
    logps, _, a = draw(2)
    grads = {}
    for clip in CLIPS:
        ratios = [r for r in RATIOS if r != "sequence_product"] if "ratio" in CLIPS[clip].reads else ["token"]
        high = 5.0 if clip == "cispo-trl" else 0.2
        for ratio in ratios:
            algorithm = Algorithm(clip=clip, ratio=ratio, aggregation=aggregation, clip_high=high)
            stored = {} if clip == "ppo" else {"old_logps": logps}
            grads[clip, ratio] = loss_of(algorithm, Layout(LENGTHS), logps, advantages=a, **stored)[1]
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, grads["ppo", "token"], atol=1e-6, err_msg=str(name))
    assert np.abs(grads["ppo", "token"]).max() > 1e-3
    assert len(grads) >= 15


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.heavy_after(3)
def test_micro_batches_padding_and_layout_change_no_loss(preset):
    """Rows of one, two and four responses, packed, padded, with masked rows, in micro-batches: one result."""
    algorithm = Algorithm(**PRESETS[preset])
    logps, old, a = draw(3, drift=0.1)
    rng = np.random.default_rng(4)
    stored = dict(old_logps=old, advantages=a, ref_logps=old - 0.1, importance=rng.uniform(0.5, 2, a.shape) * MASK)
    if preset == "ppo":
        stored |= {name: rng.normal(size=a.shape) for name in ("values", "old_values", "returns")}
        stored["returns"][2] = np.nan  # a response without a reward
    want = loss_of(algorithm, Layout(LENGTHS), logps, **stored)
    layouts = [(Layout(LENGTHS, n=4, padding=1), 1), (Layout(LENGTHS, n=2, packing=2, masked_rows=2), 1)]
    if algorithm.aggregation != "microbatch_token_mean":
        layouts += [(Layout(LENGTHS), 4), (Layout(LENGTHS, n=2, padding=2, masked_rows=2), 3)]
    for layout, accumulate in layouts:
        got = loss_of(algorithm, layout, logps, accumulate=accumulate, **stored)
        np.testing.assert_allclose(got[0], want[0], atol=1e-6, err_msg=str(layout))
        np.testing.assert_allclose(got[1], want[1], atol=1e-6, err_msg=str(layout))
        assert got[3].keys() == want[3].keys()
        for name, value in want[3].items():
            np.testing.assert_allclose(got[3][name], value, atol=1e-5, err_msg=f"{name} {layout}")


@pytest.mark.heavy
def test_the_token_mean_of_micro_batches_depends_on_their_number_by_definition():
    logps, old, a = draw(5)
    algorithm = Algorithm(aggregation="microbatch_token_mean")
    losses = [loss_of(algorithm, Layout(LENGTHS), logps, old_logps=old, advantages=a, accumulate=k)[0] for k in (1, 2)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_golden_values_of_each_preset(preset):
    """Two responses of lengths 1 and 3; golden numbers computed by hand from the formulas (see GOLDEN)."""
    ratio = np.log([[1.5, 1, 1], [0.5, 1.1, 1.25]]).astype(np.float32)
    old = np.full((2, 3), -1.0, np.float32)
    logps = old + ratio
    a = np.asarray([[2.0, 0, 0], [-1.0, -1.0, -1.0]])
    importance = np.asarray([[1.0, 0, 0], [0.5, 0.5, 0.5]])
    of_head = dict(
        values=np.asarray([[1.5, 0, 0], [0.2, -1.0, 1.2]]), old_values=np.asarray([[0.5, 0, 0], [0.0, 0.0, 1.0]]),
        returns=np.asarray([[2.0, 0, 0], [1.0, 1.0, 0.0]]),
    )  # fmt: skip
    value, *_ = loss_of(
        Algorithm(**PRESETS[preset]), Layout((1, 3), n=2), logps,
        old_logps=old, advantages=a, ref_logps=logps - np.log(2).astype(np.float32), importance=importance,
        max_tokens=4, **(of_head if preset == "ppo" else {}),
    )  # fmt: skip
    np.testing.assert_allclose(value, GOLDEN[preset], atol=1e-5)


# Losses of the tokens, PPO with ε = 0.2: -1.2 * 2 = -2.4 | max(.5, .8) = .8, 1.1, 1.25. Clip-higher: -2.56. k3 at
# d = -log 2: 0.5 + log 2 - 1 = 0.193147. CISPO: ℓ = log ρ - 1 = -0.594535 | -1.693147, -0.904690, -0.776856.
# Means of Δ: 0.405465 | -0.124898 (mean of log 0.5, log 1.1, log 1.25), e^ of it 0.882587; sums: 1.5, 0.6875.
GOLDEN = {
    "maye": (-2.4 + 0.8 + 1.1 + 1.25) / 4 + 0.001 * 0.1931472,
    "reinforce++": 0.1875,
    "reinforce++-baseline": 0.1875,
    # the product of the ratios of response 2, 0.6875, is below 0.8: max(0.6875, 0.8)
    "rloo": (-2.4 + 0.8) / 2,
    "trl-grpo": (-2.4 + 0.5 * (0.8 + 1.1 + 1.25)) / 4,
    "verl-grpo": 0.1875,
    "dr-grpo": (-2.4 + 0.8 + 1.1 + 1.25) / (2 * 4),
    "dapo": (-2.56 + 0.8 + 1.1 + 1.25) / 4,
    # 1.5 above 1.0004; 0.882587 below 0.9997, so max(0.882587, 0.9997)
    "gspo": (-2 * 1.0004 + 0.9997) / 2,
    "gspo-token": (-2 * 1.0004 + 0.9997) / 2,
    # -ρ A ℓ: -1.5 * 2 * -0.594535 = 1.783605 | 0.5 * -1.693147, 1.1 * -0.904690, 1.25 * -0.776856, times 0.5
    "cispo-trl": (1.783605 + 0.5 * (-0.8465736 - 0.9951588 - 0.9710706)) / 4,
    # -1.2 * 2 * -0.594535 = 1.426884 | 0.8 * -1.693147, 1.1 * -0.904690, 1.2 * -0.776856
    "cispo-verl": (1.4268836 - 1.3545177 - 0.9951588 - 0.9322277) / 4,
    # -4 σ(0.5) * 2 = -4.979674 | 4 / 1.05 σ(1.05 (ρ - 1)): 1.415938, 2.004670, 2.153336
    "sapo": (-4.9796746 + (1.4159383 + 2.0046701 + 2.1533362) / 3) / 2,
    # -2 e^0.4 = -2.983649 | exp of the mean of max(log .5, -.4), log 1.1, log 1.25
    "gmpo": (-2.9836494 + np.exp((-0.4 + 0.0953102 + 0.2231436) / 3)) / 2,
    "opo": 0.1875,
    # ½ of the squared errors of the values, c = 0.5: 1.5 of 0.5 is clipped to 1, (1 - 2)² | 0.8², (-1 - 1)² and not the
    # clipped (-0.5 - 1)², 1.2²
    "ppo": 0.1875 + 0.1 * (0.5 + 0.32 + 2.0 + 0.72) / 4,
    # φ(1.5) = e^3 1.5^2 e^-4.5 = 0.502043; w = 0.6875 * 0.5 = 0.34375: φ = e^2 w^3 e^(-2w) = 0.150922
    "vespo": (1.189070 * 0.502043 + 0.150922 * (-1.693147 - 0.904690 - 0.776856)) / 4,
}


def test_golden_values_cover_every_preset():
    assert GOLDEN.keys() == PRESETS.keys()


def test_gradient_identities_of_the_kl_estimators():
    """Over all tokens of a small distribution: E of the gradients, as the docstring of ``divergences`` says.

    k1 has the gradient 0, k2, k1+, k3+ and the corrected k3 that of KL(π ‖ π_ref), and k3 that of KL(π_ref ‖ π).
    """
    rng = np.random.default_rng(6)
    theta, other = jnp.asarray(rng.normal(size=(2, 6)))
    ref = jax.nn.log_softmax(other)
    sampled = jax.nn.softmax(theta)

    def expected(name):
        def mean(theta):
            logps = jax.nn.log_softmax(theta)
            return jnp.sum(sampled * KL[name](logps, ref, logps - jax.lax.stop_gradient(logps)))

        return mean(theta), jax.grad(mean)(theta)

    def forward(theta):
        logps = jax.nn.log_softmax(theta)
        return jnp.sum(jnp.exp(logps) * (logps - ref))

    def backward(theta):
        return jnp.sum(jnp.exp(ref) * (ref - jax.nn.log_softmax(theta)))

    gradients = {"k1": 0 * theta, "k3": jax.grad(backward)(theta)}
    for name in KL:
        value, gradient = expected(name)
        if name != "k2":
            np.testing.assert_allclose(value, forward(theta), atol=1e-6, err_msg=name)
        np.testing.assert_allclose(gradient, gradients.get(name, jax.grad(forward)(theta)), atol=1e-6, err_msg=name)
    assert np.abs(jax.grad(backward)(theta) - jax.grad(forward)(theta)).max() > 0.01


def test_the_kl_clamp_per_token_bounds_values_and_stops_their_gradient():
    logps, ref = np.asarray([[-9.0, -2.0]], np.float32), np.asarray([[-2.0, -2.5]], np.float32)
    arrays = dict(ref_logps=ref, advantages=np.zeros((1, 2)))
    algorithm = Algorithm(kl_coefficient=1.0, kl_clamp="token")
    value, grad, *_ = loss_of(algorithm, Layout((2,)), logps, **arrays)
    np.testing.assert_allclose(value, (10 + 0.1065307) / 2, atol=1e-5)
    assert grad[0, 0] == 0
    assert abs(grad[0, 1]) > 0.1


def test_far_ratios_stay_finite():
    """A log-ratio of 100 overflows exp in float32; the clipped loss and its gradient are finite."""
    old = np.asarray([[-101.0, -1.0]], np.float32)
    for clip in CLIPS:
        value, grad, *_ = loss_of(
            Algorithm(clip=clip), Layout((2,)), old + np.asarray([[100.0, -90.0]], np.float32), old_logps=old,
            advantages=np.asarray([[1.0, 1.0]]),
        )  # fmt: skip
        assert np.isfinite(value), clip
        assert np.isfinite(grad).all(), clip


def test_importance_weights_by_mode():
    old = np.log(np.asarray([[2.0, 0.5, 9.0], [1.0, 4.0, 9.0]]))
    sampling = np.zeros((2, 3))
    sampling[1, 0] = np.nan  # the sampler did not report it
    mask = np.asarray([[1, 1, 0], [1, 1, 0]], bool)
    expected = {
        "token_truncate": [[1.5, 0.8, 0], [1, 1.5, 0]],
        "token_mask": [[0, 0, 0], [1, 0, 0]],
        "sequence_truncate": [[1, 1, 0], [1.5, 1.5, 0]],
        "sequence_mask": [[1, 1, 0], [0, 0, 0]],
        "geometric_truncate": [[1, 1, 0], [1.5, 1.5, 0]],
        "geometric_mask": [[1, 1, 0], [0, 0, 0]],
    }
    for mode, want in expected.items():
        found = correction(Algorithm(importance=mode, importance_low=0.8, importance_high=1.5), old, sampling, mask)
        np.testing.assert_allclose(found.weights, want, atol=1e-6, err_msg=mode)
    wide = correction(Algorithm(importance="geometric_mask", importance_high=2.5), old, sampling, mask)
    np.testing.assert_allclose(wide.weights[1], [2, 2, 0], atol=1e-6)
    assert correction(Algorithm(), old, sampling, mask).weights is None
    metrics = correction(Algorithm(importance="token_truncate", importance_high=3.0), old, sampling, mask).metrics
    want = {
        "sampling/sampling_logp_difference/mean": (np.log(2) * 2 + np.log(4)) / 3,
        "sampling/sampling_logp_difference/max": np.log(4),
        "sampling/importance_sampling_ratio/min": 0.5,
        "sampling/importance_sampling_ratio/mean": (2 + 0.5 + 1 + 3) / 4,
        "sampling/importance_sampling_ratio/max": 3.0,
    }
    assert metrics.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, atol=1e-6, err_msg=name)


def test_the_value_loss_takes_the_worse_of_the_clipped_and_the_free_value():
    """Verl: V moves from 0 to 2 with a clip of 0.5; R = 3 → ½ (0.5 - 3)², R = 0 → ½ (2 - 0)²."""
    got = value_loss(jnp.asarray([2.0, 2.0]), jnp.zeros(2), jnp.asarray([3.0, 0.0]), 0.5)
    np.testing.assert_allclose(got, [0.5 * 2.5**2, 0.5 * 4], atol=1e-6)
    free = value_loss(jnp.asarray([2.0, 2.0]), jnp.zeros(2), jnp.asarray([3.0, 0.0]), 0.0)
    np.testing.assert_allclose(free, [0.5 * 1, 0.5 * 4], atol=1e-6)


def test_responses_without_a_return_have_no_part_in_the_value_loss():
    logps, old, a = draw(8)
    rng = np.random.default_rng(9)
    values, old_values, returns = rng.normal(size=(3, *a.shape)).astype(np.float32)
    returns[[1, 4]] = np.nan
    stored = dict(old_logps=old, advantages=a, values=values, old_values=old_values, returns=returns)
    algorithm = Algorithm(advantage="gae", value_coefficient=2.0)
    value, _, _, metrics, of_values = loss_of(algorithm, Layout(LENGTHS), logps, **stored)
    kept = MASK & np.isfinite(returns)
    policy = loss_of(Algorithm(), Layout(LENGTHS), logps, old_logps=old, advantages=a)[0]
    clipped = old_values + np.clip(values - old_values, -0.5, 0.5)
    losses = 0.5 * np.maximum((values - returns) ** 2, (clipped - returns) ** 2)[kept]
    np.testing.assert_allclose(value, policy + 2 * losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["value/loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["value/mean"], values[kept].mean(), atol=1e-6)
    share = ((clipped - returns) ** 2 > (values - returns) ** 2)[kept].mean()
    assert 0 < share < 1
    np.testing.assert_allclose(metrics["value/clip_ratio"], share, atol=1e-6)
    assert np.isfinite(of_values).all() and not of_values[~kept].any() and of_values[kept].any()


def test_a_batch_without_an_array_that_the_algorithm_reads_names_it():
    logps, old, a = draw()
    for algorithm, name in (
        (Algorithm(kl_coefficient=0.1), "ref_logps"),
        (Algorithm(importance="token_mask"), "importance"),
        (Algorithm(advantage="gae"), "returns"),
    ):
        with pytest.raises(ValueError, match=rf"batch\.{name}: None"):
            loss_of(algorithm, Layout(LENGTHS), logps, old_logps=old, advantages=a)
    with pytest.raises(ValueError, match=r"batch\.advantages: None"):
        loss_of(Algorithm(), Layout(LENGTHS), logps)


def run_config(**keys):
    run = config.base()
    for key, value in ({"objective.name": "policy", "rl.algorithm": "dapo"} | keys).items():
        config.set_key(run, key, value)
    return run


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"rl.algorithm": "gpso"},
            r"rl\.algorithm: 'gpso' is not allowed \(allowed: maye, .*did you mean 'gspo'",
        ),
        ({"rl.algorithm": "grpo"}, "did you mean 'trl-grpo' or 'verl-grpo'"),
        ({"rl.clip": "ppoo"}, r"rl\.clip: 'ppoo' is not allowed .*did you mean 'ppo'"),
        ({"rl.advantage": "rlo"}, r"rl\.advantage: .*did you mean 'rloo'"),
        ({"rl.responses": 1}, r"rl\.responses: 1, but rl\.advantage='grpo' compares .* set rl\.responses to 2 or more"),
        ({"rl.gamma": 0.9}, r"rl\.gamma: 0\.9, but with rl\.advantage='grpo' nothing reads it"),
        ({"rl.clip": "gmpo", "rl.ratio": "sequence"}, r"rl\.ratio: 'sequence', but with rl\.clip='gmpo' nothing reads"),
        ({"rl.gae_lambda": 0.9}, r"rl\.gae_lambda: 0\.9, but with rl\.advantage='grpo' nothing reads it"),
        ({"rl.value_clip": 0.2}, r"rl\.value_clip: 0\.2, but with rl\.advantage='grpo' nothing reads it"),
        ({"rl.value_coefficient": 1.0}, r"rl\.value_coefficient: 1\.0, but with rl\.advantage='grpo' nothing reads"),
        ({"rl.advantage": "remax"}, r"rl\.advantage: 'remax' needs the reward of a greedy response, which training"),
        ({"rl.kl": "k1"}, r"rl\.kl: 'k1', but with rl\.kl_coefficient=0\.0 nothing reads it"),
        ({"rl.importance_high": 3.0}, r"rl\.importance_high: 3\.0, but with rl\.importance='none' nothing reads it"),
        ({"rl.clip": "dual", "rl.clip_cap": 1.1}, r"rl\.clip_cap: 1\.1 is not above 1 \+ rl\.clip_high=0\.28"),
        ({"rl.algorithm": ""}, r"rl\.algorithm: empty, but objective\.name='policy' needs one"),
        ({"objective.name": "sft"}, r"rl\.algorithm: 'dapo', but objective\.name='sft' is not online RL"),
    ],
)
def test_bad_settings_are_an_error_with_the_fix(keys, message):
    with pytest.raises(UserError, match=message):
        build_objective(MLLM, run_config(**keys))


@pytest.mark.parametrize(
    ("key", "value"),
    [("rl.gamma", 1.5), ("rl.kl_in", "los"), ("rl.responses", 0), ("rl.sapo_temperatures", (1.0,)),
     ("rl.clip_low", -0.5), ("rl.value_clip", -0.5), ("rl.value_coefficient", -2.0),
     ("rl.temperature", -1.0), ("rl.vespo_shape", (1.0, 2.0, 3.0, 0.0))],
)  # fmt: skip
def test_values_out_of_range_are_an_error(key, value):
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        config.set_key(config.base(), key, value)


def test_a_part_of_a_preset_can_be_replaced():
    run = run_config(**{"rl.clip_high": 0.3, "rl.aggregation": "constant", "rl.entropy_coefficient": -0.01})
    got = algorithm_of(run.rl)
    assert got == replace(
        Algorithm(**PRESETS["dapo"]), clip_high=0.3, aggregation="constant", entropy_coefficient=-0.01
    )
    assert batch_kind(run) == "policy"
