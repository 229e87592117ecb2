"""The one way from examples to arrays: chat, image reading and collation of one model.

Training, evaluation, probes and notebooks use the same object, so a model's images are always resized, cropped and
normalised as it was trained. Build it with :func:`build_processor`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import Batch, EncodedRow
from pivot_jax.data.processing.chat import Chat, Kind, Limits
from pivot_jax.data.processing.collate import Collation, TargetValues, contrastive_batch, prompt_batch, vlm_batch
from pivot_jax.data.processing.geometry import Geometry, ImageArrays, Square
from pivot_jax.data.processing.images import NOT_REGULAR, ROOT_RULE, Changed, load, patches, preset_of
from pivot_jax.data.processing.patches import patches_of
from pivot_jax.data.processing.template import Format
from pivot_jax.data.processing.tiles import tiles_of
from pivot_jax.errors import RowError, UserError
from pivot_jax.shapes import round_up


@dataclass(frozen=True, eq=False)
class Processor:
    """Encodes examples of one kind, reads their images, and collates both.

    Attributes:
      chat: text to rows.
      geometry: images to arrays.
      kind: kind of a row: a conversation (``sft``), a pair (``preference``), an answer with a label (``unpaired``), a
        ``prompt``, or an image and its caption (``contrastive``).
      check_images: :meth:`encode` raises a RowError for an image that is no file.
    """

    chat: Chat
    geometry: Geometry
    kind: Kind
    check_images: bool = False

    def for_kind(self, kind: Kind) -> Processor:
        """The same processor for rows of another kind."""
        return replace(self, kind=kind)

    def for_images(self, count: int) -> Processor:
        """The same processor for rows of up to ``count`` images, if it does not take as many already."""
        return self if count <= self.chat.limits.images else replace(self, chat=self.chat.for_images(count))

    def encode(self, example: Example) -> EncodedRow:
        """The example as one row; its images are not read.

        Raises:
          RowError: as :meth:`Chat.encode`, or an image is no file (``check_images``).
        """
        row = self.chat.encode(example, self.kind)
        if self.check_images:
            for image in (one.reference if isinstance(one, Changed) else one for one in row.images):
                if isinstance(image, str) and not os.path.isfile(image):
                    if not os.path.exists(image):
                        raise RowError(row.id, f"image file {image} does not exist; {ROOT_RULE}")
                    raise RowError(row.id, f"image {image} cannot be read ({NOT_REGULAR})")
        return row

    @property
    def arrays_per_row(self) -> int:
        """m: image arrays of a row, whether it has as many images or not."""
        return self.chat.limits.images * self.geometry.arrays

    def read_images(self, images: Sequence[Any]) -> ImageArrays:
        """The images of one row in as many arrays as they take: leading axis [a].

        Raises:
          UserError: an image that cannot be read.
        """
        per_image = self.geometry.arrays
        out = self.geometry.empty(len(images) * per_image)
        for index, reference in enumerate(images):
            try:
                found = self.geometry.convert(load(reference), len(images) == 1)
            except UserError as error:
                where = f"image {index + 1} of {len(images)}: " if len(images) > 1 else ""
                raise UserError(f"{where}{error}") from None
            for whole, own in out.pairs(found):
                whole[index * per_image : (index + 1) * per_image] = own
        return out

    def batch(
        self,
        rows: Sequence[EncodedRow | None],
        images: ImageArrays,
        bucket: tuple[int, int],
        row_index: np.ndarray | None = None,
        *,
        packing: int = 1,
        target_values: TargetValues | None = None,
    ) -> Batch:
        """The rows as one batch: a VLMBatch, PromptBatch or ContrastiveBatch by :attr:`kind`.

        Args:
          rows: None for a masked row.
          images: leading axes [rows, m].
          bucket: tokens and targets of a sequence; prompts and captions have no targets.
          row_index: int [rows], -1 for a masked row; default: their position here.
          packing, target_values: of training rows only, see ``collate.vlm_batch``.
        """
        if row_index is None:
            row_index = np.asarray([-1 if row is None else index for index, row in enumerate(rows)])
        tiled = self.geometry.arrays > 1
        constants = Collation(self.chat.pad_id, self.geometry.features, self.chat.mrope, tiled)
        if self.kind == "prompt":
            return prompt_batch(rows, images, row_index, bucket[0], constants)
        if self.kind == "contrastive":
            return contrastive_batch(rows, images, row_index, bucket[0], constants)
        return vlm_batch(rows, images, row_index, bucket, constants, packing=packing, target_values=target_values)

    def batch_of(self, examples: Sequence[Example], step: int = 1) -> Any:
        """A few examples, read and encoded, as one batch of the smallest shape: see :meth:`batch`.

        Args:
          step: numbers of tokens and targets are rounded up to a multiple of it, so that few shapes are compiled.

        Raises:
          RowError: an example that cannot be encoded, or an image that cannot be read.
        """
        rows = [self.encode(example) for example in examples]
        images = self.geometry.empty(len(rows), self.arrays_per_row)
        for index, example in enumerate(examples):
            try:
                found = self.read_images(example.images)
            except UserError as error:
                raise RowError(example.id, str(error)) from None
            for whole, own in images.pairs(found):
                whole[index, : len(own)] = own
        tokens, targets = max(len(row.tokens) for row in rows), max(len(row.targets) for row in rows)
        return self.batch(rows, images, (round_up(tokens, step), round_up(targets, step)))


def build_geometry(section: Any, patch_size: int) -> Geometry:
    """Geometry of ``config.data.image`` for an encoder with patches of ``patch_size`` pixels.

    Raises:
      UserError: an unknown preset, or numbers that it cannot work with.
    """
    found = patches_of(section, patch_size) or tiles_of(section, patch_size)
    if found is not None:
        return found
    preset_of(section["preset"])
    return Square(section["preset"], section["size"], patches(section["size"], patch_size))


def build_processor(
    config: Any,
    tokenizer: Any,
    kind: Kind,
    *,
    patch_size: int,
    mrope: bool = False,
    template: str = "",
    max_length: int = 0,
) -> Processor:
    """Processor of a config's rows.

    Args:
      config: a run's config; read are ``data``, ``tokenizer`` and, for captions, ``model.text.max_length``.
      tokenizer: a ``transformers`` tokenizer.
      patch_size: pixels of the encoder's patches. mrope: whether the decoder takes positions of three axes.
      template: in place of ``data.template``.
      max_length: tokens of a row, in place of the limits that the config sets for training.

    Raises:
      UserError: as :class:`Chat` and :func:`build_geometry`, or a preset that stage 0 does not take.
    """
    data, words = config.data, config.tokenizer
    geometry = build_geometry(data.image, patch_size)
    longest, targets = tuple(data.buckets[-1]) if data.buckets else (data.max_length, 0)
    length = min(longest, data.max_length)
    if kind == "contrastive":
        if not geometry.fixed:
            raise UserError(
                f"data.image.preset: '{geometry.preset}' splits images; stage 0 (contrastive) takes squares"
            )
        length, targets = min(config.model.text.max_length, data.max_length), 0
    if max_length:
        length, targets = max_length, 0
    format = Format(
        template=template or data.template,
        dialect=words.chat,
        system=words.system,
        loss_mask=data.loss_mask,
        image_token=words.image_token,
        image_around=tuple(words.image_around),
    )
    chat = Chat(tokenizer, geometry, format, Limits(length, targets, data.images_per_row), mrope=mrope)
    return Processor(chat, geometry, kind, data.check_images)
