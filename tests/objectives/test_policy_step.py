"""The policy objective on a whole tiny MLLM: groups of responses to prompts with images."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.models.logprobs import score
from pivot_jax.objectives.policy import sampled_from
from pivot_jax.objectives.table import build_objective
from pivot_jax.optim.accumulate import loss_and_gradients
from tests.tiny.mllm import IMAGE, PATCHES, tiny_mllm

VOCABULARY, IMAGE_TOKEN, N = 40, 39, 3
BANNED = (IMAGE_TOKEN, 38)
MLLM, PARAMS = tiny_mllm(VOCABULARY, gain=2.0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 1, IMAGE, IMAGE, 3)).astype(np.uint8)


def prompt(i):
    tokens = np.asarray([IMAGE_TOKEN] * PATCHES + [3 + i, 5, 6], np.int32)
    none = np.zeros(0, np.int32)
    return EncodedRow(
        id=str(i), tokens=tokens, image_slots=np.r_[np.arange(PATCHES), [-1] * 3].astype(np.int32),
        positions=np.arange(len(tokens), dtype=np.int32), branches=np.zeros(len(tokens), np.int32),
        sources=none, targets=none, target_branches=none,
    )  # fmt: skip


ROWS = [
    group_row(prompt(i), [RNG.integers(1, 38, RNG.integers(1, 6)).tolist() for _ in range(N)])
    for i in range(len(IMAGES))
]
ADVANTAGES = [RNG.normal(size=len(row.targets)).astype(np.float32) for row in ROWS]


def batch(**values):
    return vlm_batch(
        ROWS, ImageArrays(IMAGES, None), np.arange(len(ROWS)), (24, 16), Collation(0, PATCHES),
        target_values={"advantages": ADVANTAGES, **values},
    )  # fmt: skip


def section(**changes):
    run = configs.base()
    changes = {
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.importance": "none",
        "rl.responses": N,
    } | changes
    for key, value in changes.items():
        configs.set_key(run, key, value)
    return run


def run(config, data, accumulate=1):
    """(loss, gradients, {metric: mean})."""
    objective = build_objective(MLLM, config, BANNED)
    compute = jax.jit(lambda p, b: loss_and_gradients(objective, p, {}, b, accumulate, objective.memory, None))
    loss, grads, metrics = compute(PARAMS, data)
    return float(loss), grads, {name: float(term.mean()) for name, term in metrics.items()}


@cache
def plain():
    return run(section(**{"rl.temperature": 0.7}), batch())


def rows_of(values):
    """[b, t] → one array per row."""
    return [np.asarray(values)[i, : len(row.targets)] for i, row in enumerate(ROWS)]


def scored(config):
    distribution = sampled_from(config.rl, BANNED)
    return jax.jit(lambda params, b: score(MLLM, params, b, distribution=distribution))(PARAMS, batch())


def test_log_probs_are_those_of_the_distribution_sampled_from():
    """At the temperature, without the image token: full logits of the same model, token by token."""
    stats = scored(section(**{"rl.temperature": 0.7}))
    hidden = MLLM.apply({"params": PARAMS}, batch(), None, method="hidden")
    head = PARAMS["decoder"].get("head", PARAMS["decoder"]["embed"])
    picked = np.take_along_axis(np.asarray(hidden), batch().sources[:, :, None], axis=1)
    logits = np.asarray(picked @ np.asarray(head).T, np.float64) / 0.7
    logits[..., list(BANNED)] = -np.inf
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = np.take_along_axis(logps, batch().targets[..., None], axis=-1)[..., 0]
    valid = batch().weights > 0
    np.testing.assert_allclose(np.asarray(stats.logps)[valid], want[valid], atol=1e-4)


def test_one_update_per_rollout_has_ratios_of_exactly_1():
    loss, _, metrics = plain()
    weights = np.asarray(batch().weights)
    np.testing.assert_allclose(loss, -(batch().advantages * weights).sum() / weights.sum(), atol=1e-6)
    assert metrics["approx_kl"] == metrics["clip_ratio/region_mean"] == 0
    assert metrics["entropy"] > 0.1
    np.testing.assert_allclose(metrics["policy_loss"], loss, atol=1e-7)


def test_recomputed_old_log_probs_give_the_same_first_update():
    """Ratios within 1e-6 of 1; equal gradients."""
    _, want, _ = plain()
    old = rows_of(scored(section(**{"rl.temperature": 0.7})).logps)
    _, grads, metrics = run(section(**{"rl.temperature": 0.7}), batch(old_logps=old))
    assert metrics["approx_kl"] < 1e-12
    assert metrics["clip_ratio/region_mean"] == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), grads, want)


@pytest.mark.parametrize("algorithm", ["dapo", "gspo"])
@pytest.mark.heavy_after(1)
def test_accumulation_changes_no_loss_or_gradient(algorithm):
    config = section(**{"rl.algorithm": algorithm, "rl.importance": ""})
    old = [x - 0.1 * RNG.normal(size=len(x)).astype(np.float32) for x in rows_of(scored(config).logps)]
    whole, parts = (run(config, batch(old_logps=old), k) for k in (1, 2))
    np.testing.assert_allclose(whole[0], parts[0], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole[1], parts[1])
    for name, value in whole[2].items():
        np.testing.assert_allclose(parts[2][name], value, atol=1e-5, err_msg=name)


@pytest.mark.heavy
def test_an_entropy_bonus_has_the_gradient_of_the_mean_entropy():
    """The loss minus c times the mean entropy; a step along its gradient raises the entropy."""
    zero = [np.zeros_like(x) for x in ADVANTAGES]
    config = section(**{"rl.entropy_coefficient": 0.5})
    loss, grads, metrics = run(config, batch(advantages=zero))
    np.testing.assert_allclose(loss, -0.5 * metrics["entropy"], rtol=1e-6)
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g, PARAMS, grads)
    objective = build_objective(MLLM, config, BANNED)
    data = batch(advantages=zero)
    _, after = objective.loss(moved, data, objective.totals(data), None, None)
    assert float(after["entropy"].mean()) > metrics["entropy"]


def test_a_kl_in_the_loss_needs_the_reference_and_none_does_not():
    assert build_objective(MLLM, section(), BANNED).reference is None
    config = section(**{"rl.kl_coefficient": 0.1})
    assert build_objective(MLLM, config, BANNED).reference == "stored"
    ref = rows_of(scored(config).logps)
    _, _, metrics = run(config, batch(ref_logps=ref))
    np.testing.assert_allclose(metrics["kl"], 0, atol=1e-6)
    _, _, metrics = run(config, batch(ref_logps=[x - 0.5 for x in ref]))
    np.testing.assert_allclose(metrics["kl"], np.exp(-0.5) + 0.5 - 1, atol=1e-5)
