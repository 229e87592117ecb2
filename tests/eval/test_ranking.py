"""Options of a question, ranked by their log-probs: all of them in one row equal a row for each."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.eval import ranking
from tests.tiny import mllm, rollouts

VOCAB = 31


@pytest.fixture(scope="module")
def model():
    return mllm.tiny_mllm(VOCAB, gain=2.0)


def batch(rows):
    """Right padded."""
    bucket = max(len(row.tokens) for row in rows), max(len(row.targets) for row in rows)
    images = ImageArrays(np.stack([row.images[0][None] for row in rows]))
    return vlm_batch(rows, images, np.arange(len(rows)), bucket, Collation(0, mllm.PATCHES))


def test_option_logps_equal_separate_forwards(model):
    module, params = model
    prompts = [prompt.row for prompt in rollouts.random_prompts((6, 9), VOCAB)]
    options = [[[3, 4], [5], [6, 7, 8]], [[9], [10, 11]]]
    rows = [group_row(row, own) for row, own in zip(prompts, options, strict=True)]
    sums, counts = ranking.option_logps(module, params, batch(rows), max_options=3)
    assert counts.tolist() == [[2, 1, 3], [1, 2, 0]] and sums[1, 2] == -np.inf
    cells = [(row, index) for row in range(2) for index in range(len(options[row]))]
    alone = [group_row(prompts[row], [options[row][index]]) for row, index in cells]
    single, _ = ranking.option_logps(module, params, batch(alone), max_options=1)
    np.testing.assert_allclose([sums[cell] for cell in cells], single[:, 0], atol=2e-4)


def test_rank_normalisations():
    sums = np.array([[-4.0, -3.0, -np.inf]])
    counts = np.array([[4, 1, 0]])
    assert ranking.rank(sums, counts, "sum").tolist() == [1]
    assert ranking.rank(sums, counts, "mean").tolist() == [0]
    assert ranking.rank(sums, counts, "prior", np.array([[-9.0, -3.5, -np.inf]])).tolist() == [0]
