"""Order of devices in a mesh over slices of TPUs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.parallel.mesh import arrange


def slices(count, chips):
    """TPU devices of ``count`` slices, each a row of ``chips``, with the attributes that a mesh reads."""
    chip = lambda i, at: SimpleNamespace(  # noqa: E731
        platform="tpu", slice_index=i, process_index=i, device_kind="TPU", coords=(at, 0, 0), core_on_chip=0
    )
    return [chip(i, at) for i in range(count) for at in range(chips)]


@pytest.mark.parametrize(
    "sizes, split", [((2, 4, 1), 0), ((4, 2, 1), 0), ((1, 8, 1), 1), ((1, 4, 2), 1)], ids=lambda x: str(x)
)
def test_slices_split_an_axis_of_rows(sizes, split):
    devices = arrange(slices(2, 4), sizes)
    assert devices.shape == sizes
    halves = np.split(devices, 2, axis=split)
    assert [{d.slice_index for d in half.flat} for half in halves] == [{0}, {1}]


def test_a_single_slice_keeps_its_order():
    """Its devices need no slice index."""
    devices = [SimpleNamespace(platform="tpu", id=i) for i in range(8)]
    assert [d.id for d in arrange(devices, (2, 2, 2)).flat] == list(range(8))


def test_a_number_of_slices_that_divides_no_axis_of_rows_raises_an_error():
    with pytest.raises(UserError, match="3 slices, .* set parallel.data=3"):
        arrange(slices(3, 4), (1, 2, 6))
