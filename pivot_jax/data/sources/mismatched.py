"""Answers to other prompts, which KTO estimates the distance from the reference model with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import RowByRow, Source
from pivot_jax.errors import RowError, UserError


class Mismatched(RowByRow):
    """The rows of a source, each with the answer of another row as ``mismatched``.

    In a random order from the seed, each row gets the answer of the one before, so every answer is used once. (TRL
    rotates the answers of consecutive rows, which often have the same prompt: a pair written as two rows.) Of a pair
    it is the chosen answer. The other row's image is not looked at.
    """

    def __init__(self, source: Source, seed: int):
        if len(source) < 2:
            raise UserError(f"{source.name}: KTO needs the answer to another prompt, so at least 2 rows; add some")
        self.source, self.name = source, source.name
        self.fingerprint = f"{source.fingerprint}|mismatched {seed}" if source.fingerprint else ""
        order = np.random.default_rng(seed).permutation(len(source))
        self._other = np.empty(len(source), np.int64)
        self._other[order] = np.roll(order, 1)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        try:
            other = self.source[int(self._other[index])]
        except RowError as error:
            raise RowError(example.id, f"the row that its mismatched answer comes from is bad: {error}") from None
        answer = other.chosen if other.chosen is not None else other.rejected
        if answer is None:
            raise RowError(example.id, f"row '{other.id}', which its mismatched answer comes from, has no answer")
        return replace(example, mismatched=answer)
