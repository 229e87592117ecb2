"""Preference losses against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.data.processing.batch import VLMBatch
from pivot_jax.errors import UserError
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives import preference_losses
from pivot_jax.objectives.contrastive import sigmoid_contrastive
from pivot_jax.objectives.paired_losses import RewardMean, bco_pair, sigmoid
from pivot_jax.objectives.pairs import PairStats
from pivot_jax.objectives.preference_losses import PairLoss, terms_of
from pivot_jax.objectives.sft import nll
from pivot_jax.objectives.table import build_objective
from tests.tiny import pairs

RNG = np.random.default_rng(0)
CHOSEN, REJECTED = (RNG.normal(0, 4, 7).astype(np.float32) for _ in range(2))


def stats(chosen, rejected, **settings):
    """One target per answer; the reference is 0, so a log-prob is a log-ratio."""
    b = len(chosen)
    both = lambda *values: np.broadcast_to(np.asarray(values, np.int32), (b, len(values)))  # noqa: E731
    nothing = np.zeros((b, 2), np.int32)
    batch = VLMBatch(
        images=None, tokens=nothing, image_slots=nothing, positions=nothing, segments=nothing, branches=nothing,
        sources=nothing, targets=nothing, weights=np.ones((b, 2), np.float32), target_branches=both(1, 2),
        target_rows=nothing, row_index=np.arange(b)[:, None],
    )  # fmt: skip
    logps = jnp.stack([jnp.asarray(chosen), jnp.asarray(rejected)], axis=1)
    section = configs.base().objective
    section.update(settings)
    return PairStats(logps, jnp.zeros_like(logps), batch, section)


def test_at_the_reference_dpo_is_ln_2():
    zero = np.zeros(3, np.float32)
    np.testing.assert_allclose(sigmoid(stats(zero, zero), None), np.full((3, 1), np.log(2)), atol=1e-6)


def test_dpo_gradient_is_minus_beta_sigma_of_minus_beta_delta():
    grads = jax.grad(lambda c, r: jnp.sum(sigmoid(stats(c, r, beta=0.3), None)), (0, 1))(CHOSEN, REJECTED)
    factor = -0.3 * jax.nn.sigmoid(-0.3 * (CHOSEN - REJECTED))
    np.testing.assert_allclose(grads[0], factor, rtol=1e-5)
    np.testing.assert_allclose(grads[1], -factor, rtol=1e-5)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="make test-compat installs no PyTorch")


def test_dpo_and_label_smoothing_equal_pytorch(torch):
    F = torch.nn.functional
    d = torch.tensor(0.1 * (CHOSEN - REJECTED))
    np.testing.assert_allclose(sigmoid(stats(CHOSEN, REJECTED), None)[:, 0], -F.logsigmoid(d), rtol=1e-5)
    smoothed = -0.8 * F.logsigmoid(d) - 0.2 * F.logsigmoid(-d)
    found = sigmoid(stats(CHOSEN, REJECTED, label_smoothing=0.2), None)
    np.testing.assert_allclose(found[:, 0], smoothed, rtol=1e-5)


def test_bco_equals_pytorch(torch):
    F, delta = torch.nn.functional, 0.7
    c, r = torch.tensor(0.1 * CHOSEN), torch.tensor(0.1 * REJECTED)
    expected = -F.logsigmoid(c - delta) - F.logsigmoid(-(r - delta))
    found = bco_pair(stats(CHOSEN, REJECTED), RewardMean(jnp.float32(delta), jnp.float32(1)))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_stats_of_packed_pairs_with_prompt_targets():
    """Prompt targets count in no sum and in no length; masked pairs have neither."""
    batch = pairs.masked(pairs.pairs(8, images_per_row=(2, 0, 1), prompt_targets=True), (2, 7))
    logps = np.random.default_rng(0).normal(-3, 1, batch.targets.shape).astype(np.float32) * batch.weights
    section = configs.base().objective
    alone = PairStats(logps, batch.ref_logps, batch, section)
    packed_batch = pairs.packed(batch.replace(ref_logps=logps), 4)  # laid out as the log-probs of a packed batch
    packed = PairStats(packed_batch.ref_logps, pairs.packed(batch, 4).ref_logps, packed_batch, section)
    for row in range(8):
        for answer in (0, 1):
            own = (batch.target_branches[row] == answer + 1) & (batch.weights[row] > 0)
            assert alone.lengths[row, 0, answer] == own.sum()
            assert np.array_equal(alone.masks[row, :, 0, answer], own)
            np.testing.assert_allclose(alone.policy[row, 0, answer], logps[row, own].sum(), rtol=1e-5)
    for name in ("valid", "policy", "reference", "chosen", "rejected", "lengths"):
        a, b = (np.asarray(getattr(one, name)) for one in (alone, packed))
        np.testing.assert_allclose(b.reshape(a.shape), a, rtol=1e-5, atol=1e-5, err_msg=name)
    assert alone.valid[:, 0].tolist() == [1, 1, 0, 1, 1, 1, 1, 0] and not np.any(alone.lengths[2])


def test_mpo_is_composed_of_08_02_10():
    section = configs.base().objective
    section.name = "mpo"
    assert terms_of(section) == (("sigmoid", 0.8), ("bco_pair", 0.2), ("sft", 1.0))
    section.name = "dpo"
    assert terms_of(section) == (("sigmoid", 1.0),)
    section.terms = (("bco_pair", 2.0),)
    assert terms_of(section) == (("bco_pair", 2.0),)


def build(**changes):
    config = configs.base()
    for key, value in changes.items():
        configs.set_key(config, key.replace("__", "."), value)
    return build_objective(MLLM(pairs.CONFIG), config)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(objective__name="dop"), r"objective.name: 'dop' is not allowed \(allowed: contrastive, sft, dpo, mpo, "
         r"simpo, cpo, orpo, kto, preference, policy\); did you mean 'dpo'"),
        (dict(objective__name="preference"), r"objective.terms: empty, but objective.name='preference' .*\(losses: "),
        (dict(objective__name="dpo", objective__terms=(("sigmiod", 1.0),)), "no loss 'sigmiod' .* mean 'sigmoid'"),
        (dict(objective__name="dpo", objective__terms=(("sft", 1.0),) * 2), "objective.terms: 'sft' is listed 2 times"),
        (dict(objective__terms=(("sigmoid", 1.0),)), "objective.terms: .* but objective.name='sft' is not a pref"),
        (
            dict(objective__name="preference", objective__terms=(("hinge", 1.0),), objective__label_smoothing=0.1),
            "objective.label_smoothing: 0.1, but no loss of hinge reads it; set it to 0",
        ),
        (dict(objective__name="contrastive", data__packing=2), "data.packing: 2, but .* objective.name='contrastive'"),
        (dict(objective__name="contrastive", train__accumulate=2), "train.accumulate: 2, but objective.name='contras"),
    ],
)  # fmt: skip
def test_objectives_that_cannot_be_built_name_the_key(changes, says):
    with pytest.raises(UserError, match=says) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_preference_is_exactly_its_terms():
    objective = build(objective__name="preference", objective__terms=(("bco_pair", 0.5), ("sft", 2.0)))
    batch = pairs.pairs()
    totals = objective.totals(batch)
    memory = {"bco_pair": RewardMean(jnp.float32(0.4), jnp.float32(8))}
    loss, metrics = objective.loss(pairs.params(), batch, totals, memory, None)
    assert {name for name in metrics if name.startswith("losses/")} == {"losses/bco_pair", "losses/sft"}
    np.testing.assert_allclose(
        loss, 0.5 * metrics["losses/bco_pair"].mean() + 2.0 * metrics["losses/sft"].mean(), rtol=1e-6
    )
    assert (objective.kind, objective.reference) == ("preference", "stored")
    assert objective.memory.keys() == {"bco_pair"} and build(objective__name="dpo").memory is None


def test_a_loss_is_one_function_and_its_entry(monkeypatch):
    """Length-normalised and sorted over the batch: what it needs is in the stats, and it says that it couples rows."""

    def ranked(stats, state):
        margins = jnp.ravel(stats.policy[..., 0] / stats.lengths[..., 0] - stats.policy[..., 1] / stats.lengths[..., 1])
        ranks = jnp.argsort(jnp.argsort(margins)).reshape(stats.valid.shape)
        return ranks * -jax.nn.log_sigmoid(margins.reshape(stats.valid.shape))

    monkeypatch.setitem(preference_losses.LOSSES, "ranked", PairLoss(ranked, couples_rows=True))
    terms = dict(objective__name="preference", objective__terms=(("ranked", 1.0),))
    with pytest.raises(
        UserError, match=r"train.accumulate: 2, .* with objective.terms=\(\('ranked', 1.0\),\) compares"
    ):
        build(**terms, train__accumulate=2)
    objective, batch = build(**terms), pairs.pairs()
    loss, metrics = objective.loss(pairs.params(), batch, objective.totals(batch), None, None)
    np.testing.assert_allclose(loss, metrics["losses/ranked"].mean(), rtol=1e-6)
    assert float(metrics["losses/ranked"].weight) == 4 and np.isfinite(loss)


def test_bco_delta_is_the_running_mean_of_all_rewards():
    state, seen = RewardMean.zero(), []
    for batch in ([1.0, 3.0], [5.0], [2.0, 2.0, 8.0]):
        seen += batch
        state = state.add(sum(batch), float(len(batch)))
        np.testing.assert_allclose(state.mean, np.mean(seen), rtol=1e-6)


def test_nll_is_a_sum_with_its_weight():
    term = nll(jnp.asarray([[-1.0, -2.0], [-3.0, -9.0]]), jnp.asarray([[1.0, 1.0], [1.0, 0.0]]))
    assert (float(term.sum), float(term.weight), float(term.mean())) == (6.0, 3.0, 2.0)


def test_siglip_loss_equals_the_double_sum():
    image, text = (RNG.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    valid = np.array([1, 1, 1, 1, 0], np.float32)
    term = sigmoid_contrastive(image, text, 3.0, -1.0, valid)
    total = 0.0
    for i in range(4):
        for j in range(4):
            z = (1 if i == j else -1) * (3.0 * float(image[i] @ text[j]) - 1.0)
            total += np.log1p(np.exp(-z))
    np.testing.assert_allclose(term.mean(), total / 4, rtol=1e-5)
