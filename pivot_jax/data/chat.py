"""Conversations to tokens: the template, image places, what is scored, and cutting to length.

Qwen's ChatML as the paper uses it (dossier §1.3)::

    <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n<image>\\n{q}<|im_end|>\\n<|im_start|>assistant\\n{a}<|im_end|>\\n

and ``plain`` for stage 1a: ``<image>{caption}\\n``. Each ``<image>`` becomes N copies of the image token.

Text is tokenised in the pieces between control tokens, which gives the same ids as the whole string because
tokenizers cut there first. The answer is a piece of its own behind ``assistant\\n``, so that a prompt to be answered is
exactly the beginning of the row that was trained on; for that, empty lines before an answer are dropped (a tokenizer
would merge them with the header's newline).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from pivot_jax.data.batch import CHOSEN, REJECTED, EncodedRow, Example, Message
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import RowError, UserError

Kind = Literal["sft", "preference", "prompt", "contrastive"]
START, END = "<|im_start|>", "<|im_end|>"
_EMPTY_LINES = re.compile(r"\A\s*[\r\n]+")


@dataclass
class _Piece:
    """Growing row: ids, and for each whether it is an answer token or scored otherwise."""

    ids: list[int] = field(default_factory=list)
    answer: list[bool] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)

    def add(self, ids: Sequence[int], answer: bool = False, scored: bool = False) -> None:
        self.ids.extend(ids)
        self.answer.extend([answer] * len(ids))
        self.scored.extend([answer or scored] * len(ids))


class Chat:
    """Encodes examples with one tokenizer, template and loss mask.

    Args:
      tokenizer: a ``transformers`` tokenizer with ``<|im_start|>``, ``<|im_end|>`` and the image token.
      image_tokens: features per image (patches of the encoder).
      template: ``chat`` (ChatML) or ``plain`` (stage 1a).
      system: system text; "" leaves the system turn out. A row's own system turn comes in its place.
      loss_mask: ``response_only`` scores answers with their ``<|im_end|>`` and newline. ``pivot`` scores also the
        header ``<|im_start|>assistant\\n``, every ``<|im_start|>`` and every newline token anywhere (dossier §1.3).
      max_length: tokens of a row after image expansion.
      max_targets: scored tokens of a row; 0 is no limit of its own.
      max_images: image slots of a row.

    Raises:
      UserError: the tokenizer lacks a control token, or writes a newline as several tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        image_tokens: int,
        template: str = "chat",
        system: str = "You are a helpful assistant.",
        loss_mask: str = "response_only",
        image_token: str = "<|image_pad|>",
        max_length: int = 2048,
        max_targets: int = 0,
        max_images: int = 1,
    ):
        self.tokenizer, self.system = tokenizer, system
        self.plain, self.pivot_mask = template == "plain", loss_mask == "pivot"
        self.image_tokens, self.max_images = image_tokens, max_images
        self.max_length, self.max_targets = max_length, max_targets or 2 * max_length
        self._control = re.compile("|".join(map(re.escape, (START, END, image_token))))
        self._cache: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self.image_id, self.start_id, self.end_id = (self._token(text) for text in (image_token, START, END))
        newline = self._ids("\n")
        if len(newline) != 1:
            raise UserError(f"tokenizer: a newline is {len(newline)} tokens; ChatML needs it to be one")
        self.newline_id = newline[0]
        pad = getattr(tokenizer, "pad_token_id", None)
        self.pad_id = self.end_id if pad is None else int(pad)

    def _token(self, text: str) -> int:
        ids = self._ids(text)
        if len(ids) != 1:
            raise UserError(
                f"tokenizer: '{text}' is not one token (it becomes {len(ids)}); add it as a special token, "
                "or set tokenizer.image_token to one that is"
            )
        return ids[0]

    def _ids(self, text: str) -> list[int]:
        """Ids of a piece without control tokens. Short pieces (headers, stock questions) are kept."""
        if not text:
            return []
        found = self._cache.get(text)
        if found is None:
            with self._lock:  # fast tokenizers refuse use by two threads at once ("Already borrowed")
                found = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            if len(text) <= 80 and len(self._cache) < 20_000:
                self._cache[text] = found
        return found

    def decode(self, ids: Any) -> str:
        """Text of an answer: up to the first ``<|im_end|>``, control tokens left out."""
        ids = [int(i) for i in ids]
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def encode(self, example: Example, kind: Kind) -> EncodedRow:
        """The example as one row.

        ``sft``: the whole conversation; a preference example gives its chosen answer (the SFT arm's view).
        ``preference``: prompt, chosen and rejected in one row of three branches.
        ``prompt``: the conversation up to the last open assistant header; a last answer is left out.
        ``contrastive``: the first answer (caption) alone, cut so that at least one pad follows it.

        Raises:
          RowError: placeholder count ≠ image count, more images than ``max_images``, an empty answer, a control token
            in the text, or a text so long that an image or the whole answer would be cut.
        """
        self._check(example)
        if kind == "preference":
            return self._preference(example)
        if kind == "prompt":
            return self._prompt(example)
        if kind == "contrastive":
            return self._caption(example)
        if example.chosen is not None:
            example = replace(example, messages=(*example.messages, Message("assistant", example.chosen)))
        return self._conversation(example)

    # ---- checks

    def _check(self, example: Example) -> None:
        texts = [message.content for message in example.messages]
        places = sum(text.count(IMAGE) for text in texts)
        if places != len(example.images):
            raise RowError(example.id, f"{places} '{IMAGE}' placeholders but {len(example.images)} images")
        if places > self.max_images:
            raise RowError(example.id, f"{places} images, more than data.images_per_row={self.max_images}")
        for text in (*texts, example.chosen or "", example.rejected or ""):
            if found := self._control.search(text):
                raise RowError(example.id, f"the text holds the control token '{found.group()}'; remove it")

    def _answer(self, example: Example, text: str, what: str) -> list[int]:
        if not text.strip():
            raise RowError(example.id, f"the {what} is empty")
        return self._ids(_EMPTY_LINES.sub("", text))

    # ---- templates

    def _turn(self, role: str, text: str) -> list[int]:
        """``<|im_start|>role\\n{text}<|im_end|>\\n``; every ``<image>`` becomes image tokens."""
        first, *rest = f"{role}\n{text}".split(IMAGE)
        ids = [self.start_id, *self._ids(first)]
        for part in rest:
            ids += [self.image_id] * self.image_tokens
            ids += self._ids(part)
        return [*ids, self.end_id, self.newline_id]

    def _open(self, piece: _Piece) -> None:
        piece.add([self.start_id, *self._ids("assistant\n")], scored=self.pivot_mask)

    def _turns(self, example: Example, messages: Sequence[Message]) -> _Piece:
        piece = _Piece()
        if self.system and (not messages or messages[0].role != "system"):
            piece.add(self._turn("system", self.system))
        for message in messages:
            if message.role == "assistant":
                self._open(piece)
                answer = self._answer(example, message.content, "answer")
                piece.add([*answer, self.end_id, self.newline_id], answer=True)
            else:
                piece.add(self._turn(message.role, message.content))
        if self.pivot_mask:
            anywhere = (self.start_id, self.newline_id)
            piece.scored = [s or i in anywhere for s, i in zip(piece.scored, piece.ids, strict=True)]
        return piece

    def _plain(self, example: Example, answer: str | None) -> _Piece:
        """``<image>`` of the prompt, then the caption and a newline, which are scored."""
        piece = _Piece()
        piece.add([self.image_id] * (self.image_tokens * len(example.images)))
        if answer is not None:
            piece.add([*self._answer(example, answer, "caption"), self.newline_id], answer=True)
        return piece

    # ---- rows

    def _conversation(self, example: Example) -> EncodedRow:
        if not example.messages or example.messages[-1].role != "assistant":
            raise RowError(example.id, "the row has no answer to train on (it ends with a question)")
        if self.plain:
            piece = self._plain(example, example.messages[-1].content)
        else:
            piece = self._turns(example, example.messages)
        ids, answer = np.asarray(piece.ids, np.int32), np.asarray(piece.answer)
        targets = np.flatnonzero(piece.scored)
        targets = targets[targets > 0]  # nothing comes before the first token
        length = min(len(ids), self.max_length)
        if len(targets) > self.max_targets:
            length = min(length, int(targets[self.max_targets]))
        if length < len(ids):
            self._check_cut(example, ids, length)
            if not answer[:length].any():
                raise RowError(example.id, f"{len(ids)} tokens: the answer begins behind the limit of {length}")
            targets = targets[targets < length]
        positions = np.arange(length, dtype=np.int32)
        branches = np.zeros(length, np.int32)
        cut = length < len(ids)
        return self._row(example, ids[:length], positions, branches, targets - 1, targets, branches[targets], cut)

    def _prompt(self, example: Example) -> EncodedRow:
        messages = example.messages
        if messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        piece = self._prompt_piece(example, messages)
        if len(piece.ids) > self.max_length:
            raise RowError(example.id, f"the prompt has {len(piece.ids)} tokens, the limit is {self.max_length}")
        none = np.zeros(0, np.int32)
        positions = np.arange(len(piece.ids), dtype=np.int32)
        ids = np.asarray(piece.ids, np.int32)
        return self._row(example, ids, positions, np.zeros_like(positions), none, none, none)

    def _prompt_piece(self, example: Example, messages: Sequence[Message]) -> _Piece:
        if self.plain:
            return self._plain(example, None)
        piece = self._turns(example, messages)
        self._open(piece)
        return piece

    def _preference(self, example: Example) -> EncodedRow:
        if example.chosen is None or example.rejected is None:
            raise RowError(example.id, "a preference row needs 'chosen' and 'rejected'")
        prompt = self._prompt_piece(example, example.messages)
        end = [self.newline_id] if self.plain else [self.end_id, self.newline_id]
        chosen = [*self._answer(example, example.chosen, "chosen answer"), *end]
        rejected = [*self._answer(example, example.rejected, "rejected answer"), *end]
        p = len(prompt.ids)
        if not p:
            raise RowError(example.id, "a preference row needs a prompt")
        scored = np.flatnonzero(prompt.scored) if self.pivot_mask else np.zeros(0, np.int64)
        scored = scored[scored > 0]
        room = min(self.max_length - p, self.max_targets - len(scored))
        if room < 2:
            raise RowError(
                example.id, f"the prompt has {p} tokens, the row's limit is {self.max_length}: no answer fits"
            )
        cap = _fair_cap(len(chosen), len(rejected), room)
        cut = chosen[:cap] != chosen or rejected[:cap] != rejected
        if cut and chosen[:cap] == rejected[:cap]:
            raise RowError(example.id, f"chosen and rejected are the same when cut to {cap} tokens")
        chosen, rejected = chosen[:cap], rejected[:cap]
        c, r = len(chosen), len(rejected)
        ids = np.asarray([*prompt.ids, *chosen, *rejected], np.int32)
        positions = np.concatenate([np.arange(p), np.arange(p, p + c), np.arange(p, p + r)]).astype(np.int32)
        branches = np.repeat(np.asarray([0, CHOSEN, REJECTED], np.int32), [p, c, r])
        targets = np.concatenate([scored, np.arange(p, p + c + r)])
        sources = targets - 1
        sources[targets == p + c] = p - 1  # the rejected answer too begins behind the prompt
        return self._row(example, ids, positions, branches, sources, targets, branches[targets], cut)

    def _caption(self, example: Example) -> EncodedRow:
        if len(example.images) != 1:
            raise RowError(example.id, f"a contrastive row needs one image, it has {len(example.images)}")
        text = next((message.content for message in example.messages if message.role == "assistant"), "")
        ids = np.asarray(self._answer(example, text, "caption"), np.int32)
        cut = len(ids) >= self.max_length
        ids = ids[: self.max_length - 1]
        none, positions = np.zeros(0, np.int32), np.arange(len(ids), dtype=np.int32)
        return self._row(example, ids, positions, np.zeros_like(positions), none, none, none, cut)

    def _check_cut(self, example: Example, ids: np.ndarray, length: int) -> None:
        if (ids[length:] == self.image_id).any():
            raise RowError(example.id, f"{len(ids)} tokens: cutting to the limit of {length} would cut an image")

    def _row(
        self,
        example: Example,
        ids: np.ndarray,
        positions: np.ndarray,
        branches: np.ndarray,
        sources: np.ndarray,
        targets: np.ndarray,
        target_branches: np.ndarray,
        cut: bool = False,
    ) -> EncodedRow:
        is_image = ids == self.image_id
        slots = np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)
        return EncodedRow(
            id=example.id,
            tokens=ids,
            image_slots=slots,
            positions=positions,
            branches=branches,
            sources=sources.astype(np.int32),
            targets=ids[targets].astype(np.int32),
            target_branches=target_branches.astype(np.int32),
            images=example.images,
            cut=cut,
        )


def _fair_cap(first: int, second: int, room: int) -> int:
    """Largest cap with min(first, cap) + min(second, cap) ≤ room: the longer answer is cut first."""
    if first + second <= room:
        return max(first, second)
    return max(room // 2, room - min(first, second))
