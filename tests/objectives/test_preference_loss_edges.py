"""Preference losses that TRL lacks against NumPy; every loss on what breaks formulas: ties, extremes, masked rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.objectives.paired_losses import RewardMean
from pivot_jax.objectives.pairs import PairStats
from pivot_jax.objectives.preference import combined
from pivot_jax.objectives.preference_losses import LOSSES, PRESETS, SETTINGS, terms_of
from pivot_jax.objectives.reference_free_losses import margin, unlikelihood
from tests.tiny import pairs

NEEDS = {"exo_pair": {"label_smoothing": 1e-3}}  # settings without which a loss cannot be built
DIVERGENCES = [{"f_divergence_type": name} for name in ("forward_kl", "js_divergence", "alpha_divergence")]
VARIANTS = [
    *((name, NEEDS.get(name, {})) for name in LOSSES),
    *((name, extra | NEEDS.get(name, {})) for name in LOSSES for extra in DIVERGENCES
      if "f_divergence_type" in LOSSES[name].reads),
    *((name, {"use_weighting": True, "ld_alpha": 0.5} | NEEDS.get(name, {})) for name in LOSSES
      if "use_weighting" in LOSSES[name].reads),
    ("bco_pair", {"bco_shift": "none"}), ("sigmoid", {"label_smoothing": 0.2}), ("discopop", {"discopop_tau": 2.0}),
]  # fmt: skip
IDS = ["-".join([name, *(f"{value}" for value in settings.values())]) for name, settings in VARIANTS]


def section(**changes):
    made = configs.base().objective
    made.update({"name": "preference", **changes})
    return made


def value_and_gradient(name, settings, batch, logps, ref_logps):
    """(loss, gradient [b, t]) of one loss, as the objective computes them."""
    made = section(terms=((name, 1.0),), **settings)
    terms = terms_of(made)
    totals = {name: jnp.sum(LOSSES[name].weights(batch))}
    state = LOSSES[name].state(made)
    memory = {name: state and state.add(1.2, 4.0)}
    squares = np.full(batch.weights.shape, -1.0, np.float32)

    def loss(logps):
        return combined(terms, PairStats(logps, ref_logps, batch, made, squares), totals, memory)[0]

    return jax.value_and_grad(loss)(jnp.asarray(logps))


def assert_finite(found):
    assert np.isfinite(found[0]) and np.isfinite(found[1]).all()


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
@pytest.mark.heavy_after(30)
def test_extremes_have_a_finite_loss_and_gradient(name, settings):
    """Log-ratios of ±500 in every combination, answers of one token, certain tokens, and policy = reference."""
    signs = np.asarray([(0, 0), (500, -500), (-500, 500), (500, 500), (-500, -500), (500, 0), (0, -500)], np.float32)
    for tokens in (1, 4):
        shares = np.full((1, tokens), 1 / tokens, np.float32)
        policy = [np.minimum(signs[:, [i]], 0) * shares for i in (0, 1)]  # 0 is certain
        reference = [policy[i] - signs[:, [i]] * shares for i in (0, 1)]
        unrelated = -np.ones((len(signs), tokens), np.float32)
        batch = pairs.targets_only(np.full((len(signs), 3), tokens))
        both = [pairs.laid_out(batch, *values, unrelated) for values in (policy, reference)]
        assert_finite(value_and_gradient(name, settings, batch, *both))
        assert_finite(value_and_gradient(name, settings, batch, both[0], both[0]))


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
@pytest.mark.heavy_after(20)
def test_masked_pairs_and_prompt_targets_change_nothing(name, settings):
    """Beside finite numbers: the same loss and gradients as without the masked rows and the targets in the prompt."""
    rng = np.random.default_rng(0)
    lengths = np.asarray([[3, 2, 2], [1, 4, 3], [2, 2, 1]])
    batch = pairs.targets_only(lengths)
    logps, ref = (-np.abs(rng.normal(2, 1, batch.weights.shape)).astype(np.float32) * batch.weights for _ in range(2))
    want = value_and_gradient(name, settings, batch, logps, ref)
    masked = jax.tree.map(lambda x: np.concatenate([x[:1], x[:1], x[1:]]), batch)
    masked = masked.replace(row_index=np.asarray([[0], [-1], [1], [2]]))
    masked.weights[1] = 0
    widen = lambda x, fill: np.concatenate([np.full((4, 1), fill, x.dtype), x], axis=1)  # noqa: E731
    masked = masked.replace(
        weights=widen(masked.weights, 1), target_branches=widen(masked.target_branches, 0),
        target_rows=widen(masked.target_rows, 0),
    )  # fmt: skip
    masked.weights[1, 0] = 0
    rows = [0, 2, 3]
    values = []
    for x in (logps, ref):
        out = np.zeros(masked.weights.shape, np.float32)
        out[rows, 1:], out[rows, 0] = x, -5.0 + rng.normal(0, 1, 3)
        values.append(out)
    got = value_and_gradient(name, settings, masked, *values)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(got[1])[rows, 1:], want[1], rtol=1e-5, atol=1e-7)
    assert not np.any(np.asarray(got[1])[1]) and not np.any(np.asarray(got[1])[:, 0])


# What a pair of equal answers cannot tell apart has no gradient: one token of each is predicted from the same state.
COMPARING = [name for name in LOSSES if LOSSES[name].rows == "pairs"
             and name not in ("nca_pair", "apo_zero", "apo_down", "bco_pair", "sppo_hard")]  # fmt: skip


@pytest.mark.parametrize("name", COMPARING)
def test_equal_answers_leave_no_gradient(name):
    lengths = np.asarray([[3, 3], [3, 3]])
    batch = pairs.targets_only(lengths)
    answer = np.asarray([[-1.0, -2.0, -0.3], [-2.0, -1.0, -1.0]], np.float32)
    logps, ref = pairs.laid_out(batch, answer, answer), pairs.laid_out(batch, answer - 0.5, answer - 0.5)
    value, grads = value_and_gradient(name, NEEDS.get(name, {}), batch, logps, ref)
    assert np.isfinite(value)
    answers = [np.asarray(grads)[batch.target_branches == branch] for branch in (1, 2)]
    np.testing.assert_allclose(answers[0] + answers[1], 0, atol=1e-7)
    assert np.abs(answers[0]).max() > 1e-4  # each answer has one, and they cancel


def numbers(seed=0):
    rng = np.random.default_rng(seed)
    batch = pairs.targets_only(np.asarray([[3, 2], [1, 4], [2, 2]]))
    logps = -np.abs(rng.normal(1, 1, batch.weights.shape)).astype(np.float32) * batch.weights
    return batch, logps


def test_unlikelihood_equals_numpy():
    """-log(1 - p) of the rejected tokens, and its derivative p / (1 - p)."""
    batch, logps = numbers()
    rejected = batch.target_branches == 2
    p = np.exp(logps.astype(np.float64))
    value, grads = value_and_gradient("unlikelihood", {}, batch, logps, None)
    np.testing.assert_allclose(value, -np.log(1 - p[rejected]).sum() / rejected.sum(), rtol=1e-5)
    want = np.where(rejected, p / np.where(rejected, 1 - p, 1), 0) / rejected.sum()
    np.testing.assert_allclose(grads, want, rtol=2e-5, atol=1e-7)


def test_a_token_that_is_certain_still_becomes_unlikely():
    batch, logps = numbers()
    stats = PairStats(jnp.zeros_like(logps), None, batch, section())
    np.testing.assert_allclose(unlikelihood(stats, None), -np.log(1e-6), rtol=0.01)
    grads = jax.grad(lambda x: unlikelihood(PairStats(x, None, batch, section()), None)[0, 0])(jnp.zeros_like(logps))
    assert 1e5 < float(grads[0, 0]) < 1e7  # times 1 - p of the softmax, which is as small


@pytest.mark.parametrize("size", [0.2, 3.0])
def test_margin_equals_numpy(size):
    batch, logps = numbers(3)
    means = [[logps[row, batch.target_branches[row] == branch].mean() for branch in (1, 2)] for row in range(3)]
    want = np.maximum(size - (np.asarray(means)[:, 0] - np.asarray(means)[:, 1]), 0)
    np.testing.assert_allclose(margin(PairStats(logps, None, batch, section(margin=size)), None)[:, 0], want, rtol=1e-5)
    value, grads = value_and_gradient("margin", {"margin": size}, batch, logps, None)
    np.testing.assert_allclose(value, want.mean(), rtol=1e-5)
    for row, (c, r) in enumerate([(3, 2), (1, 4), (2, 2)]):
        expected = np.concatenate([np.full(c, -1 / c), np.full(r, 1 / r)]) / 3 * (want[row] > 0)
        np.testing.assert_allclose(np.asarray(grads)[row, : c + r], expected, rtol=1e-5)
    assert size < 1 or (want > 0).all()


def test_bco_pair_with_the_mean_of_all_rewards_so_far_equals_numpy():
    """InternVL's MPO: the shift has no gradient, and a step reads the mean of the steps before it."""
    batch, logps = numbers()
    sums = np.asarray(
        [[logps[row, batch.target_branches[row] == branch].sum() for branch in (1, 2)] for row in range(3)]
    )
    state = RewardMean(jnp.float32(-0.2), jnp.float32(6))
    stats = PairStats(logps, np.zeros_like(logps), batch, section(beta=0.3))
    want = np.log1p(np.exp(-(0.3 * sums[:, 0] + 0.2))) + np.log1p(np.exp(0.3 * sums[:, 1] + 0.2))
    np.testing.assert_allclose(LOSSES["bco_pair"].function(stats, state)[:, 0], want, rtol=1e-5)
    assert LOSSES["bco_pair"].state(section()) == RewardMean.zero()
    assert LOSSES["bco_pair"].state(section(bco_shift="none")) is None


