"""Templates: from turns of text to token ids, slots for images, and a mask of the scored tokens.

:class:`ChatTemplate` is what a chat needs of one. Three write rows: :class:`Template` the dialects that the papers'
masks are defined on, :class:`PlainTemplate` the captions of stage 1a, and ``jinja.JinjaTemplate`` what the chat
template of a tokenizer says.

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
from typing import Any, Protocol

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
      dialect: a key of ``dialects.DIALECTS``, or ``template``: the chat template of the tokenizer.
      system: system text; "" leaves the system turn out (``template``: leaves it to the template). A row's own system
        turn replaces it.
      loss_mask: ``response_only`` scores answers with their end (ChatML: ``<|im_end|>`` and newline). ``pivot`` also
        scores the header ``<|im_start|>assistant\\n``, every ``<|im_start|>`` and every newline token anywhere (PIVOT's
        code); in a preference row these belong to the prompt and count for both branches.
      image_token: one token of the tokenizer; an image becomes copies of it. "": there are no images.
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


class ChatTemplate(Protocol):
    """How a chat writes its rows.

    Attributes:
      image_id: the image token. end_id: the token that ends an answer, at which sampling stops.
      control: special tokens that it writes, which no text may hold.
      whole: characters of the texts that are tokenised whole in any case.
    """

    whole: int
    image_id: int
    end_id: int
    control: tuple[str, ...]

    def text(self, text: str) -> list[int]:
        """Ids of a text alone."""
        ...

    def conversation(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """A conversation that ends with an answer; ``counts``: image tokens of each of its images."""
        ...

    def prompt(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """A conversation up to the answer that is to come."""
        ...

    def answers(
        self, messages: Sequence[Message], counts: Sequence[int], texts: Sequence[str]
    ) -> tuple[Piece, list[list[int]]]:
        """A conversation up to its answer, and the ids of several answers to it, each with its end."""
        ...


class Tokens:
    """Ids of texts and of images.

    Args:
      longest: tokens of a row. Of a long text, :meth:`text` gives only more ids than that. 0: all of every text.

    Attributes:
      whole: characters of a text that is tokenised whole in any case.

    Raises:
      UserError: the tokenizer lacks the image token or one of those around it.
    """

    def __init__(self, tokenizer: Any, format: Format, longest: int = 0):
        self.tokenizer, self.format, self.longest = tokenizer, format, longest
        self.whole = CHARACTERS * (longest + SLACK) if longest else sys.maxsize
        self._cache: dict[str, list[int]] = {}
        tokenizer(NEWLINE, add_special_tokens=False)  # undoes truncation and padding that its file may ask for
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._lock = threading.Lock()
        self.image_id = self._token(format.image_token) if format.image_token else -1
        around = format.image_around
        self._before, self._after = ([self._token(text)] for text in around) if around else ([], [])

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
        """Ids of a text alone, or the first ``longest + 1`` of a long one.

        Short texts (headers, stock questions) are kept.
        """
        if not text:
            return []
        found = self._cache.get(text)
        if found is None:
            found = self._first_ids(text)
            if len(text) <= KEPT_LENGTH and len(self._cache) < KEPT_PIECES:
                self._cache[text] = found
        return found

    def _first_ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._beginnings(text):
            ids = self._ids(part)
            if self._suffices(ids, part, text):
                return ids[: self.longest + 1]
        return ids

    def _ids(self, text: str) -> list[int]:
        if self._backend is not None:  # threads tokenise at the same time: it releases the interpreter lock
            return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _beginnings(self, text: str) -> Iterator[str]:
        """Growing beginnings of a long text, and last the whole text."""
        end = self.whole
        while end < len(text):
            space = max(text.rfind(character, end - self.whole // 2, end) for character in (" ", NEWLINE))
            yield text[: space if space > 0 else end]
            end *= 2  # long tokens, such as runs of spaces
        yield text

    def _suffices(self, ids: Sequence[int], part: str, text: str) -> bool:
        """Whether the first ids of ``part`` are those of ``text``: what comes far behind them does not change them."""
        return len(part) < len(text) and len(ids) > self.longest + SLACK

    def image(self, count: int) -> list[int]:
        """Ids of an image with ``count`` image tokens."""
        return [*self._before, *[self.image_id] * count, *self._after]


class Template(Tokens):
    """Token ids of turns written in a dialect.

    Raises:
      UserError: the tokenizer lacks a control token, or writes a newline as several tokens.
    """

    def __init__(self, tokenizer: Any, format: Format, longest: int = 0):
        super().__init__(tokenizer, format, longest)
        self.dialect = DIALECTS[format.dialect]
        self.control = self.dialect.tokens
        first, header = ([self._token(text)] if text else [] for text in (self.dialect.first, self.dialect.header))
        self._first, self._header = first, header
        self.start_id, self.end_id = self._token(self.dialect.start), self._token(self.dialect.end)
        newline = self.text(NEWLINE)
        if len(newline) != 1:
            raise UserError(
                f"tokenizer: a newline is {len(newline)} tokens, but tokenizer.chat='{format.dialect}' needs it to be "
                "one; set tokenizer.chat='template', the tokenizer's own chat template"
            )
        self.newline_id = newline[0]
        self._close = [self.end_id, *self.text(self.dialect.after)]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer with its end: ``<|im_end|>\\n`` or ``<|eot_id|>``."""
        return [*self.text(text.strip() if self.dialect.trims else without_empty_lines(text)), *self._close]

    def turn(self, role: str, text: str, counts: Iterator[int]) -> list[int]:
        """``<|im_start|>role\\n{text}<|im_end|>\\n``; every ``<image>`` becomes the next of ``counts`` image tokens."""
        opening, before = self._opening(role)
        first, *rest = f"{before}{text.strip() if self.dialect.trims else text}".split(IMAGE)
        if self._before:
            rest = [part.removeprefix(NEWLINE) for part in rest]
        ids = [*opening, *self.text(first)]
        for part in rest:
            ids += [*self.image(next(counts)), *self.text(part)]
        return [*ids, *self._close]

    def _opening(self, role: str) -> tuple[list[int], str]:
        """Ids up to the last control token before a turn's text, and the text between that token and the turn's."""
        if self._header:
            return [self.start_id, *self.text(role), *self._header], self.dialect.gap
        return [self.start_id], f"{role}{self.dialect.gap}"

    def conversation(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        return self._turns(messages, iter(counts))

    def prompt(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """A conversation up to the header of the answer that is to come."""
        piece = self._turns(messages, iter(counts))
        self._open(piece)
        return piece

    def answers(
        self, messages: Sequence[Message], counts: Sequence[int], texts: Sequence[str]
    ) -> tuple[Piece, list[list[int]]]:
        return self.prompt(messages, counts), [self.answer(text) for text in texts]

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


class PlainTemplate(Tokens):
    """Images, then the caption and a newline, which are scored. The question is left out.

    Raises:
      UserError: the tokenizer lacks the image token, or a newline after a text is not one token.
    """

    def __init__(self, tokenizer: Any, format: Format, longest: int = 0):
        super().__init__(tokenizer, format, longest)
        dialect = DIALECTS.get(format.dialect)
        self.control = tuple(tokenizer.all_special_tokens) if dialect is None else dialect.tokens
        newline = self.text(f"a{NEWLINE}")[len(self.text("a")) :]  # alone, some tokenizers put a space before it
        if len(newline) != 1:
            raise UserError(
                f"tokenizer: a newline is {len(newline)} tokens; data.template='plain' needs it to be one, because it "
                "ends a caption"
            )
        self.end_id = newline[0]

    def conversation(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        piece = self.prompt(messages, counts)
        piece.add(self._caption(messages[-1].content), answer=True)
        return piece

    def prompt(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """The images."""
        piece = Piece()
        for count in counts:
            piece.add(self.image(count))
        return piece

    def answers(
        self, messages: Sequence[Message], counts: Sequence[int], texts: Sequence[str]
    ) -> tuple[Piece, list[list[int]]]:
        return self.prompt(messages, counts), [self._caption(text) for text in texts]

    def _caption(self, text: str) -> list[int]:
        return [*self.text(without_empty_lines(text)), self.end_id]


def without_empty_lines(answer: str) -> str:
    """An answer without the empty lines before it; a tokenizer would merge them with the newline of a header."""
    return _EMPTY_LINES.sub("", answer)
