"""Examples to rows: one tokenised row per conversation or preference pair, its targets, and truncation to length."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.batch import CHOSEN, MISMATCHED, REJECTED, EncodedRow
from pivot_jax.data.processing.branches import group_row, side_by_side
from pivot_jax.data.processing.dialects import TEMPLATE
from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.jinja import JinjaTemplate
from pivot_jax.data.processing.patches import grid_positions
from pivot_jax.data.processing.template import ChatTemplate, Format, PlainTemplate, Template
from pivot_jax.data.processing.tiles import TAPS
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import RowError, UserError
from pivot_jax.words import counted

Kind = Literal["sft", "preference", "unpaired", "prompt", "contrastive"]
Grids = Sequence[tuple[int, int]]
_VIDEO = "<|video_pad|>"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Limits:
    """How large a row may be.

    Attributes:
      length: tokens after image expansion.
      targets: scored tokens; 0: no limit of its own.
      images: image slots.
    """

    length: int = 2048
    targets: int = 0
    images: int = 1


_FORMAT, _LIMITS = Format(), Limits()


class Chat:
    """Encodes examples as rows, and decodes answers.

    Args:
      tokenizer: a ``transformers`` tokenizer with the image token, and the dialect's control tokens or a chat template.
      geometry: says how many tokens each image takes.
      format: how turns are written and which of their tokens are scored.
      limits: rows that are longer are truncated, or raise a RowError.
      mrope: positions count the rows and columns of images too ([n, 3], see ``patches.grid_positions``).

    Raises:
      UserError: the tokenizer lacks a control token, writes a newline as several tokens, or has no chat template whose
        answers can be scored, where the format asks for that.
    """

    def __init__(
        self,
        tokenizer: Any,
        geometry: Geometry,
        format: Format = _FORMAT,
        limits: Limits = _LIMITS,
        *,
        mrope: bool = False,
    ):
        self.tokenizer, self.geometry, self.format, self.limits, self.mrope = (
            tokenizer, geometry, format, limits, mrope,
        )  # fmt: skip
        self.template = build_template(tokenizer, format, limits.length)
        self.max_targets = limits.targets or 2 * limits.length
        self.image_id = self.template.image_id
        self.end_id = self.template.end_id  # ends an answer
        pad = getattr(tokenizer, "pad_token_id", None)
        self.pad_id = self.template.end_id if pad is None else int(pad)
        # Some models spell their image token like the placeholder in our rows, which questions may and do contain.
        control = {*self.template.control, format.image_token, *format.image_around} - {""}  # "": no images
        self._control = re.compile("|".join(map(re.escape, sorted(control))))
        self._control_in_questions = re.compile("|".join(map(re.escape, sorted(control - {IMAGE}))))

    def for_images(self, count: int) -> Chat:
        """The same chat with another limit of images."""
        changed = copy.copy(self)
        changed.limits = replace(self.limits, images=count)
        return changed

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that a response must not hold, because they stand for an image: the image token and those around it.

        A tokenizer with Qwen's video token has it too.
        """
        around = [self.tokenizer.convert_tokens_to_ids(token) for token in self.format.image_around]
        video = self.tokenizer.get_vocab().get(_VIDEO)
        return tuple(sorted({self.image_id, *around, *(() if video is None else (video,))}))

    def decode(self, ids: Any) -> str:
        """Text of an answer, up to the token that ends it and without control tokens."""
        ids = [int(i) for i in ids]
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def encode(self, example: Example, kind: Kind) -> EncodedRow:
        """The example as one row.

        ``sft``: the whole conversation; of a preference example, prompt and chosen answer (for the SFT arm).
        ``preference``: prompt, chosen and rejected in one row of three branches; of a visual pair the whole row twice,
        with the one and with the other images. Rows of the other kinds leave the rejected images out.
        ``unpaired``: prompt, the answers that there are, and the answer to another prompt, if it has one.
        ``prompt``: the conversation up to the last open assistant header; a final answer is left out.
        ``contrastive``: the first answer (caption) alone, truncated such that at least one pad follows it.

        Raises:
          RowError: placeholder count ≠ image count, more images than the limit, an empty answer, a control token or
            half a character in the text, or a text so long that truncation would remove an image or the whole answer.
        """
        if kind == "prompt":
            example = _asked(example)
        if example.images_rejected and kind not in ("preference", "unpaired"):
            example = replace(example, images=example.images[: -example.images_rejected], images_rejected=0)
        self._check(example)
        if kind == "preference":
            return self._visual(example) if example.images_rejected else self._preference(example)
        if kind == "unpaired":
            return self._unpaired(example)
        if kind == "prompt":
            return self._prompt(example)
        if kind == "contrastive":
            return self._caption(example)
        if example.chosen is not None:
            example = replace(example, messages=(*example.messages, Message("assistant", example.chosen)))
        return self._conversation(example)

    def options(self, example: Example, texts: Sequence[str]) -> EncodedRow:
        """The question of an example and several answers to it, each a branch that ends with the end token.

        Raises:
          RowError: as :meth:`encode`.
        """
        example = _asked(example)
        self._check(example)
        grids = self._grids(example)
        with _row(example):
            prompt, answers = self.template.answers(example.messages, _counts(grids), texts)
        self._check_length(example, prompt.ids)
        row = self._single(example, np.asarray(prompt.ids, np.int32), grids)
        return group_row(row, [_to_last(self.end_id, ids) for ids in answers])

    def _check(self, example: Example) -> None:
        """Checks that apply whatever a row is used for, so that both arms use the same rows of a preference set."""
        texts = [message.content for message in example.messages]
        placeholders = sum(text.count(IMAGE) for text in texts)
        images, rejected = len(example.images), example.images_rejected
        if placeholders != images - rejected:
            raise RowError(
                example.id,
                f"{counted(placeholders, 'placeholder')} {IMAGE} but {counted(images - rejected, 'image')}",
            )
        if rejected not in (0, placeholders):
            raise RowError(
                example.id, f"{counted(rejected, 'rejected image')} in place of {counted(placeholders, 'image')}"
            )
        if images > self.limits.images:
            raise RowError(
                example.id, f"{counted(images, 'image')}, more than data.images_per_row={self.limits.images}"
            )
        answers = [("answer", message.content) for message in example.messages if message.role == "assistant"]
        answers += [("chosen answer", example.chosen or "")] if example.chosen is not None else []
        answers += [("rejected answer", example.rejected or "")] if example.rejected is not None else []
        answers += [("answer to another prompt", example.mismatched)] if example.mismatched is not None else []
        for what, text in answers:
            if not text.strip():
                raise RowError(example.id, f"the {what} is empty")
        asked = [(message.content, message.role != "assistant") for message in example.messages]
        own = [(text or "", False) for text in (example.chosen, example.rejected, example.mismatched)]
        for text, question in (*asked, *own):
            if found := (self._control_in_questions if question else self._control).search(text):
                raise RowError(example.id, f"the text holds the control token '{found.group()}'; remove it")
            if found := _SURROGATE.search(text):  # JSON may hold half of a pair; no tokenizer takes it
                raise RowError(example.id, f"the text holds {found.group()!a}, half of a character, at {found.start()}")

    def _size(self, example: Example, tokens: int) -> str:
        """The number of a row's tokens in words: only the limit that it exceeds where a text is not tokenised whole."""
        whole = sum(len(message.content) for message in example.messages) <= self.template.whole
        return str(tokens) if whole or tokens <= self.limits.length else f"more than {self.limits.length}"

    def _conversation(self, example: Example) -> EncodedRow:
        if not example.messages or example.messages[-1].role != "assistant":
            raise RowError(example.id, "the row has no answer to train on (it ends with a question)")
        grids = self._grids(example)
        with _row(example):
            piece = self.template.conversation(example.messages, _counts(grids))
        ids, answer = np.asarray(piece.ids, np.int32), np.asarray(piece.answer)
        targets = np.flatnonzero(piece.scored)
        targets = targets[targets > 0]  # nothing comes before the first token
        length = min(len(ids), self.limits.length)
        if len(targets) > self.max_targets:
            length = min(length, int(targets[self.max_targets]))
        truncated = length < len(ids)
        if truncated and (ids[length:] == self.image_id).any():
            size = self._size(example, len(ids))
            raise RowError(example.id, f"{size} tokens: truncation to {length} would remove part of an image")
        if truncated and not answer[:length].any():
            size = self._size(example, len(ids))
            raise RowError(example.id, f"{size} tokens: the answer begins after the limit of {length}")
        targets = targets[targets < length]
        return self._single(example, ids[:length], grids, targets, truncated)

    def _prompt(self, example: Example) -> EncodedRow:
        grids = self._grids(example)
        with _row(example):
            ids = np.asarray(self.template.prompt(example.messages, _counts(grids)).ids, np.int32)
        self._check_length(example, ids)
        return self._single(example, ids, grids)

    def _check_length(self, example: Example, prompt: Sequence[int] | np.ndarray) -> None:
        if len(prompt) > self.limits.length:
            size = self._size(example, len(prompt))
            raise RowError(example.id, f"the prompt has {size} tokens, the limit is {self.limits.length}")

    def _caption(self, example: Example) -> EncodedRow:
        if len(example.images) != 1:
            raise RowError(example.id, f"a contrastive row needs one image, it has {len(example.images)}")
        text = next((message.content for message in example.messages if message.role == "assistant"), None)
        if text is None:
            raise RowError(example.id, "a contrastive row needs a caption (an assistant turn)")
        ids = np.asarray(self.template.text(text.strip()), np.int32)
        truncated = len(ids) >= self.limits.length
        return self._single(example, ids[: self.limits.length - 1], [], truncated=truncated)

    def _preference(self, example: Example) -> EncodedRow:
        if example.chosen is None or example.rejected is None:
            raise RowError(example.id, "a preference row needs 'chosen' and 'rejected'")
        row, (chosen, rejected) = self._answered(example, [example.chosen, example.rejected])
        if chosen == rejected:  # no preference: the loss would stay at log 2
            cause = f" when truncated to {len(chosen)} tokens" if row.truncated else ""
            raise RowError(example.id, f"chosen and rejected are the same{cause}")
        return group_row(row, [chosen, rejected])

    def _visual(self, example: Example) -> EncodedRow:
        if example.chosen is None or example.rejected is not None:
            raise RowError(example.id, "a visual pair (image_rejected) has one answer, 'chosen', and no 'rejected'")
        if self.geometry.arrays > 1:
            raise RowError(example.id, "visual pairs (image_rejected) of tiled images are not supported")
        half = replace(self.limits, length=self.limits.length // 2, targets=self.max_targets // 2)
        count, sides = example.images_rejected, []
        for images in (example.images[:-count], example.images[-count:]):
            one = replace(example, images=images, images_rejected=0)
            row, answers = self._answered(one, [example.chosen], half)
            sides.append(group_row(row, answers))
        if len(sides[0].targets) != len(sides[1].targets):  # another number of image tokens left another space
            raise RowError(example.id, f"the answer is truncated to different lengths by the limit {half.length}")
        return side_by_side(sides, self.geometry.features)

    def _unpaired(self, example: Example) -> EncodedRow:
        if example.images_rejected:
            raise RowError(example.id, "a visual pair (image_rejected) is no answer with a label")
        texts = {CHOSEN: example.chosen, REJECTED: example.rejected, MISMATCHED: example.mismatched}
        given = {branch: text for branch, text in texts.items() if text is not None}
        if not {CHOSEN, REJECTED} & given.keys():
            raise RowError(example.id, "a row of answers with labels needs 'chosen' or 'rejected', or 'label'")
        row, answers = self._answered(example, list(given.values()))
        return group_row(row, answers, list(given))

    def _answered(
        self, example: Example, texts: Sequence[str], limits: Limits | None = None
    ) -> tuple[EncodedRow, list[list[int]]]:
        """The row of the prompt, and the token ids of each answer, truncated where they do not fit together.

        The row is marked as truncated where an answer is. ``limits``: in place of the chat's.
        """
        longest = self.limits.length if limits is None else limits.length
        most = self.max_targets if limits is None else limits.targets
        grids = self._grids(example)
        with _row(example):
            prompt, answers = self.template.answers(example.messages, _counts(grids), texts)
        p = len(prompt.ids)
        if not p:
            raise RowError(example.id, "a preference row needs a prompt")
        # Without the paper's mask earlier answers in the prompt are not scored either: they are the same in both.
        scored = np.flatnonzero(prompt.scored) if self.format.pivot_mask else np.zeros(0, np.int64)
        scored = scored[scored > 0]
        space = min(longest - p, most - len(scored))
        if space < len(answers):
            size = self._size(example, p)
            raise RowError(example.id, f"the prompt has {size} tokens, the limit is {longest}: no answer fits")
        cap = _fair_cap([len(answer) for answer in answers], space)
        truncated = any(len(answer) > cap for answer in answers)
        row = self._single(example, np.asarray(prompt.ids, np.int32), grids, scored, truncated)
        return row, [answer[:cap] for answer in answers]

    def _single(
        self,
        example: Example,
        ids: np.ndarray,
        grids: Grids,
        targets: np.ndarray | None = None,
        truncated: bool = False,
    ) -> EncodedRow:
        """A row of one branch; ``targets``: indices of the scored tokens."""
        targets = np.zeros(0, np.int64) if targets is None else targets
        slots = np.full(len(ids), -1, np.int32)
        slots[ids == self.image_id] = self._slots(grids)
        return EncodedRow(
            id=example.id,
            tokens=ids,
            image_slots=slots,
            **self._mix(example, slots),
            positions=self._positions(ids, grids).astype(np.int32),
            branches=np.zeros(len(ids), np.int32),
            sources=(targets - 1).astype(np.int32),
            targets=ids[targets],
            target_branches=np.zeros(len(targets), np.int32),
            images=example.images,
            truncated=truncated,
        )

    def _grids(self, example: Example) -> Grids:
        """Rows and columns of the tokens of each image."""
        try:
            return [self.geometry.token_grid(image) for image in example.images]
        except UserError as error:
            raise RowError(example.id, str(error)) from None

    def _positions(self, ids: np.ndarray, grids: Grids) -> np.ndarray:
        return grid_positions(ids == self.image_id, grids) if self.mrope else np.arange(len(ids))

    def _slots(self, grids: Grids) -> np.ndarray:
        """Index of each image token of a row among its images' features."""
        own = [self.geometry.token_slots(*grid) + i * self.geometry.features for i, grid in enumerate(grids)]
        return np.concatenate(own) if own else np.zeros(0)

    def _mix(self, example: Example, slots: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of tiled images (see ``VLMBatch.tile_taps``); a row of such a model has one image at most."""
        if self.geometry.arrays == 1:
            return {}
        taps, weights = np.full((len(slots), TAPS), -1, np.int32), np.zeros((len(slots), TAPS), np.float32)
        for image in example.images:
            if (mix := self.geometry.mix(image)) is not None:
                taps[slots >= 0], weights[slots >= 0] = mix
        return {"tile_taps": taps, "tile_weights": weights}


def build_template(tokenizer: Any, format: Format, longest: int = 0) -> ChatTemplate:
    """What writes the rows of a format, of ``longest`` tokens (see ``template.Tokens``). Raises as :class:`Chat`."""
    if format.plain:
        return PlainTemplate(tokenizer, format, longest)
    made = JinjaTemplate if format.dialect == TEMPLATE else Template
    return made(tokenizer, format, longest)


@contextmanager
def _row(example: Example) -> Iterator[None]:
    """An error of the template is one of this row."""
    try:
        yield
    except UserError as error:
        raise RowError(example.id, str(error)) from None


def _to_last(end: int, ids: list[int]) -> list[int]:
    """Ids up to the last ``end``; a long answer may be without it."""
    return ids[: len(ids) - ids[::-1].index(end)] if end in ids else ids


def _counts(grids: Grids) -> list[int]:
    return [rows * columns for rows, columns in grids]


def _asked(example: Example) -> Example:
    """The example without its answers."""
    messages = example.messages
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    return replace(example, messages=messages, chosen=None, rejected=None)


def _fair_cap(sizes: Sequence[int], space: int) -> int:
    """Largest cap whose Σ min(size, cap) ≤ space: the longest answers are truncated first."""
    left = sorted(sizes)
    if sum(left) <= space:
        return left[-1]
    while left[0] * len(left) <= space:  # the shortest stays whole, so the others share what it leaves
        space -= left.pop(0)
    return space // len(left)
