"""From tokens to the text that a client gets: as a whole, and piece by piece in a stream.

A stream's pieces joined are the text of the whole. So a piece ends before anything that later tokens may still change:
half of a character, the beginning of a stop string, and spaces that may turn out to be the last ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pivot_jax.data.processing.spelling import HALF


class Piece(NamedTuple):
    """New text, and the number of tokens that the text so far is made of."""

    text: str
    tokens: int


class Text:
    """The text of one response while it grows.

    Args:
      tokenizer: a ``transformers`` tokenizer.
      stops: strings that end the text, and are not part of it.
      strip: without spaces and newlines around it, as ``Chat.decode``; of a chat's answer.
      before: last tokens of the prompt, in whose company the first tokens are decoded where the text continues it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], *, strip: bool, before: Sequence[int] = ()):
        self._tokenizer, self._stops, self._strip, self._before = tokenizer, tuple(stops), strip, list(before)
        self._prefix = len(self._decode([])) if before else 0
        self._made_of = 0
        self.tokens: list[int] = []
        self.sent = ""

    def add(self, tokens: Sequence[int], end: int | None, finish: str | None) -> Piece:
        """More tokens.

        Args:
          end: id of the end token, which is no text. finish: None where more tokens follow.
        """
        self.tokens += tokens
        own = self.tokens[:-1] if finish == "stop" and self.tokens and self.tokens[-1] == end else self.tokens
        raw = self._of(own)
        stable = self._cut(raw) if finish else raw[: len(raw) - self._open(raw)]
        text = stable.strip() if self._strip else stable
        piece, self.sent = text[len(self.sent) :], text
        whole = finish is not None and len(stable) == len(raw)
        self._made_of = max(self._made_of, len(own) if whole else self._tokens_of(own, len(stable)))
        return Piece(piece, self._made_of)

    def _of(self, tokens: Sequence[int]) -> str:
        return self._decode(tokens)[self._prefix :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode([*self._before, *tokens], skip_special_tokens=True)

    def _cut(self, text: str) -> str:
        """The text before the first stop string."""
        return text[: min((text.index(stop) for stop in self._stops if stop in text), default=len(text))]

    def _open(self, text: str) -> int:
        """The number of characters at the end that later tokens may change or remove."""
        found = len(text) - len(text.rstrip(HALF))
        for stop in self._stops:
            found = max([found, *(size for size in range(1, len(stop)) if text.endswith(stop[:size]))])
        return found

    def _tokens_of(self, tokens: Sequence[int], length: int) -> int:
        """How many tokens the first ``length`` characters of the text are made of."""
        low, high = 0, len(tokens)
        while low < high:  # the length of the text of the first n tokens grows with n
            middle = (low + high) // 2
            low, high = (middle + 1, high) if len(self._of(tokens[:middle])) < length else (low, middle)
        return low
