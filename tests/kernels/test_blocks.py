"""Lists of visited blocks, compared with the mask itself."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivot_jax.kernels import blocks
from pivot_jax.kernels.mask import NO_IDS, Ids, encode, visible


def pairs(ids, causal, n, q_block, k_block, padded_n, padded_m):
    """The mask [b, padded_n, padded_m] as blocks [b, i, j, q_block, k_block]."""
    mask = visible(ids, range(n), range(n), causal)
    mask = np.ones((1, n, n), bool) if mask is None else np.asarray(mask)
    mask = np.pad(mask.reshape(-1, n, n), ((0, 0), (0, padded_n - n), (0, padded_m - n)))
    return mask.reshape(-1, padded_n // q_block, q_block, padded_m // k_block, k_block).swapaxes(2, 3)


@settings(max_examples=12, deadline=None)
@given(
    n=st.sampled_from([1, 7, 16, 29, 40]),
    q_block=st.sampled_from([4, 8]),
    k_block=st.sampled_from([4, 16]),
    causal=st.booleans(),
    kind=st.sampled_from(["none", "segments", "branches"]),
    seed=st.integers(0, 999),
)
@pytest.mark.heavy
def test_no_visible_pair_is_skipped_and_no_hidden_one_is_whole(n, q_block, k_block, causal, kind, seed):
    rng = np.random.default_rng(seed)
    segments = jnp.asarray(np.sort(rng.integers(0, 4, (2, n)), axis=1)[:, ::-1].copy())
    branches = jnp.asarray(np.sort(rng.integers(0, 3, (2, n)), axis=1))
    ids = {"none": NO_IDS, "segments": Ids.same(segments), "branches": Ids.same(segments, branches)}[kind]
    padded_n, padded_m = -(-n // q_block) * q_block, -(-n // k_block) * k_block
    codes = encode(ids, (2, n, n), (padded_n, padded_m))
    some, every = (np.asarray(x) for x in blocks.relation(codes, causal, q_block, k_block))
    mask = np.broadcast_to(
        pairs(ids, causal, n, q_block, k_block, padded_n, padded_m), (2, *some.shape[1:], q_block, k_block)
    )
    assert not np.any(mask.any((-1, -2)) & ~some)
    assert not np.any(every & ~mask.all((-1, -2)))
    found = blocks.visits(jnp.asarray(some), jnp.asarray(every))
    for b, i in np.ndindex(some.shape[:2]):
        count = int(found.count[b, i])
        np.testing.assert_array_equal(found.blocks[b, i, :count], np.nonzero(some[b, i])[0])
        np.testing.assert_array_equal(found.whole[b, i, :count], every[b, i][some[b, i]])
        assert np.all(
            np.asarray(found.blocks[b, i, count:])
            == (found.blocks[b, i, count - 1] if count else found.blocks[b, i, 0])
        )


def test_responses_that_share_a_prompt_skip_each_other():
    """A prompt of two blocks and three responses of two: each response visits the prompt's blocks and its own."""
    branches = jnp.repeat(jnp.asarray([[0, 1, 2, 3]]), 8, axis=1)
    segments = jnp.ones_like(branches)
    codes = encode(Ids.same(segments, branches), (1, 32, 32), (32, 32))
    some, every = blocks.relation(codes, True, 4, 4)
    found = blocks.visits(some, every)
    np.testing.assert_array_equal(found.count[0], [1, 2, 3, 4, 3, 4, 3, 4])
    np.testing.assert_array_equal(found.blocks[0, 5, :4], [0, 1, 4, 5])
    np.testing.assert_array_equal(found.whole[0, 5, :4], [1, 1, 1, 0])


def test_windows_are_segments_that_visit_only_themselves():
    """Qwen2.5-VL's vision tower: full attention within windows of 64 tokens, of which the last is short."""
    segments = 1 + jnp.arange(500)[None] // 64
    codes = encode(Ids.same(segments), (1, 500, 500), (512, 512))
    some, every = blocks.relation(codes, False, 64, 64)
    np.testing.assert_array_equal(some[0], np.eye(8, dtype=bool))
    np.testing.assert_array_equal(every[0], np.diag([True] * 7 + [False]))
