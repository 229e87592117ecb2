"""A benchmark of six questions in three pairs in place of MMVP's files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.eval.benchmarks import suite


def pairs(count=6):
    choices = ("Open", "Closed")
    return [
        Example(
            str(i + 1),
            (Message("user", f"<image>\nQuestion {i}?"),),
            ("none.png",),
            extra={"answer": "AB"[i % 2], "choices": choices, "unit": i // 2},
        )
        for i in range(count)
    ]


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(suite.BENCHMARKS, "mmvp", replace(suite.BENCHMARKS["mmvp"], read=lambda path: pairs()))
