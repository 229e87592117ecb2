"""Visual pairs: the log-probs of one row with two images are those of two rows with one image each."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from pivot_jax import config as configs
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import side_by_side
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.preference import build_preference
from tests.tiny import pairs

MODEL = MLLM(pairs.CONFIG)
scored = jax.jit(partial(score, MODEL))


def test_log_probs_and_the_loss_are_those_of_two_rows():
    rng = np.random.default_rng(0)
    made = pairs.pair_row(rng, prompt_targets=False)
    one = made["branches"] < 2
    fields = {name: made[name][one].astype(np.int32) for name in ("tokens", "image_slots", "positions", "branches")} | {
        name: made[name][made["target_branches"] == 1].astype(np.int32)
        for name in ("sources", "targets", "target_branches")
    }
    sides = [EncodedRow("row", **fields, images=(name,)) for name in ("a", "b")]
    pixels = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    n, t = len(sides[0].tokens), len(sides[0].targets)
    row = side_by_side(sides, 4)
    together = vlm_batch([row], ImageArrays(pixels[None]), np.arange(1), (2 * n, 2 * t), Collation(0, 4))
    apart = vlm_batch(sides, ImageArrays(pixels[:, None]), np.arange(2), (n, t), Collation(0, 4))
    want = np.asarray(scored(pairs.params(), apart).logps)
    got = np.asarray(scored(pairs.params(), together).logps).reshape(2, t)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert np.abs(want[0] - want[1]).max() > 1e-3  # the images do differ

    section = configs.base().objective
    section.update({"name": "dpo", "beta": 0.5})
    objective = build_preference(MODEL, section)
    batch = together.replace(ref_logps=np.full(together.weights.shape, -3.0, np.float32))
    loss, _ = jax.jit(lambda p: objective.loss(p, batch, objective.totals(batch), None, None))(pairs.params())
    delta = want[0].sum() - want[1].sum()  # the reference has the same value on both sides
    np.testing.assert_allclose(loss, np.log1p(np.exp(-0.5 * delta)), rtol=1e-4)
