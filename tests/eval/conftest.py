"""A benchmark of six questions in three pairs in place of MMVP's files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.base import Item


def pairs(count=6):
    return [
        Item(str(i + 1), f"Question {i}?", ("none.png",), ("Open", "Closed"), ("AB"[i % 2],), unit=i // 2)
        for i in range(count)
    ]


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(suite.BENCHMARKS, "mmvp", replace(suite.BENCHMARKS["mmvp"], read=lambda path: pairs()))
