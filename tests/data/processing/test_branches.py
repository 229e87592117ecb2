"""The layout of a prompt with n responses in one row."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row


def prompt(positions=(0, 1, 2, 3), **changes):
    """Two image tokens and two of text, of which the last is a target."""
    arrays = {
        "tokens": [9, 9, 7, 8], "image_slots": [0, 1, -1, -1], "positions": positions, "branches": [0] * 4,
        "sources": [2], "targets": [8], "target_branches": [0],
    }  # fmt: skip
    return EncodedRow("p", **{name: np.asarray(x, np.int32) for name, x in arrays.items()}, images=("a",), **changes)


def test_a_group_row():
    row = group_row(prompt(cut=True), [[1, 2], [3], [4, 5]])
    assert row.tokens.tolist() == [9, 9, 7, 8, 1, 2, 3, 4, 5]
    assert row.branches.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 4, 4, 5]
    assert row.image_slots.tolist() == [0, 1] + [-1] * 7
    assert row.sources.tolist() == [2, 3, 4, 3, 3, 7]
    assert row.targets.tolist() == [8, 1, 2, 3, 4, 5] and row.target_branches.tolist() == [0, 1, 1, 2, 3, 3]
    assert row.images == ("a",) and row.cut and row.tile_taps is None
    assert {x.dtype for x in vars(row).values() if isinstance(x, np.ndarray)} == {np.dtype(np.int32)}


def test_positions_of_three_axes_go_on_from_the_largest():
    row = group_row(prompt(positions=[(0, 0, 0), (0, 0, 5), (2, 2, 2), (3, 3, 3)]), [[1], [2, 3]])
    assert row.positions[4:].tolist() == [[6] * 3, [6] * 3, [7] * 3]


def test_tiles_lie_in_the_prompt_only():
    taps = np.arange(16, dtype=np.int32).reshape(4, 4)
    row = group_row(prompt(tile_taps=taps, tile_weights=taps.astype(np.float32)), [[1], [2]])
    np.testing.assert_array_equal(row.tile_taps, [*taps, [-1] * 4, [-1] * 4])
    np.testing.assert_array_equal(row.tile_weights, [*taps, [0] * 4, [0] * 4])


@pytest.mark.parametrize("responses", [[], [[1], []]])
def test_an_empty_response_is_refused(responses):
    with pytest.raises(ValueError, match="row 'p': every response needs at least one token"):
        group_row(prompt(), responses)
