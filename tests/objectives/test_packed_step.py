"""A packed batch gives the loss, gradients and metrics of its rows alone: nothing leaks between rows of a sequence."""

from __future__ import annotations

from functools import cache, partial

import jax
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.paired_losses import RewardMean
from pivot_jax.objectives.preference import build_preference
from pivot_jax.objectives.sft import build_sft
from tests.tiny import pairs

MODEL = MLLM(pairs.CONFIG)


def preference(**changes):
    section = configs.base().objective
    section.update(changes)
    return build_preference(MODEL, section)


OBJECTIVES = {
    "sft": build_sft(MODEL),
    "dpo": preference(name="dpo", terms=(("sigmoid", 1.0), ("sft", 0.3))),
    "mpo": preference(name="mpo"),
}


def rows(ref: bool = True):
    """Eight pairs with 0 to 2 images, scored prompt tokens and two masked rows."""
    return pairs.masked(pairs.pairs(8, images_per_row=(2, 0, 1), prompt_targets=True, ref=ref), (2, 7))


def run(objective, batch, reference=None):
    """(loss, gradients, metrics); ``reference`` parameters or None."""

    @jax.jit
    def compute(params, batch, reference):
        def loss(params):
            memory = objective.memory and {"bco_pair": RewardMean(0.4, 8.0)}
            return objective.loss(params, batch, objective.totals(batch), memory, reference)

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, {name: (term.mean(), term.weight) for name, term in metrics.items()}

    return compute(pairs.params(), batch, reference)


@cache
def alone(name):
    """The objective on the rows, each in a sequence of its own."""
    return run(OBJECTIVES[name], rows())


def check(alone, packed):
    np.testing.assert_allclose(packed[0], alone[0], rtol=1e-5)
    for name, values in alone[2].items():
        np.testing.assert_allclose(packed[2][name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    got, want = (rules.flatten(result[1]) for result in (packed, alone))
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, rtol=1e-5, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("name", "pack"), [("sft", 4), ("dpo", 2), ("dpo", 8), pytest.param("mpo", 4, marks=pytest.mark.heavy)]
)
@pytest.mark.heavy
def test_a_packed_batch_is_its_rows_alone(name, pack):
    check(alone(name), run(OBJECTIVES[name], pairs.packed(rows(), pack)))


@pytest.mark.heavy
def test_the_reference_may_run_in_the_step():
    batch, reference = rows(ref=False), pairs.params(1)
    check(run(OBJECTIVES["dpo"], batch, reference), run(OBJECTIVES["dpo"], pairs.packed(batch, 4), reference))


def test_a_packed_batch_holds_each_row_once_and_says_whose_a_target_is():
    batch = rows()
    packed = pairs.packed(batch, 4)
    assert packed.images.shape == (2, 4 * 2, 16, 16, 3) and packed.ref_logps.shape == packed.targets.shape
    assert packed.row_index.tolist() == [[0, 1, -1, 3], [4, 5, 6, -1]]
    assert [sorted(set(s)) for s in packed.segments.tolist()] == [[0, 1, 2, 4], [0, 1, 2, 3]]
    for place, row in ((place, row) for place, row in np.ndenumerate(packed.row_index) if row >= 0):
        sequence, member = place
        mine, alone = packed.segments[sequence] == member + 1, batch.segments[row] > 0
        for name in ("tokens", "positions", "branches"):
            assert getattr(packed, name)[sequence, mine].tolist() == getattr(batch, name)[row, alone].tolist()
        slots, own = packed.image_slots[sequence, mine], batch.image_slots[row, alone]
        assert slots.tolist() == np.where(own < 0, -1, own + member * 2 * 4).tolist()
        scored = (packed.target_rows[sequence] == member) & (packed.weights[sequence] > 0)
        assert packed.targets[sequence, scored].tolist() == batch.targets[row, batch.weights[row] > 0].tolist()
        values = packed.ref_logps[sequence, scored], batch.ref_logps[row, batch.weights[row] > 0]
        assert values[0].tolist() == values[1].tolist() and values[0].any()
        assert mine[packed.sources[sequence, scored]].all()
        assert (packed.sources[sequence, scored] - np.argmax(mine)).tolist() == batch.sources[
            row, batch.weights[row] > 0
        ].tolist()
    assert packed.weights.sum() == batch.weights.sum()


def test_log_probs_have_an_entry_per_row_and_a_masked_one_is_zero():
    batch = rows()
    scored = jax.jit(partial(score, MODEL))
    sums = answer_logps(scored(pairs.params(), batch), batch)
    packed = pairs.packed(batch, 4)
    together = answer_logps(scored(pairs.params(), packed), packed)
    assert sums.shape == (8, 1, 2) and together.shape == (2, 4, 2)
    np.testing.assert_allclose(together.reshape(8, 2), sums[:, 0], rtol=1e-5)
    assert not np.any(together[0, 2]) and not np.any(together[1, 3])
