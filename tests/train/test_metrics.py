"""Reading a run's metrics.jsonl."""

from __future__ import annotations

import pytest

from pivot_jax.errors import UserError
from pivot_jax.train.metrics import read


def test_the_line_that_a_kill_truncated_is_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": null}\n{"step": 3, "lo')
    assert read(file) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}]


def test_a_run_without_metrics(tmp_path):
    with pytest.raises(UserError, match="has the run started"):
        read(tmp_path / "none.jsonl")
