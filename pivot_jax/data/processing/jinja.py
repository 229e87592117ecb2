"""Rows as a tokenizer's own chat template (Jinja) writes them, and where the answers are in them.

The whole conversation is rendered once by ``transformers`` and tokenised once, so the ids are those of
``apply_chat_template``, without a first token that the template does not write. Renderings of its beginnings are not
used: Qwen3's template writes an answer otherwise when it is no longer the last one, and tokenizers merge text across
the places where a rendering would be cut.

Where the answers are is learned from a second rendering (:mod:`marks`).

Scored are, of each answer, the tokens from the first that has a character of its text to the first special token after
it, that one included (a template may write a space or a newline between them)::

    [INST] Which colour? [/INST] Red. </s>      Llama 2
                                ^^^^^^^^^^
    <|im_start|>assistant\\n<think>\\n\\n</think>\\n\\nRed.<|im_end|>\\n      Qwen3
                                                   ^^^^^^^^^^^^^^

Spaces and tabs directly before an answer belong to it, because tokenizers make one token of a space and a word. A token
that an answer shares with the text before it is scored. What the template drops from an answer (white space around it,
the thinking of earlier turns) is in no row; what it adds before it (Qwen3's empty thinking) is not scored.

Where a template has generation markers (``{% generation %}``), these say which tokens of an answer are scored, its end
besides.

A prompt is what the template writes with ``add_generation_prompt``; of a preference pair, what both whole conversations
have before their answers. Both are the beginning of the trained row, except where the template itself starts an answer
in another way than it asks for one.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pivot_jax.data.example import Message
from pivot_jax.data.processing.marks import answer_spans
from pivot_jax.data.processing.template import NEWLINE, Format, Piece, Tokens, without_empty_lines
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError
from pivot_jax.words import counted

FIX = (
    "correct it, or name the file of another one (--config.tokenizer.chat_template=FILE; for import-hf: "
    "--chat-template FILE)"
)
PROBE = (
    Message("user", f"{IMAGE}\nWhich one is it?"), Message("assistant", "The red one."),
    Message("user", "And now?"), Message("assistant", "A blue one."),
)  # fmt: skip
# How a message's content is written: with {"type": "image"} items, as a string, or as a list of one text item. In the
# last two the image token is part of the text.
FORMS = ("items", "string", "list")
# A day that does not change, for templates that write today's: a run would otherwise have other rows tomorrow.
DAY = datetime.date(2024, 7, 26)
_LETTERS = ("a", "A", "b", "B", "d", "-d", "m", "y", "Y")
_DIRECTIVES = "".join(f".replace('%{letter}', '{DAY.strftime('%' + letter)}')" for letter in _LETTERS)
_SAME_DAY = f"{{%- macro strftime_now(format) -%}}{{{{ format{_DIRECTIVES} }}}}{{%- endmacro -%}}{{{{ '' }}}}"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class _Row(NamedTuple):
    """A tokenised conversation, with one token for each image.

    Attributes:
      scored: bool [n]. first, stop: of the last answer, its first token and the one after its end.
      whole: False where a long conversation is tokenised only beyond the longest row.
    """

    ids: list[int]
    scored: np.ndarray
    first: int
    stop: int
    whole: bool


class JinjaTemplate(Tokens):
    """Token ids of conversations as the chat template of ``tokenizer`` writes them. It runs in transformers' sandbox.

    Raises:
      UserError: no template, one that fails or whose answers cannot be scored; the tokenizer lacks the image token or
        does not say where in a text its tokens are.
    """

    def __init__(self, tokenizer: Any, format: Format, longest: int = 0):
        super().__init__(tokenizer, format, longest)
        if not tokenizer.is_fast:
            raise UserError(
                "tokenizer.path: the tokenizer does not say where in a text its tokens are, which "
                "tokenizer.chat='template' needs; fetch tokenizer.json of this model"
            )
        source = source_of(tokenizer)
        self._source = _SAME_DAY + source if "strftime_now" in source else source
        self._generation = _GENERATION.search(source) is not None
        added = tokenizer.added_tokens_decoder
        self._special = frozenset({*tokenizer.all_special_ids, *(i for i in added if added[i].special)})
        self._form = self._find_form()
        self._takes_system = bool(format.system) or self._forms("Be brief.")[0] == self._form
        self.end_id = -1  # that of the first answer below
        try:
            row = self._row(PROBE)
            self._check_question()
        except UserError as error:
            raise UserError(f"tokenizer.chat_template: {error}; {FIX}") from None
        self._check_offsets(row)
        self.control = tuple(tokenizer.convert_ids_to_tokens(sorted(self._special.intersection(row.ids))))

    def _check_question(self) -> None:
        """Raises UserError where a question is asked without what comes before an answer in training."""
        question, answered = (self._written(PROBE[:count]) for count in (1, 2))
        plain, whole = self._render(question), self._render(answered)
        ((start, _),) = answer_spans(PROBE[:2], whole, lambda marked: self._render(self._written(marked)))
        header = whole[len(plain) : start].strip() if whole.startswith(plain) else ""
        if header and self._render(question, ask=True) == plain:
            raise UserError(
                f"the chat template ignores add_generation_prompt: questions would end without {header!r}, after which "
                "answers are trained"
            )

    def _check_offsets(self, row: _Row) -> None:
        decoded = self.tokenizer.decode(row.ids[row.first : row.stop - 1])
        if "".join(PROBE[-1].content.split()) not in "".join(decoded.split()):
            raise UserError(
                f"tokenizer.path: the tokenizer says that {PROBE[-1].content!r} has the tokens of {decoded!r}, so it "
                "does not know where its tokens are in a text, which tokenizer.chat='template' needs"
            )

    def conversation(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        row = self._row(messages)
        return self._with_images(row.ids, row.scored, counts, row.whole)

    def prompt(self, messages: Sequence[Message], counts: Sequence[int]) -> Piece:
        """A conversation and what the template writes for an answer to come (``add_generation_prompt``)."""
        ids, _, whole = self._encode(self._render(self._written(messages), ask=True))
        return self._with_images(ids, np.zeros(len(ids), bool), counts, whole)

    def answers(
        self, messages: Sequence[Message], counts: Sequence[int], texts: Sequence[str]
    ) -> tuple[Piece, list[list[int]]]:
        """A conversation up to its answer, and the ids of several answers to it, each from its own whole conversation.

        Raises:
          UserError: the conversations differ before the answers, as when one of two answers begins with thinking.
        """
        rows = [self._row([*messages, Message("assistant", text)]) for text in texts]
        prompts = [row.ids[: row.first] for row in rows]
        if any(prompt != prompts[0] for prompt in prompts):
            raise UserError(
                "the chat template and the tokenizer give the two answers different prompts (one of them may have "
                "thinking, or share a token with the text before it); they need the same"
            )
        prompt = self._with_images(prompts[0], np.zeros(len(prompts[0]), bool), counts, rows[0].whole)
        return prompt, [row.ids[row.first : row.stop] for row in rows]

    def _find_form(self) -> str:
        """The first of ``FORMS`` in which the template writes all of a conversation."""
        found, reasons = self._forms(self.format.system)
        if found:
            return found
        if self.format.system:
            bare, bare_reasons = self._forms("")
            if bare:
                raise UserError(
                    f"tokenizer.system: with a system text the chat template {reasons[bare]}; set it to '' "
                    "(--config.tokenizer.system=)"
                )
            reasons = bare_reasons
        raise UserError(f"tokenizer.chat_template: the chat template {reasons['string']}; {FIX}")

    def _forms(self, system: str) -> tuple[str, dict[str, str]]:
        """The form that works, or "" and why each does not."""
        reasons: dict[str, str] = {}
        words = [message.content.removeprefix(f"{IMAGE}{NEWLINE}") for message in PROBE] + [system.strip()]
        for form in FORMS:
            try:
                text = self._render(self._contents(PROBE, form, system))
            except UserError as error:
                reasons[form] = f"fails ({error})"
                continue
            lost = [word for word in words if word not in text]
            token = self.format.image_token
            images = text.count(token) if token else 1
            if not lost and images == 1:
                return form, reasons
            reasons[form] = f"writes {counted(images, 'image token')} for one image"
            if lost:
                reasons[form] = f"leaves out or changes the text {lost[0]!r} of a test conversation"
        return "", reasons

    def _contents(self, messages: Sequence[Message], form: str, system: str) -> list[dict[str, Any]]:
        """The messages as the template takes them; an ``<image>`` becomes one image token or image item."""
        if system and not (messages and messages[0].role == "system"):
            messages = [Message("system", system), *messages]
        return [{"role": message.role, "content": self._content(message.content, form)} for message in messages]

    def _written(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if not self._takes_system and any(message.role == "system" for message in messages):
            raise UserError("the chat template has no system turn, but the row has one; put its text into the question")
        return self._contents(messages, self._form, self.format.system)

    def _content(self, text: str, form: str) -> Any:
        first, *rest = text.split(IMAGE)
        if form == "items":
            rest = [part.removeprefix(NEWLINE) for part in rest]
            image = {"type": "image"}
            parts: list[Any] = [first, *(item for part in rest for item in (image, part))]
            return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts if part]
        if self._before:
            rest = [part.removeprefix(NEWLINE) for part in rest]
        whole = self.format.image_token.join([first, *rest])
        return whole if form == "string" else [{"type": "text", "text": whole}]

    def _render(self, contents: list[dict[str, Any]], ask: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                contents, chat_template=self._source, tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:  # the template is a program of others, which raises what it likes
            raise UserError(f"the chat template says: {' '.join(str(error).split())}") from None
        return str(text)

    def _row(self, messages: Sequence[Message]) -> _Row:
        messages = [
            replace(message, content=without_empty_lines(message.content)) if message.role == "assistant" else message
            for message in messages
        ]
        contents = self._written(messages)
        text = self._render(contents)
        spans = answer_spans(messages, text, lambda marked: self._render(self._written(marked)))
        ids, offsets, whole = self._encode(text)
        special = np.asarray([token in self._special for token in ids])
        generated = self._generated(contents)[: len(ids)] if self._generation else None
        scored, first, stop = np.zeros(len(ids), bool), 0, 0
        for index, (start, end) in enumerate(spans):
            until = spans[index + 1][0] if index + 1 < len(spans) else len(text)
            # a special token may take in the white space behind it, the answer's too
            chosen = _overlap(offsets, start, end) & ~(special & (offsets[:, 0] < start))
            if generated is not None:
                chosen = _runs(generated, chosen)
            places = np.flatnonzero(chosen)
            if not len(places):  # beyond the longest row, or the template marks other answers only
                first = stop = 0 if whole else len(ids)
                continue
            ends = np.flatnonzero(special & (np.arange(len(ids)) >= places[-1]) & (offsets[:, 0] < until))
            first, stop = int(places[0]), self._end(ids, ends, whole)
            scored |= chosen
            scored[places[-1] : stop] = True
        if not stop:
            raise UserError("the generation markers of the chat template leave out the last answer")
        return _Row(ids, scored, first, stop, whole)

    def _encode(self, text: str) -> tuple[list[int], np.ndarray, bool]:
        """Ids, the characters of each ([n, 2]), and whether these are all of a long text."""
        for part in self._beginnings(text):
            found = self.tokenizer.backend_tokenizer.encode(part, add_special_tokens=False)
            if self._suffices(found.ids, part, text):
                most = self.longest + 1
                return found.ids[:most], np.asarray(found.offsets[:most]), False
        return found.ids, np.asarray(found.offsets).reshape(-1, 2), True

    def _generated(self, contents: list[dict[str, Any]]) -> np.ndarray:
        """Which tokens the generation markers include."""
        with self._lock:
            found = self.tokenizer.apply_chat_template(
                contents, chat_template=self._source, return_assistant_tokens_mask=True,
                tokenizer_kwargs={"verbose": False},
            )  # fmt: skip
        return np.asarray(found["assistant_masks"], bool)

    def _end(self, ids: list[int], ends: np.ndarray, whole: bool) -> int:
        """Index after an answer's end, the first of the special tokens ``ends``."""
        if not len(ends) and not whole:
            return len(ids)
        if not len(ends):
            raise UserError(
                "the chat template writes no special token after an answer, so a model would not learn where to stop"
            )
        end = ids[ends[0]]
        if self.end_id not in (-1, end):
            names = self.tokenizer.convert_ids_to_tokens([end, self.end_id])
            raise UserError(f"the chat template ends answers with different tokens, '{names[0]}' and '{names[1]}'")
        self.end_id = end
        return int(ends[0]) + 1

    def _with_images(self, ids: list[int], scored: np.ndarray, counts: Sequence[int], whole: bool) -> Piece:
        """The ids with as many image tokens as each image takes, and the tokens around them that the template lacks.

        Images beyond the longest row (not ``whole``) are at the end, where such a row is rejected.
        """
        places = [index for index, token in enumerate(ids) if token == self.image_id]
        if len(places) > len(counts) or (whole and len(places) < len(counts)):
            raise UserError(
                f"the chat template writes {counted(len(places), 'image token')} for {counted(len(counts), 'image')}"
            )
        piece, start = Piece(), 0
        for place, count in zip(places, counts, strict=False):
            _copy(piece, ids, scored, start, place)
            before = self._before if ids[max(place - 1, 0) : place] != self._before else []
            after = self._after if ids[place + 1 : place + 2] != self._after else []
            piece.add([*before, *[self.image_id] * count, *after])
            start = place + 1
        _copy(piece, ids, scored, start, len(ids))
        for count in counts[len(places) :]:
            piece.add(self.image(count))
        return piece


def _copy(piece: Piece, ids: list[int], scored: np.ndarray, start: int, stop: int) -> None:
    flags = scored[start:stop].tolist()
    piece.ids += ids[start:stop]
    piece.answer += flags
    piece.scored += flags


def source_of(tokenizer: Any) -> str:
    """Text of a tokenizer's chat template.

    Raises:
      UserError: it has none, or several of which none is the default.
    """
    try:
        return tokenizer.get_chat_template()
    except ValueError:
        raise UserError(
            "tokenizer.chat_template: the tokenizer has no chat template; name a Jinja file of one "
            "(--config.tokenizer.chat_template=FILE; for import-hf: --chat-template FILE)"
        ) from None


def _overlap(offsets: np.ndarray, start: int, end: int) -> np.ndarray:
    """Which tokens have a character from ``start`` to ``end``; one without characters counts where it stands."""
    first, last = offsets.T
    return ((first < end) & (last > start)) | ((first == last) & (first >= start) & (first < end))


def _runs(generated: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The generated tokens that are in one piece with a chosen one."""
    number = np.cumsum(np.diff(generated, prepend=False) & generated)  # of each piece
    return generated & np.isin(number, number[generated & chosen])
