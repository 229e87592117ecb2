"""Nouns after numbers."""

from __future__ import annotations

from pivot_jax.words import counted


def test_one_is_singular():
    assert [counted(n, "question") for n in (0, 1, 2)] == ["0 questions", "1 question", "2 questions"]
    assert counted(1, "class", "classes") == "1 class"
    assert counted(1200, "class", "classes") == "1,200 classes"