def test_the_aot_losses_compare_the_whole_batch_by_rank():
    """The closed form of their sorted differences, of packed rows with a masked one among them."""
    chosen, rejected = np.asarray([3.0, -1.0, 0.5, 9.0], np.float32), np.asarray([1.0, 2.0, -2.0, 9.0], np.float32)
    batch = pairs.targets_only(np.full((4, 2), 1))
    batch.weights[3], batch.row_index[3] = 0, -1
    logps = pairs.laid_out(batch, chosen[:, None], rejected[:, None]) * batch.weights
    want = np.log1p(np.exp(-0.1 * (np.sort(chosen[:3]) - np.sort(rejected[:3]))))
    value, _ = value_and_gradient("aot_unpaired", {}, batch, logps, np.zeros_like(logps))
    np.testing.assert_allclose(value, want.mean(), rtol=1e-5)


# ---- settings


def test_the_defaults_of_the_config_are_those_of_the_losses():
    base = configs.base().objective
    assert {name: getattr(base, name) for name in SETTINGS} == SETTINGS
    read = {name for loss in LOSSES.values() for name in loss.reads}
    assert read == SETTINGS.keys()


OTHER = {
    "label_smoothing": 0.1, "f_divergence_type": "js_divergence", "f_alpha_divergence_coef": 0.3, "ld_alpha": 0.5,
    "use_weighting": True, "discopop_tau": 0.1, "bco_shift": "none", "simpo_gamma": 1.0, "margin": 2.0,
    "desirable_weight": 2.0, "undesirable_weight": 2.0, "reference": "step",
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_setting_is_read_or_an_error(name, setting):
    """A loss that says that it reads a setting changes with it; of any other loss it is an error."""
    own = NEEDS.get(name, {})
    if setting not in LOSSES[name].reads:
        with pytest.raises(UserError, match=f"^objective.{setting}: .*no loss of {name} reads it; set it to "):
            terms_of(section(terms=((name, 1.0),), **{**own, setting: OTHER[setting]}))
        return
    if setting == "reference":
        return  # which the objective reads, see test_preference_step.py
    first = own | ({"f_divergence_type": "alpha_divergence"} if setting == "f_alpha_divergence_coef" else {})
    batch = pairs.targets_only(np.asarray([[3, 2, 2], [1, 4, 2], [2, 2, 2]]))
    rng = np.random.default_rng(1)
    logps, ref = (-np.abs(rng.normal(1, 1, batch.weights.shape)).astype(np.float32) * batch.weights for _ in range(2))
    before, after = (
        value_and_gradient(name, x, batch, logps, ref)[0] for x in (first, first | {setting: OTHER[setting]})
    )
    assert abs(float(before - after)) > 1e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(terms=(("exo_pair", 1.0),)), "label_smoothing: 0.0, but 'exo_pair' takes its logarithm; set it"),
        (dict(terms=(("sigmoid", 1.0), ("kto", 1.0))), "'kto' takes single answers, but 'sigmoid' compares two"),
        (dict(terms=(("sigmoid", 1.0), ("nca_pair", 1.0)), f_divergence_type="forward_kl"),
         r"f_divergence_type: 'forward_kl', but 'nca_pair' .* has no such form \(losses that have: sigmoid, hinge"),
        (dict(terms=(("sigmoid", 1.0), ("aot", 1.0)), use_weighting=True), "use_weighting: True, but 'aot' .* no such"),
        (dict(terms=(("sigmoid", 1.0),), f_alpha_divergence_coef=0.3),
         "f_alpha_divergence_coef: 0.3, but objective.f_divergence_type='reverse_kl' does not read it"),
        (dict(terms=(("bco", 1.0),)), "objective.terms: 'bco' is 'bco_pair' now"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other_are_errors_of_one_line(changes, says):
    with pytest.raises(UserError, match=says) as caught:
        terms_of(section(**changes))
    assert "\n" not in str(caught.value)


def test_presets_are_buildable_and_name_what_they_say():
    for name, terms in PRESETS.items():
        if terms:
            assert terms_of(section(name=name)) == terms
    assert PRESETS["cpo"] == (("cpo", 1.0), ("sft", 1.0)) and PRESETS["orpo"] == (("orpo", 1.0), ("sft", 1.0))
