"""From examples to answers: prompts are encoded, batched to few shapes, answered or ranked, decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.loading.image_cache import Arrays, PictureReader, Pictures
from pivot_jax.data.loading.workers import Job, RowReader, Workers
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.chat import Chat
from pivot_jax.data.processing.collate import prompt_batch, vlm_batch
from pivot_jax.data.processing.images import preset_of
from pivot_jax.data.processing.patches import Cutter
from pivot_jax.errors import UserError
from pivot_jax.eval import ranking
from pivot_jax.models.generate import Sampling, generate
from pivot_jax.models.mllm import MLLM

LENGTH_STEP = 64  # prompts are padded to a multiple of this, so that few shapes are compiled


@dataclass(frozen=True)
class Reply:
    """One answer."""

    text: str
    finished: bool = True  # False where the token limit cut it


class Answerer:
    """Answers examples with an MLLM.

    Args:
      chat: encodes prompts; its ``end_id`` (and ``eos_ids``) end an answer.
      batch_size: questions answered together; the last batch is filled up with masked rows.
      temperature, seed: 0 is greedy; above, each call samples with keys from the seed.
      blank_images: show a picture of the preset's mean colour instead (0 after normalisation): the control that says
        what the language prior alone is worth.
    """

    def __init__(
        self,
        mllm: MLLM,
        params: Any,
        chat: Chat,
        *,
        preset: str = "siglip",
        batch_size: int = 16,
        temperature: float = 0.0,
        seed: int = 0,
        eos_ids: tuple[int, ...] = (),
        blank_images: bool = False,
        workers: int = 2,
    ):
        self.mllm, self.params, self.chat = mllm, params, chat
        self.preset, self.batch_size = preset, batch_size
        self.temperature, self.blank_images, self.seed = temperature, blank_images, seed
        self.eos_ids = tuple(dict.fromkeys((chat.end_id, *eos_ids)))
        self._key = jax.random.key(seed)
        self._calls = 0
        size = 0 if isinstance(chat.cutter, Cutter) else mllm.config.vision.image_size  # of a square or a tile
        reader = PictureReader(chat.max_images, preset, size, chat.cutter)
        self._pictures = Pictures(reader, 1, cache_mib=0)  # every picture is used once, so none is kept
        self._workers = Workers(RowReader(chat, "prompt", reader, check_files=False), workers, "thread")

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on beside model, question and their length; JSON values.

        Seed and batch size count only where answers are sampled: a greedy answer is the same with any.
        """
        found: dict[str, Any] = {
            "temperature": float(self.temperature),
            "preset": self.preset,
            "blank_images": self.blank_images,
        }
        return found | ({"seed": self.seed, "batch_size": self.batch_size} if self.temperature > 0 else {})

    def answer(
        self, examples: Sequence[Example], max_new_tokens: int, done: Callable[[int], Any] = lambda count: None
    ) -> list[Reply]:
        """An answer to each example, in order; ``done(count)`` is called behind every batch.

        Raises:
          UserError: an example that cannot be asked (image missing, prompt too long); the message names it. A benchmark
            with unasked questions has no score.
        """
        replies: list[Reply] = []
        for rows, images, count in self._batches(examples):
            index, (pixels, places) = _index(count, len(rows)), images
            batch = prompt_batch(
                rows, pixels, index, _length(rows), self.chat.pad_id, patch_places=places, mrope=self.chat.mrope
            )
            self._calls += 1
            out = generate(
                self.mllm,
                self.params,
                batch,
                Sampling(max_new_tokens, self.eos_ids, self.chat.pad_id, self.temperature),
                key=jax.random.fold_in(self._key, self._calls),
            )
            texts = [self.chat.decode(out.ids(row)) for row in range(count)]
            replies += [Reply(text, bool(end)) for text, end in zip(texts, out.finished, strict=False)]
            done(count)
        return replies

    def option_logps(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of every option (with the end of the turn behind it) and its token count.

        Returns:
          float32 [n, o] sums (-inf where an example has fewer than o options), int32 [n, o] counts.
        """
        widest = max(len(texts) for texts in options)
        sums, counts, start = [], [], 0
        for rows, images, count in self._batches(examples):
            full = [
                group_row(row, [self._option_ids(text) for text in options[start + index]]) if row is not None else None
                for index, row in enumerate(rows)
            ]
            targets = max(len(row.targets) for row in full if row is not None)
            bucket = (_length(full), _round_up(targets, LENGTH_STEP // 4))
            index, (pixels, places) = _index(count, len(rows)), images
            batch = vlm_batch(full, pixels, index, bucket, self.chat.pad_id, patch_places=places, mrope=self.chat.mrope)
            found = ranking.option_logps(self.mllm, self.params, batch, widest)
            sums.append(found[0][:count])
            counts.append(found[1][:count])
            start += count
        return np.concatenate(sums), np.concatenate(counts)

    def choose(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], normalisation: str = "mean"
    ) -> list[int]:
        """Index of each example's most likely option (see ``rank.rank``)."""
        sums, counts = self.option_logps(examples, options)
        return [int(best) for best in ranking.rank(sums, counts, normalisation)]

    def _option_ids(self, text: str) -> list[int]:
        return [*self.chat.tokenizer(text, add_special_tokens=False)["input_ids"], self.chat.end_id]

    def _batches(self, examples: Sequence[Example]) -> Iterator[tuple[list[EncodedRow | None], Arrays, int]]:
        """Encoded rows (None: fills the batch up), their pictures (``Pictures.batch``), and how many are real."""
        for start in range(0, len(examples), self.batch_size):
            chunk = examples[start : start + self.batch_size]
            rows: list[EncodedRow | None] = [self.chat.encode(example, "prompt") for example in chunk]
            masked = self.batch_size - len(chunk)
            yield [*rows, *[None] * masked], self._images(chunk, masked), len(chunk)

    def _images(self, chunk: Sequence[Example], masked: int) -> Arrays:
        if self.blank_images and self.chat.cutter is None:
            return self._blank((len(chunk) + masked, *self._pictures.reader.shape)), None
        rows = np.asarray([*range(len(chunk)), *[-1] * masked])
        jobs = [Job(example.id, example.images, None) for example in chunk]
        done = self._workers.finish(jobs)
        (images, places), errors = self._pictures.batch(rows, lambda _: (one.pictures for one in done))
        if bad := next((error for error in errors if error is not None), None):
            raise UserError(f"{bad}; mend the file, every question of a benchmark has to be asked")
        return (self._blank(images.shape) if self.blank_images else images), places

    def _blank(self, shape: tuple[int, ...]) -> np.ndarray:
        """The mean colour everywhere; of cut pictures the sizes (and so the prompts) stay as they are."""
        mean = np.rint(255 * np.asarray(preset_of(self.preset).mean)).astype(np.uint8)
        return np.broadcast_to(mean, (*shape[:-1], shape[-1] // 3, 3)).reshape(shape).copy()


def _length(rows: Sequence[EncodedRow | None]) -> int:
    return _round_up(max(len(row.tokens) for row in rows if row is not None), LENGTH_STEP)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _index(count: int, size: int) -> np.ndarray:
    return np.where(np.arange(size) < count, np.arange(size), -1)
