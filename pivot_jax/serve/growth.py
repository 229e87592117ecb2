"""A response while it grows: from updates of tokens to new text and the log-probs of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pivot_jax.rollout.engine import Finish
from pivot_jax.serve.scheduler import Update
from pivot_jax.serve.text import Text


class Scored(NamedTuple):
    """A token, its log-prob (None for the first of a prompt), and the most likely words in its place with theirs."""

    token: int
    logp: float | None
    top: list[int]
    top_logps: list[float]


class Part(NamedTuple):
    """What is new of a response: text, the tokens that it is made of, and how it ended."""

    text: str
    scored: list[Scored]
    finish: Finish | None


class Growth:
    """One response.

    Args:
      end: id of the token that ends a response. keep_end: it is among the tokens, though it is no text.
      streams: parts are wanted as they come; else the text is made once, at the end.
    """

    def __init__(self, text: Text, end: int, *, keep_end: bool, streams: bool):
        self._text, self._end, self._keep_end, self._streams = text, end, keep_end, streams
        self._waiting: list[int] = []
        self._scored: list[Scored] = []
        self._given = 0  # of self._scored
        self.content = ""
        self.scored: list[Scored] = []
        self.count = 0  # of its tokens
        self.finish: Finish | None = None

    def add(self, update: Update) -> Part:
        self._waiting += update.tokens
        self._scored += scored_tokens(update)
        self.count += len(update.tokens)
        self.finish = update.finish
        if not self._streams and update.finish is None:
            return Part("", [], None)
        piece = self._text.add(self._waiting, self._end, update.finish)
        self._waiting = []
        made_of = piece.tokens
        ended = update.finish == "stop" and self._text.tokens[-1:] == [self._end]
        if ended and self._keep_end and made_of == len(self._text.tokens) - 1:
            made_of += 1
        fresh = self._scored[self._given : made_of]
        self._given = max(self._given, made_of)
        self.content += piece.text
        self.scored += fresh
        return Part(piece.text, fresh, update.finish)


def scored_tokens(update: Update) -> list[Scored]:
    """The tokens of an update with their log-probs; none where these were not asked for."""
    if update.alternatives is None:
        return []
    return list(scored(update.tokens, *update.alternatives))


def scored(tokens: Sequence[int], logps: np.ndarray, top: np.ndarray, top_logps: np.ndarray) -> list[Scored]:
    """Arrays [t], [t, a], [t, a] as one entry a token."""
    rows = zip(tokens, logps.tolist(), top.tolist(), top_logps.tolist(), strict=True)
    return [Scored(*row) for row in rows]
