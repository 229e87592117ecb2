"""Stop strings: where a response's text first holds one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pivot_jax.errors import UserError

_EXTRA = 8  # tokens decoded before a window, for tokenizers that write the first token of a text in another way


class Stops:
    """Looks for stop strings in responses that grow.

    Args:
      tokenizer: a ``transformers`` tokenizer; None where there are no strings.
      banned: ids that are never sampled.

    Raises:
      UserError: an empty string, or one that the tokenizer cannot write.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], banned: Sequence[int] = ()):
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        if strings and tokenizer is None:
            raise UserError("stop strings need a tokenizer; this model was opened without one, use stop_ids")
        for string in strings:
            self._check(string, set(banned))
        # A token writes at least a byte, or nothing.
        self._longest = max((len(string.encode()) for string in strings), default=0) + _EXTRA

    def end(self, tokens: Sequence[int], checked: int) -> int | None:
        """The number of tokens after which the text first holds a stop string; None: it holds none.

        Args:
          checked: so many of the first tokens are known to hold none.
        """
        if not self.strings:
            return None
        start = max(0, checked - self._longest)
        if not self._found(tokens[start:]):
            return None
        return next(stop for stop in range(checked + 1, len(tokens) + 1) if self._found(tokens[start:stop]))

    def _found(self, tokens: Sequence[int]) -> bool:
        text = self._text(tokens)
        return any(string in text for string in self.strings)

    def _text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _check(self, string: str, banned: set[int]) -> None:
        if not string:
            raise UserError("a stop string is empty; remove it")
        ids = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        written = self._text(ids)
        if string not in written:
            raise UserError(
                f"the stop string {string!r} can never be sampled: this tokenizer writes it as {written!r}; choose "
                "another string, or stop_ids"
            )
        if barred := banned.intersection(ids):
            raise UserError(
                f"the stop string {string!r} can never be sampled: it takes the banned ids {sorted(barred)}; remove it"
            )
