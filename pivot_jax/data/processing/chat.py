"""Examples to rows: one tokenised row per conversation or preference pair, its targets, and cutting to length."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.images import size_of
from pivot_jax.data.processing.patches import Cutter, grid_positions
from pivot_jax.data.processing.template import Template
from pivot_jax.data.processing.tiles import TAPS, Tiler
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import RowError, UserError

Kind = Literal["sft", "preference", "prompt", "contrastive"]
_SURROGATE = re.compile("[\ud800-\udfff]")


class Chat:
    """Encodes examples with one tokenizer, template and loss mask.

    Args:
      tokenizer: a ``transformers`` tokenizer with the dialect's control tokens and the image token.
      image_tokens: features per image (patches of the encoder).
      cutter: cuts pictures of any size into patches or tiles; each then takes as many tokens as its size says.
      mrope: positions count pictures' rows and columns too ([n, 3], see ``patches.grid_positions``).
      image_around: tokens before and behind each picture's; () for none.
      template: ``chat`` (turns in the ``dialect``) or ``plain`` (stage 1a); see :mod:`template`.
      dialect: a key of ``dialects.DIALECTS``: how a turn is written.
      system: system text; "" leaves the system turn out. A row's own system turn comes in its place.
      loss_mask: ``response_only`` scores answers with their ``<|im_end|>`` and newline. ``pivot`` scores also the
        header ``<|im_start|>assistant\\n``, every ``<|im_start|>`` and every newline token anywhere (PIVOT's code);
        in a preference row these belong to the prompt and count for both branches.
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
        dialect: str = "chatml",
        max_length: int = 2048,
        max_targets: int = 0,
        max_images: int = 1,
        cutter: Cutter | Tiler | None = None,
        mrope: bool = False,
        image_around: tuple[str, ...] = (),
    ):
        self.tokenizer, self.plain = tokenizer, template == "plain"
        self.template = Template(
            tokenizer, plain=self.plain, system=system, pivot_mask=loss_mask == "pivot", image_token=image_token,
            around=image_around, dialect=dialect,
        )  # fmt: skip
        self.image_tokens, self.max_images = image_tokens, max_images
        self.cutter, self.mrope = cutter, mrope
        self.max_length, self.max_targets = max_length, max_targets or 2 * max_length
        self.image_id = self.template.image_id
        self.end_id = self.template.newline_id if self.plain else self.template.end_id  # ends an answer
        pad = getattr(tokenizer, "pad_token_id", None)
        self.pad_id = self.template.end_id if pad is None else int(pad)
        # Some models' token for a picture is spelled as the placeholder in our rows, which questions may hold, and do.
        control = {*self.template.dialect.tokens, image_token, *image_around}
        self._control = re.compile("|".join(map(re.escape, sorted(control))))
        self._control_in_questions = re.compile("|".join(map(re.escape, sorted(control - {IMAGE}))))

    def decode(self, ids: Any) -> str:
        """Text of an answer: up to the token that ends it, control tokens left out."""
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
            or half a character in the text, or a text so long that an image or the whole answer would be cut.
        """
        if kind == "prompt":
            example = _asked(example)
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

    def _check(self, example: Example) -> None:
        """What no row may have, whatever it is used for: so that both arms use the same rows of a preference set."""
        texts = [message.content for message in example.messages]
        places = sum(text.count(IMAGE) for text in texts)
        if places != len(example.images):
            raise RowError(example.id, f"{places} '{IMAGE}' placeholders but {len(example.images)} images")
        if places > self.max_images:
            raise RowError(example.id, f"{places} images, more than data.images_per_row={self.max_images}")
        answers = [("answer", message.content) for message in example.messages if message.role == "assistant"]
        answers += [("chosen answer", example.chosen or "")] if example.chosen is not None else []
        answers += [("rejected answer", example.rejected or "")] if example.rejected is not None else []
        for what, text in answers:
            if not text.strip():
                raise RowError(example.id, f"the {what} is empty")
        asked = [(message.content, message.role != "assistant") for message in example.messages]
        for text, question in (*asked, (example.chosen or "", False), (example.rejected or "", False)):
            if found := (self._control_in_questions if question else self._control).search(text):
                raise RowError(example.id, f"the text holds the control token '{found.group()}'; remove it")
            if found := _SURROGATE.search(text):  # JSON may hold half of a pair; no tokenizer takes it
                raise RowError(example.id, f"the text holds {found.group()!a}, half of a character, at {found.start()}")

    def _conversation(self, example: Example) -> EncodedRow:
        if not example.messages or example.messages[-1].role != "assistant":
            raise RowError(example.id, "the row has no answer to train on (it ends with a question)")
        grids = self._grids(example)
        piece = self.template.conversation(example.messages, _counts(grids))
        ids, answer = np.asarray(piece.ids, np.int32), np.asarray(piece.answer)
        targets = np.flatnonzero(piece.scored)
        targets = targets[targets > 0]  # nothing comes before the first token
        length = min(len(ids), self.max_length)
        if len(targets) > self.max_targets:
            length = min(length, int(targets[self.max_targets]))
        cut = length < len(ids)
        if cut and (ids[length:] == self.image_id).any():
            raise RowError(example.id, f"{len(ids)} tokens: cutting to the limit of {length} would cut an image")
        if cut and not answer[:length].any():
            raise RowError(example.id, f"{len(ids)} tokens: the answer begins behind the limit of {length}")
        targets = targets[targets < length]
        return self._single(example, ids[:length], grids, targets, cut)

    def _prompt(self, example: Example) -> EncodedRow:
        grids = self._grids(example)
        ids = np.asarray(self.template.prompt(example.messages, _counts(grids)).ids, np.int32)
        if len(ids) > self.max_length:
            raise RowError(example.id, f"the prompt has {len(ids)} tokens, the limit is {self.max_length}")
        return self._single(example, ids, grids)

    def _caption(self, example: Example) -> EncodedRow:
        if len(example.images) != 1:
            raise RowError(example.id, f"a contrastive row needs one image, it has {len(example.images)}")
        text = next((message.content for message in example.messages if message.role == "assistant"), None)
        if text is None:
            raise RowError(example.id, "a contrastive row needs a caption (an assistant turn)")
        ids = np.asarray(self.template.text(text.strip()), np.int32)
        cut = len(ids) >= self.max_length
        return self._single(example, ids[: self.max_length - 1], [], cut=cut)

    def _preference(self, example: Example) -> EncodedRow:
        if example.chosen is None or example.rejected is None:
            raise RowError(example.id, "a preference row needs 'chosen' and 'rejected'")
        grids = self._grids(example)
        prompt = self.template.prompt(example.messages, _counts(grids))
        p = len(prompt.ids)
        if not p:
            raise RowError(example.id, "a preference row needs a prompt")
        # Without the paper's mask earlier answers in the prompt are not scored either: they are the same in both.
        scored = np.flatnonzero(prompt.scored) if self.template.pivot_mask else np.zeros(0, np.int64)
        scored = scored[scored > 0]
        chosen, rejected = self.template.answer(example.chosen), self.template.answer(example.rejected)
        room = min(self.max_length - p, self.max_targets - len(scored))
        if room < 2:
            raise RowError(example.id, f"the prompt has {p} tokens, the limit is {self.max_length}: no answer fits")
        cap = _fair_cap(len(chosen), len(rejected), room)
        cut = max(len(chosen), len(rejected)) > cap
        if cut and chosen[:cap] == rejected[:cap]:
            raise RowError(example.id, f"chosen and rejected are the same when cut to {cap} tokens")
        row = self._single(example, np.asarray(prompt.ids, np.int32), grids, scored, cut)
        return group_row(row, [chosen[:cap], rejected[:cap]])

    def _single(
        self,
        example: Example,
        ids: np.ndarray,
        grids: list[tuple[int, int]],
        targets: np.ndarray | None = None,
        cut: bool = False,
    ) -> EncodedRow:
        """A row of one branch; ``targets``: places of the scored tokens."""
        targets = np.zeros(0, np.int64) if targets is None else targets
        slots = np.full(len(ids), -1, np.int32)
        slots[ids == self.image_id] = self._slots(grids)
        return EncodedRow(
            id=example.id,
            tokens=ids,
            image_slots=slots,
            **self._taps(example, slots),
            positions=self._positions(ids, grids).astype(np.int32),
            branches=np.zeros(len(ids), np.int32),
            sources=(targets - 1).astype(np.int32),
            targets=ids[targets],
            target_branches=np.zeros(len(targets), np.int32),
            images=example.images,
            cut=cut,
        )

    def fits(self, row: EncodedRow, places: np.ndarray) -> bool:
        """Whether a row has as many image tokens as its pictures, cut into patches at places [m, p, 2], need."""
        assert isinstance(self.cutter, Cutter)
        slots = row.image_slots[row.image_slots >= 0] // self.image_tokens
        patches = (places[..., 0] >= 0).sum(-1)
        return bool((np.bincount(slots, minlength=len(places)) * self.cutter.preset.merge**2 == patches).all())

    def _grids(self, example: Example) -> list[tuple[int, int]]:
        """Rows and columns of tokens of each picture; a square encoder's need not be a grid (1 row, then)."""
        if self.cutter is None:
            side = math.isqrt(self.image_tokens)
            rows = side if side**2 == self.image_tokens else 1
            return [(rows, self.image_tokens // rows)] * len(example.images)
        try:
            return [self.cutter.token_grid(*size_of(image)) for image in example.images]
        except UserError as error:
            raise RowError(example.id, str(error)) from None

    def _positions(self, ids: np.ndarray, grids: list[tuple[int, int]]) -> np.ndarray:
        return grid_positions(ids == self.image_id, grids) if self.mrope else np.arange(len(ids))

    def _slots(self, grids: list[tuple[int, int]]) -> np.ndarray:
        """Place of each image token of a row among its images' features."""
        cut = self.cutter if isinstance(self.cutter, Cutter) else None
        own = [np.arange(math.prod(grid)) if cut is None else cut.slots(*grid) for grid in grids]
        return np.concatenate([slots + i * self.image_tokens for i, slots in enumerate(own)]) if own else np.zeros(0)

    def _taps(self, example: Example, slots: np.ndarray) -> dict[str, np.ndarray]:
        """Of which features the image tokens of a tiled picture are made (see ``VLMBatch.tile_taps``)."""
        if not isinstance(self.cutter, Tiler):
            return {}
        taps, weights = np.full((len(slots), TAPS), -1, np.int32), np.zeros((len(slots), TAPS), np.float32)
        for image in example.images:  # one at most
            found = self.cutter.layout(*size_of(image))
            taps[slots >= 0], weights[slots >= 0] = found.slots, found.weights
        return {"tile_taps": taps, "tile_weights": weights}


def chat_of(
    cfg: Any,
    tokenizer: Any,
    kind: Kind,
    image_tokens: int,
    cutter: Cutter | Tiler | None,
    mrope: bool,
    **changes: Any,
) -> Chat:
    """What encodes the rows of a config's data set; arguments as for ``loader.build_loader``.

    Args:
      changes: of :class:`Chat`'s arguments, in place of what the config says.

    Raises:
      UserError: as :class:`Chat`, or a preset that stage 0 does not take.
    """
    data, words = cfg.data, cfg.tokenizer
    longest, most = tuple(data.buckets[-1]) if data.buckets else (data.max_length, 0)
    if kind == "contrastive":
        if cutter is not None:
            raise UserError(
                f"data.image.preset: '{cutter.name}' cuts pictures into patches; stage 0 (contrastive) takes squares"
            )
        longest, most = cfg.model.text.max_length, 0
    settings = {
        "template": data.template,
        "system": words.system,
        "loss_mask": data.loss_mask,
        "image_token": words.image_token,
        "dialect": words.chat,
        "max_length": min(longest, data.max_length),
        "max_targets": most,
        "max_images": data.images_per_row,
        "image_around": tuple(words.image_around),
    }
    return Chat(tokenizer, image_tokens=image_tokens, cutter=cutter, mrope=mrope, **(settings | changes))


def _counts(grids: list[tuple[int, int]]) -> list[int]:
    return [rows * columns for rows, columns in grids]


def _asked(example: Example) -> Example:
    """The example without its answers."""
    messages = example.messages
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    return replace(example, messages=messages, chosen=None, rejected=None)


def _fair_cap(first: int, second: int, room: int) -> int:
    """Largest cap with min(first, cap) + min(second, cap) ≤ room: the longer answer is cut first."""
    if first + second <= room:
        return max(first, second)
    return max(room // 2, room - min(first, second))
