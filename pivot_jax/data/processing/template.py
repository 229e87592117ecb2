"""Templates: from turns of text to token ids, slots for images, and a mask of the scored tokens.

Qwen's ChatML as the paper uses it (its released code)::

    <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n<image>\\n{q}<|im_end|>\\n<|im_start|>assistant\\n{a}<|im_end|>\\n

Llama 3's, which has a header token after the role and strips the text (see :mod:`dialects`)::

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\n<image>\\n{q}<|eot_id|>…

and ``plain`` for stage 1a: ``<image>{caption}\\n``. Each ``<image>`` becomes N copies of the image token; with
variable-resolution images, N differs from image to image. Models that put two more tokens around them (Qwen2-VL) have
no newline after an image; the newline that data in LLaVA's form has there is then removed.

Text is tokenised in the pieces between control tokens. This gives the same ids as the whole string, because tokenizers
split there first. The answer is a piece of its own after ``assistant\\n``, so a prompt to be answered is exactly the
beginning of the row that was trained on. For that, empty lines before an answer are removed; a tokenizer would merge
them with the header's newline.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pivot_jax.data.example import Message
from pivot_jax.data.processing.dialects import DIALECTS
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError

NEWLINE = "\n"
KEPT_LENGTH, KEPT_PIECES = 80, 20_000  # characters of a piece whose ids are kept, and how many pieces
# A text of more characters per token of the limit is not tokenised whole, but from its beginning to a space or newline;
# and ids this close to that end are not used, because the rest of the text could have changed them.
CHARACTERS, SLACK = 8, 256
_EMPTY_LINES = re.compile(r"\A\s*[\r\n]+")


@dataclass
class Piece:
    """A growing row: ids, which of them are an answer, and which are scored (answers among them)."""

    ids: list[int] = field(default_factory=list)
    answer: list[bool] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)

    def add(self, ids: Sequence[int], answer: bool = False, scored: bool = False) -> None:
        self.ids.extend(ids)
        self.answer.extend([answer] * len(ids))
        self.scored.extend([answer or scored] * len(ids))


@dataclass(frozen=True)
class Format:
    """How turns are written, and which of their tokens are scored.

    Attributes:
      template: ``chat`` (turns in the ``dialect``) or ``plain`` (stage 1a).
      dialect: a key of ``dialects.DIALECTS``.
      system: system text; "" leaves the system turn out. A row's own system turn replaces it.
      loss_mask: ``response_only`` scores answers with their ``<|im_end|>`` and newline. ``pivot`` also scores the
        header ``<|im_start|>assistant\\n``, every ``<|im_start|>`` and every newline token anywhere (PIVOT's code);
        in a preference row these belong to the prompt and count for both branches.
      image_token: one token of the tokenizer; an image becomes copies of it.
      image_around: tokens before and after those of each image; () for none.
    """

    template: str = "chat"
    dialect: str = "chatml"
    system: str = "You are a helpful assistant."
    loss_mask: str = "response_only"
    image_token: str = "<|image_pad|>"
    image_around: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        return self.template == "plain"

    @property
    def pivot_mask(self) -> bool:
        return self.loss_mask == "pivot"


class Template:
    """Token ids of turns written in a :class:`Format`.

    Args:
      longest: tokens of a row. Of a long text, :meth:`text` gives only more ids than that. 0: all of every text.

    Attributes:
      whole: characters of a text that is tokenised whole in any case.

    Raises:
      UserError: the tokenizer lacks a control token, or writes a newline as several tokens.
    """

    def __init__(self, tokenizer: Any, format: Format, longest: int = 0):
        self.tokenizer, self.format, self.longest = tokenizer, format, longest
        self.whole = CHARACTERS * (longest + SLACK) if longest else sys.maxsize
        self._cache: dict[str, list[int]] = {}
        tokenizer(NEWLINE, add_special_tokens=False)  # undoes truncation and padding that its file may ask for
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._lock = threading.Lock()
        self.dialect = DIALECTS[format.dialect]
        first, header = ([self._token(text)] if text else [] for text in (self.dialect.first, self.dialect.header))
        self._first, self._header = first, header
        self.image_id, self.start_id = self._token(format.image_token), self._token(self.dialect.start)
        self.end_id = self._token(self.dialect.end)
        around = format.image_around
        self._before, self._after = ([self._token(text)] for text in around) if around else ([], [])
        newline = self.text(NEWLINE)
        if len(newline) != 1:
            raise UserError(f"tokenizer: a newline is {len(newline)} tokens; the templates need it to be one")
        self.newline_id = newline[0]
        self._close = [self.end_id, *self.text(self.dialect.after)]

    def __getstate__(self) -> dict[str, Any]:  # a lock cannot be pickled for a worker process
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def _token(self, text: str) -> int:
        ids = self.text(text)
        unknown = self.tokenizer.unk_token_id
        if len(ids) != 1 or (ids[0] == unknown and text != self.tokenizer.unk_token):
            found = "unknown to it" if unknown in ids else f"not one token (it becomes {len(ids)})"
            raise UserError(
                f"tokenizer: '{text}' is {found}; add it as a special token, or set tokenizer.image_token to one that "
                "is, or tokenizer.chat to the model's own format"
            )
        return ids[0]

    def text(self, text: str) -> list[int]:
        """Ids of a piece between control tokens, or the first ``longest + 1`` of a long one.

        Short pieces (headers, stock questions) are kept.
        """
        if not text:
            return []
        found = self._cache.get(text)
        if found is None:
            found = self._ids(text) if len(text) <= self.whole else self._beginning(text)
            if len(text) <= KEPT_LENGTH and len(self._cache) < KEPT_PIECES:
                self._cache[text] = found
        return found

    def _ids(self, text: str) -> list[int]:
        if self._backend is not None:  # threads tokenise at the same time: it releases the interpreter lock
            return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _beginning(self, text: str) -> list[int]:
        """The first ids of a text as if all of it were tokenised: what comes far behind them does not change them."""
        end = self.whole
        while end < len(text):
            space = max(text.rfind(character, end - self.whole // 2, end) for character in (" ", NEWLINE))
            ids = self._ids(text[: space if space > 0 else end])
            if len(ids) > self.longest + SLACK:
                return ids[: self.longest + 1]
            end *= 2  # long tokens, such as runs of spaces
        return self._ids(text)

    def answer(self, text: str) -> list[int]:
        """Ids of an answer with its end: ``<|im_end|>\\n``, ``<|eot_id|>``, or ``\\n`` in the plain template."""
        if self.format.plain:
            return [*self.text(_EMPTY_LINES.sub("", text)), self.newline_id]
        return [*self.text(text.strip() if self.dialect.trims else _EMPTY_LINES.sub("", text)), *self._close]

    def turn(self, role: str, text: str, counts: Iterator[int]) -> list[int]:
        """``<|im_start|>role\\n{text}<|im_end|>\\n``; every ``<image>`` becomes the next of ``counts`` image tokens."""
        opening, before = self._opening(role)
        first, *rest = f"{before}{text.strip() if self.dialect.trims else text}".split(IMAGE)
        if self._before:
            rest = [part.removeprefix(NEWLINE) for part in rest]
        ids = [*opening, *self.text(first)]
        for part in rest:
            ids += [*self._image(next(counts)), *self.text(part)]
        return [*ids, *self._close]

    def _opening(self, role: str) -> tuple[list[int], str]:
        """Ids up to the last control token before a turn's text, and the text between that token and the turn's."""
        if self._header:
            return [self.start_id, *self.text(role), *self._header], self.dialect.gap
        return [self.start_id], f"{role}{self.dialect.gap}"

    def _image(self, count: int) -> list[int]:
        return [*self._before, *[self.image_id] * count, *self._after]

    def conversation(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """A conversation that ends with an answer; ``counts``: image tokens of each of its images."""
        if self.format.plain:
            return self._plain(messages, counts, answered=True)
        return self._turns(messages, iter(counts))

    def prompt(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """A conversation up to the header of the answer that is to come (plain: up to the images)."""
        if self.format.plain:
            return self._plain(messages, counts, answered=False)
        piece = self._turns(messages, iter(counts))
        self._open(piece)
        return piece

    def _turns(self, messages: Sequence[Message], counts: Iterator[int]) -> Piece:
        piece = Piece()
        piece.add(self._first)
        if self.format.system and (not messages or messages[0].role != "system"):
            piece.add(self.turn("system", self.format.system, counts))
        for message in messages:
            if message.role == "assistant":
                self._open(piece)
                piece.add(self.answer(message.content), answer=True)
            else:
                piece.add(self.turn(message.role, message.content, counts))
        if self.format.pivot_mask:
            anywhere = (self.start_id, self.newline_id)
            piece.scored = [s or i in anywhere for s, i in zip(piece.scored, piece.ids, strict=True)]
        return piece

    def _open(self, piece: Piece) -> None:
        opening, before = self._opening("assistant")
        piece.add([*opening, *self.text(before)], scored=self.format.pivot_mask)

    def _plain(self, messages: Sequence[Message], counts: Sequence[int], answered: bool) -> Piece:
        """Images, then the caption and a newline, which are scored. The question is left out."""
        piece = Piece()
        for count in counts:
            piece.add(self._image(count))
        if answered:
            piece.add(self.answer(messages[-1].content), answer=True)
        return piece
