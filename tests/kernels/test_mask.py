"""The visibility rule, pair by pair, and its two forms compared with each other."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.kernels.mask import NO_IDS, Ids, encode, match, visible

N = 12
KINDS = ("none", "segments", "branches")


def ids_of(kind):
    """Two rows of ids: padding (0), segments and branches in random order."""
    rng = np.random.default_rng(0)
    segments, branches = (jnp.asarray(rng.integers(0, 3, (2, N))) for _ in range(2))
    return {"none": NO_IDS, "segments": Ids.same(segments), "branches": Ids.same(segments, branches)}[kind]


def by_pair(ids, causal):
    """The rule, written for one query and key at a time."""
    mask = np.ones((2, N, N), bool)
    for b, query, key in itertools.product(range(2), range(N), range(N)):
        if causal and key > query:
            mask[b, query, key] = False
        if ids.q_segments is not None:
            segment = int(ids.q_segments[b, query])
            mask[b, query, key] &= segment != 0 and segment == int(ids.kv_segments[b, key])
        if ids.q_branches is not None:
            mask[b, query, key] &= int(ids.kv_branches[b, key]) in (0, int(ids.q_branches[b, query]))
    return mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_follows_the_rule(kind, causal):
    ids = ids_of(kind)
    assert ids.kind == kind
    mask = visible(ids, range(N), range(N), causal)
    if kind == "none" and not causal:
        assert mask is None
    else:
        np.testing.assert_array_equal(np.broadcast_to(mask, (2, N, N)), by_pair(ids, causal))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_mask_of_a_block_is_a_part_of_the_whole_mask(kind, causal):
    ids = ids_of(kind)
    row = Ids(*(None if x is None else x[1] for x in ids))
    np.testing.assert_array_equal(visible(row, range(3, 7), range(2, 9), causal), by_pair(ids, causal)[1, 3:7, 2:9])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_match_where_the_mask_is_true(kind):
    ids = ids_of(kind)
    codes = encode(ids, (2, N, N), (N + 4, N + 2))
    queries = [codes.own, codes.shared] if kind == "branches" else [codes.own]
    found = match(codes.keys[:, None, :], (x[:, :, None] for x in queries))
    want = np.pad(by_pair(ids, causal=False), ((0, 0), (0, 4), (0, 2)))
    np.testing.assert_array_equal(found, want)
