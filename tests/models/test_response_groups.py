"""Groups of n responses that share image and prompt in one row, as online RL samples them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.models.logprobs import answer_logps, score, score_states, target_states_and_similarity
from pivot_jax.models.mllm import MLLM
from tests.tiny import pairs

IMAGE, PROMPT, ANSWERS = 4, 5, (3, 1, 6, 2)
START = IMAGE + PROMPT


def row(text, answer):
    """Image, prompt and one answer of the given length (0: the prompt alone) as a row without branches."""
    indices = np.arange(START + answer, dtype=np.int32)
    return EncodedRow(
        id="row",
        tokens=np.concatenate([np.full(IMAGE, 5), text]).astype(np.int32),
        image_slots=np.where(indices < IMAGE, indices, -1),
        positions=indices,
        branches=np.zeros_like(indices),
        sources=indices[START:] - 1,
        targets=text[PROMPT:].astype(np.int32),
        target_branches=np.zeros(answer, np.int32),
    )


def batches():
    """Two groups in a row each, and for each response a batch of the two sequences with it alone."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
    texts = rng.integers(6, pairs.VOCABULARY, (2, PROMPT + sum(ANSWERS)))
    ends = PROMPT + np.cumsum(ANSWERS)
    parts = [np.r_[0:PROMPT, end - n : end] for n, end in zip(ANSWERS, ends, strict=True)]
    longest = START + max(ANSWERS)
    groups = [group_row(row(text[:PROMPT], 0), np.split(text[PROMPT:], ends[:-1] - PROMPT)) for text in texts]
    together = partial(vlm_batch, images=ImageArrays(images), row_index=np.arange(2), constants=Collation(0, IMAGE))
    group = together(groups, bucket=(START + sum(ANSWERS) + 3, sum(ANSWERS)))
    alone = [
        together([row(text[indices], n) for text in texts], bucket=(longest, n))
        for indices, n in zip(parts, ANSWERS, strict=True)
    ]
    return group, alone


@pytest.mark.heavy
def test_a_group_in_one_row_equals_a_sequence_per_response():
    """Log-probs of every token, and the gradients of a sum that weighs each response by an advantage."""
    module, params, (group, alone) = MLLM(pairs.CONFIG), pairs.params(), batches()
    advantages = jnp.asarray([0.7, -1.2, 0.1, 2.0])

    def together(params):
        stats = score(module, params, group)
        return jnp.sum(answer_logps(stats, group, len(ANSWERS)) @ advantages), stats.logps

    def apart(params):
        logps = [score(module, params, batch).logps for batch in alone]
        total = sum(advantage * jnp.sum(x) for advantage, x in zip(advantages, logps, strict=True))
        return total, jnp.concatenate(logps, axis=1)

    (_, got), got_grads = jax.jit(jax.value_and_grad(together, has_aux=True))(params)
    (_, want), want_grads = jax.jit(jax.value_and_grad(apart, has_aux=True))(params)
    np.testing.assert_allclose(got, want, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * (1 + np.abs(b).max())), got_grads, want_grads
    )


def test_similarity_to_the_image_comes_with_the_same_logprobs():
    """Of each response that of its own tokens' states in a sequence alone; log-probs as of the pass without it."""
    module, params, (group, alone) = MLLM(pairs.CONFIG), pairs.params(), batches()
    states, similarity = jax.jit(partial(target_states_and_similarity, module))(params, group)
    stats = jax.jit(score_states)(params, states, group)
    np.testing.assert_allclose(stats.logps, jax.jit(partial(score, module))(params, group).logps, atol=2e-5)
    of_tokens = jax.jit(lambda params, batch: module.apply({"params": params}, batch, method="hidden_and_similarity"))
    expected = np.concatenate(
        [of_tokens(params, batch)[1][:, START:][:, :n] for batch, n in zip(alone, ANSWERS, strict=True)], axis=1
    )
    np.testing.assert_allclose(similarity, expected, atol=1e-5)
    assert np.ptp(expected) > 0.05 and np.abs(expected).max() < 1
