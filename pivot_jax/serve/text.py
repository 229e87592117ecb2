"""From tokens to the text that a client gets: as a whole, piece by piece in a stream, and token by token.

A stream's pieces joined are the text of the whole. So a piece ends before anything that later tokens may still change:
half of a character, the beginning of a stop string, and spaces that may turn out to be the last ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_HALF = "�"  # what a decoder writes for half of a character
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte in SentencePiece's vocabularies


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
        found = len(text) - len(text.rstrip(_HALF))
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


class Spelling:
    """Each token of a vocabulary alone, as text and as bytes."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        # After another token, because some tokenizers drop the space before the first one.
        self._before = tokenizer(".", add_special_tokens=False)["input_ids"][-1:]
        self._start = len(self._decode(self._before))
        self._known: dict[int, str] = {}

    def text(self, token: int) -> str:
        """The token's text, special tokens included."""
        if token not in self._known:
            self._known[token] = self._decode([*self._before, token])[self._start :]
        return self._known[token]

    def bytes(self, token: int) -> list[int] | None:
        """UTF-8 bytes of the token's text, also where they are half of a character; None where they are not known."""
        text = self.text(token)
        if _HALF not in text:
            return list(text.encode())
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if found := _BYTE.fullmatch(piece):
            return [int(found[1], 16)]
        known = [_BYTES.get(character) for character in piece]
        return None if None in known else known  # type: ignore[return-value]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters and their bytes (GPT-2): printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_alphabet()
