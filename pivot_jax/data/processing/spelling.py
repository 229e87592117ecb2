"""The text of single tokens, whatever the tokenizer: with its space, special tokens included, and as bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

HALF = "�"  # what a decoder writes for half of a character
LONGEST_CHARACTER = 4  # bytes of UTF-8
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte in SentencePiece's vocabularies


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
        if HALF not in text:
            return list(text.encode())
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if found := _BYTE.fullmatch(piece):
            return [int(found[1], 16)]
        known = [_BYTES.get(character) for character in piece]
        return None if None in known else known  # type: ignore[return-value]

    def pieces(self, tokens: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        """The tokens as pieces of text with their ids: one token each, and several where these share a character."""
        out: list[tuple[str, tuple[int, ...]]] = []
        open_bytes, waiting = b"", list[int]()
        for token in map(int, tokens):
            text = self.text(token)
            own = self.bytes(token) if HALF in text else None
            if own is None or len(waiting) >= LONGEST_CHARACTER:
                out += [(HALF, tuple(waiting))] if waiting else []
                open_bytes, waiting = b"", []
            if own is None:
                out.append((text, (token,)))
                continue
            open_bytes, waiting = open_bytes + bytes(own), [*waiting, token]
            try:
                out.append((open_bytes.decode(), tuple(waiting)))
            except UnicodeDecodeError:
                continue
            open_bytes, waiting = b"", []
        return [*out, (HALF, tuple(waiting))] if waiting else out

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters and their bytes (GPT-2): printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_alphabet()
