"""The layout of a prompt with n responses in one row."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.collate import Collation, prompt_batch, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays


def prompt(positions=(0, 1, 2, 3), **changes):
    """Two image tokens and two of text, of which the last is a target."""
    arrays = {
        "tokens": [9, 9, 7, 8], "image_slots": [0, 1, -1, -1], "positions": positions, "branches": [0] * 4,
        "sources": [2], "targets": [8], "target_branches": [0],
    }  # fmt: skip
    return EncodedRow("p", **{name: np.asarray(x, np.int32) for name, x in arrays.items()}, images=("a",), **changes)


def test_a_group_row():
    row = group_row(prompt(truncated=True), [[1, 2], [3], [4, 5]])
    assert row.tokens.tolist() == [9, 9, 7, 8, 1, 2, 3, 4, 5]
    assert row.branches.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 4, 4, 5]
    assert row.image_slots.tolist() == [0, 1] + [-1] * 7
    assert row.sources.tolist() == [2, 3, 4, 3, 3, 7]
    assert row.targets.tolist() == [8, 1, 2, 3, 4, 5] and row.target_branches.tolist() == [0, 1, 1, 2, 3, 3]
    assert row.images == ("a",) and row.truncated and row.tile_taps is None
    assert {x.dtype for x in vars(row).values() if isinstance(x, np.ndarray)} == {np.dtype(np.int32)}


def test_positions_of_three_axes_go_on_from_the_largest():
    row = group_row(prompt(positions=[(0, 0, 0), (0, 0, 5), (2, 2, 2), (3, 3, 3)]), [[1], [2, 3]])
    assert row.positions[4:].tolist() == [[6] * 3, [6] * 3, [7] * 3]


def test_tiles_lie_in_the_prompt_only():
    taps = np.arange(16, dtype=np.int32).reshape(4, 4)
    row = group_row(prompt(tile_taps=taps, tile_weights=taps.astype(np.float32)), [[1], [2]])
    np.testing.assert_array_equal(row.tile_taps, [*taps, [-1] * 4, [-1] * 4])
    np.testing.assert_array_equal(row.tile_weights, [*taps, [0] * 4, [0] * 4])


def test_masked_rows_alone_have_the_fields_of_tiles():
    """One of several processes may have no row of a batch; all run the same program."""
    taps = np.arange(16, dtype=np.int32).reshape(4, 4)
    row, images = prompt(tile_taps=taps, tile_weights=taps / 16), ImageArrays(np.zeros((2, 1, 4, 4, 3), np.uint8))
    for constants, tiled in ((Collation(0, 2, tiled=True), True), (Collation(0, 2), False)):
        for batch_of in (prompt_batch, partial(vlm_batch, packing=1)):
            size: Any = 8 if batch_of is prompt_batch else (8, 4)
            own, masked = (
                batch_of([first, None], images, np.asarray([-1, -1]), size, constants) for first in (row, None)
            )
            for name in ("tile_taps", "tile_weights"):
                one, other = getattr(own, name), getattr(masked, name)
                assert one is not None and (other is not None) == tiled, name
                assert not tiled or (one.shape, one.dtype) == (other.shape, other.dtype), name
            assert not tiled or ((masked.tile_taps == -1).all() and not masked.tile_weights.any())


@pytest.mark.parametrize("responses", [[], [[1], []]])
def test_an_empty_response_is_refused(responses):
    with pytest.raises(ValueError, match="row 'p': every response needs at least one token"):
        group_row(prompt(), responses)


def test_values_of_targets_are_laid_out_like_targets():
    """Packed, beside a masked row, and apart from the other fields' padding."""
    rows = [group_row(prompt(), [[1, 2], [3]]), None, None, group_row(prompt(), [[4], [5]])]
    values = {
        "old_logps": [np.asarray([0, -1, -2, -3]), None, None, np.asarray([0, -4, -5])],
        "advantages": [np.asarray([0, 0.5, 0.5, -1]), None, None, np.asarray([0, 2, -2])],
    }
    images, index = ImageArrays(np.zeros((4, 1, 4, 4, 3), np.uint8)), np.asarray([0, -1, -1, 1])
    layout = dict(constants=Collation(0, 2), packing=2)
    batch = vlm_batch(rows, images, index, (16, 6), target_values=values, **layout)
    assert batch.targets.tolist() == [[8, 1, 2, 3, 0, 0], [8, 4, 5, 0, 0, 0]] and batch.ref_logps is None
    assert batch.old_logps.tolist() == [[0, -1, -2, -3, 0, 0], [0, -4, -5, 0, 0, 0]]
    assert batch.advantages.tolist() == [[0, 0.5, 0.5, -1, 0, 0], [0, 2, -2, 0, 0, 0]]
    assert batch.old_logps.dtype == batch.advantages.dtype == np.float32
    masked = vlm_batch([None] * 4, images, index, (16, 6), target_values={"ref_logps": [None] * 4}, **layout)
    assert masked.ref_logps.shape == (2, 6) and not masked.ref_logps.any()
    values["old_logps"][0] = np.zeros(3)
    with pytest.raises(ValueError, match=r"old_logps: rows of \[3, 0, 0, 3\] values, but of \[4, 0, 0, 3\] scored"):
        vlm_batch(rows, images, index, (16, 6), target_values=values, **layout)
