"""From examples to answers: prompts are encoded, answered by the sampler or ranked, decoded."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.loading.image_cache import ImageCache
from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.loading.workers import Job, Workers
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.geometry import ImageArrays, blank
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval import ranking
from pivot_jax.models.mllm import MLLM
from pivot_jax.parallel.processes import Processes
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.shapes import round_up

LENGTH_STEP = 64  # prompts are padded to a multiple of this, so that few shapes are compiled
THREADS = 2  # that read images
TOGETHER = 4  # prompts that are read together
STEPS = 16  # tokens after which a question takes the slot of an answered one; many answers are shorter


@dataclass(frozen=True)
class Reply:
    """One answer."""

    text: str
    finished: bool = True  # False where the token limit truncated it


class Decoding(NamedTuple):
    """How answers are drawn; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Decoding()


class Answerer:
    """Answers examples with an MLLM.

    Args:
      processor: encodes prompts and reads images as the model was trained; its chat says which token ends an answer.
      batch_size: questions answered together. A sampled answer depends on the seed and the question's id, not on this.
      blank_images: the preset's mean colour in place of every image (0 after normalisation): the control that says what
        the language prior alone is worth.
      read_timeout_s: seconds for a question's images; 0: any time.
      mesh: of the parameters; None on one device. With several processes each passes its own questions to
        :meth:`answer`, and all call it equally often.
    """

    def __init__(
        self,
        mllm: MLLM,
        params: Any,
        processor: Processor,
        *,
        batch_size: int = 16,
        decoding: Decoding = GREEDY,
        blank_images: bool = False,
        read_timeout_s: float = 0.0,
        mesh: Any = None,
    ):
        self.mllm, self.params, self.batch_size, self.mesh = mllm, params, batch_size, mesh
        self.processes = Processes(mesh)
        self.processor, self.read_timeout_s = processor, read_timeout_s
        self._prompts, self._options = processor.for_kind("prompt"), processor.for_kind("preference")
        self.chat, self.geometry = processor.chat, processor.geometry
        self.decoding, self.blank_images = decoding, blank_images
        self._sampler: Sampler | None = None
        self._images_of = ImageCache(self._prompts, 1, cache_mib=0)  # every image is used once, so none is kept
        self._workers = Workers(self._prompts, THREADS, "thread", read_timeout_s)
        self._reader = ImageReader(self._read, read_timeout_s)

    def for_images(self, count: int) -> Answerer:
        """An answerer of questions with up to ``count`` images, although the model was trained with fewer in a row."""
        wider = self.processor.for_images(count)
        return self if wider is self.processor else self._with(processor=wider)

    def for_sampling(self, temperature: float, top_p: float = 1.0) -> Answerer:
        """An answerer that draws its answers so."""
        wanted = self.decoding._replace(temperature=temperature, top_p=top_p)
        return self if wanted == self.decoding else self._with(decoding=wanted)

    def _with(self, **changes: Any) -> Answerer:
        names = ("batch_size", "decoding", "blank_images", "read_timeout_s", "mesh")
        own = {name: getattr(self, name) for name in names} | changes
        return Answerer(self.mllm, self.params, own.pop("processor", self.processor), **own)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that an answer depends on besides the model, the question and the length limit; JSON values.

        The seed matters only where answers are sampled: a greedy answer is the same with any.
        """
        temperature, top_p, seed = self.decoding
        found: dict[str, Any] = {
            "temperature": float(temperature),
            "preset": self.geometry.preset,
            "blank_images": self.blank_images,
        }
        if temperature > 0:
            found |= {"seed": seed} | ({"top_p": top_p} if top_p < 1 else {})
        return found

    def answer(
        self,
        examples: Sequence[Example],
        max_new_tokens: int,
        done: Callable[[int], Any] = lambda count: None,
        stop: Sequence[str] = (),
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int = 0,
        min_p: float = 0.0,
    ) -> list[Reply]:
        """An answer to each example, in order; ``done(count)`` is called as they are finished.

        Args:
          stop: an answer ends before the first of these strings in it.
          temperature, top_p: in place of the answerer's. top_k, min_p: as in ``rollout.engine.Sampling``.

        Raises:
          UserError: an example that cannot be asked (image missing, prompt too long); the message names it. A benchmark
            with questions that were not asked has no score.
        """
        rows = [self._prompts.encode(example) for example in examples]
        prompts = [Prompt(*parts) for parts in zip(examples, rows, _numbers(examples), strict=True)]
        sampling = Sampling(
            max_new_tokens,
            self.decoding.temperature if temperature is None else temperature,
            self.decoding.top_p if top_p is None else top_p,
            top_k,
            min_p,
            stop_ids=(self.chat.end_id,),
            stop=tuple(stop),
        )
        try:
            rollouts = self._sampling_engine().generate(prompts, 1, sampling, (self.decoding.seed, 0), done)
        except RowError as error:
            raise _not_asked(error) from None
        replies = [response for (response,) in rollouts.responses]
        texts = [_before(self.chat.decode(reply.tokens), stop) for reply in replies]
        return [Reply(text, reply.finish == "stop") for text, reply in zip(texts, replies, strict=True)]

    def option_logps(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], *, blank: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of every option, the end of the turn included, and its token count.

        Args:
          blank: with blank images, whatever ``blank_images`` says.

        Returns:
          float32 [n, o] sums (-inf where an example has fewer than o options), int32 [n, o] counts.
        """
        widest = max(len(texts) for texts in options)
        sums, counts = [], []
        for rows, images, count in self._batches(examples, options, blank or self.blank_images):
            targets = max(len(row.targets) for row in rows if row is not None)
            batch = self._options.batch(rows, images, (_length(rows), round_up(targets, LENGTH_STEP // 4)))
            found = ranking.option_logps(self.mllm, self.params, batch, widest)
            sums.append(found[0][:count])
            counts.append(found[1][:count])
        return np.concatenate(sums), np.concatenate(counts)

    def choose(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], normalisation: str = "mean"
    ) -> list[int]:
        """Index of each example's most likely option (see ``ranking.rank``)."""
        sums, counts = self.option_logps(examples, options)
        prior = self.option_logps(examples, options, blank=True)[0] if normalisation == "prior" else None
        return [int(best) for best in ranking.rank(sums, counts, normalisation, prior)]

    def _sampling_engine(self) -> Sampler:
        """The sampler, which is made for the first answer: ranking needs none."""
        if self._sampler is None:
            rows = 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]
            slots, prompts = (round_up(size, rows) for size in (self.batch_size, min(TOGETHER, self.batch_size)))
            shape = Shape(slots, prompts, STEPS)
            self._sampler = Sampler(self.mllm, self._prompts, shape, mesh=self.mesh, reader=self._reader)
            self._sampler.update(self.params, 0)
        return self._sampler

    def _read(self, images: Sequence[Any]) -> ImageArrays:
        """The images of one question, or blank ones. These keep the sizes that say how many tokens an image takes."""
        if not self.blank_images:
            return self._prompts.read_images(images)
        known = self.geometry.fixed  # the files need not be read
        found = self.geometry.empty(len(images) * self.geometry.arrays) if known else self._prompts.read_images(images)
        return found._replace(pixels=blank(found.pixels.shape, self.geometry.preset))

    def _batches(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], blank_images: bool
    ) -> Iterator[tuple[list[EncodedRow | None], ImageArrays, int]]:
        """Questions with their options (None: fills the batch up), their images, and how many rows are real."""
        for start in range(0, len(examples), self.batch_size):
            chunk = examples[start : start + self.batch_size]
            texts = options[start : start + self.batch_size]
            rows: list[EncodedRow | None] = [self.chat.options(*both) for both in zip(chunk, texts, strict=True)]
            masked = self.batch_size - len(chunk)
            yield [*rows, *[None] * masked], self._images(chunk, masked, blank_images), len(chunk)

    def _images(self, chunk: Sequence[Example], masked: int, blank_images: bool) -> ImageArrays:
        """Images of a batch. Blank ones keep their sizes where these say how many tokens an image takes."""
        if blank_images and self.geometry.fixed:
            empty = self.geometry.empty(len(chunk) + masked, self._prompts.arrays_per_row)
            return ImageArrays(blank(empty.pixels.shape, self.geometry.preset))
        rows = np.asarray([*range(len(chunk)), *[-1] * masked])
        jobs = [Job(example.id, example.images, None) for example in chunk]
        done = self._workers.finish(jobs)
        images, errors = self._images_of.batch(rows, lambda _: (one.images for one in done))
        if bad := next((error for error in errors if error is not None), None):
            raise _not_asked(bad)
        if blank_images:
            return images._replace(pixels=blank(images.pixels.shape, self.geometry.preset))
        return images


def _not_asked(error: Exception) -> UserError:
    return UserError(f"{error}; fix the file: every question of a benchmark has to be asked")


def _before(text: str, stop: Sequence[str]) -> str:
    """The text before the first of these strings in it."""
    ends = [at for string in stop if (at := text.find(string)) >= 0]
    return text[: min(ends)] if ends else text


def _numbers(examples: Sequence[Example]) -> list[int]:
    """A number per example, from its id: a question draws the same random numbers whatever is asked beside it."""
    taken: dict[int, None] = {}
    for example in examples:
        number = zlib.crc32(example.id.encode())
        while number in taken:
            number += 1
        taken[number] = None
    return list(taken)


def _length(rows: Sequence[EncodedRow | None]) -> int:
    return round_up(max(len(row.tokens) for row in rows if row is not None), LENGTH_STEP)
