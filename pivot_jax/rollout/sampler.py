"""The embedded rollout engine: responses sampled on the training mesh with the training parameters.

Responses are decoded in slots. A block of steps is one compiled program; between two blocks finished responses leave
their slots, and the next ones take them (continuous refill). Each prompt is read once, images included, and its keys
and values are copied into the slots of all its responses.

Shapes are static: prompts are padded to buckets, the cache has as many token slots as the longest row needs, in
buckets. A token depends on the seed, the rollout's number, the prompt's and the response's number and its position, and
on the numbers of slots and cache tokens by rounding only: not on what else is decoded.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.collate import Collation, prompt_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.errors import RowError, UserError
from pivot_jax.models.language_model import LanguageModel
from pivot_jax.parallel.mesh import check_rows
from pivot_jax.rollout import program
from pivot_jax.rollout.cache import Cache, Weights, weights_of
from pivot_jax.rollout.choice import draw_of, rule_of
from pivot_jax.rollout.engine import Prompt, Response, Rollouts, Sampling
from pivot_jax.rollout.processes import Processes
from pivot_jax.rollout.request import check_numbers, check_sampling, limit_of
from pivot_jax.rollout.slots import Request, Slots
from pivot_jax.rollout.stops import Stops
from pivot_jax.shapes import bucket

if TYPE_CHECKING:  # a GPU machine that only runs the benchmarks lacks what it imports
    from pivot_jax.data.processing.processor import Processor

_PROMPT_STEP = 64  # prompts are padded to a bucket of this size
_CACHE_STEP = 128  # the cache has this many slots for tokens, or twice, four times, ... as many


@dataclass(frozen=True)
class Shape:
    """Static sizes of a sampler.

    Attributes:
      slots: responses that are decoded together. On a mesh, a multiple of its row shards.
      prompts: prompts that are read together; fewer are padded to this number. On a mesh as ``slots``.
      steps: tokens between two refills. A response that ends earlier keeps its slot until then.
      longest: tokens of a prompt with its response; 0: no limit. Nothing is allocated for it before a row is as long.
    """

    slots: int = 32
    prompts: int = 4
    steps: int = 32
    longest: int = 0


class Sampler:
    """An :class:`pivot_jax.rollout.engine.Engine` in this process.

    Args:
      model: an MLLM, or a language model alone.
      processor: reads images and pads prompts as in training; None for a language model alone, then without images.
      mesh: of the parameters; None on one device. With several processes each passes its own prompts to
        :meth:`generate` and receives their responses; all call it equally often, with the same sampling.
      reader: reads a prompt's images, in place of ``processor.read_images`` without a time limit.
      encode: (batch, its rows) → the batch with ``features``, where the images are encoded elsewhere.
      tokenizer: for stop strings, where there is no processor.

    Raises:
      UserError: a size of the shape that the mesh does not divide.
    """

    def __init__(
        self,
        model: LanguageModel,
        processor: Processor | None,
        shape: Shape | None = None,
        *,
        mesh: Any = None,
        reader: ImageReader | None = None,
        encode: Callable[[Any, Sequence[EncodedRow | None]], Any] | None = None,
        tokenizer: Any = None,
    ):
        self.model, self.processor, self.shape, self.mesh = model, processor, shape or Shape(), mesh
        for name in ("slots", "prompts", "steps"):
            if (value := getattr(self.shape, name)) < 1:
                raise UserError(f"the sampler's {name} are {value}; at least 1")
            if mesh is not None and name != "steps":
                check_rows(value, f"the sampler's number of {name}", mesh)
        self.tokenizer = processor.chat.tokenizer if processor else tokenizer
        self.processes = Processes(mesh)
        self.reader = reader or (ImageReader(processor.read_images) if processor else None)
        self.encode = encode or (lambda batch, rows: batch)
        self.weights: Weights | None = None
        self.version = -1

    def update(self, params: Any, version: int) -> None:
        """See ``Engine.update``. Parameters that the training step donates must be passed again after it."""
        self.weights = None  # before the new ones: both need not fit
        with self.on_mesh():
            self.weights = weights_of(self.model, params)
        self.version = version

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        seed: tuple[int, int],
        done: Callable[[int], Any] = lambda count: None,
    ) -> Rollouts:
        """See ``Engine.generate``; ``done(count)`` is called as responses are finished.

        Raises:
          UserError: before the first token: a number out of its range, a stop string that cannot be sampled, a prompt
            that does not fit, two prompts with one number. Later: an image that cannot be read.
        """
        if self.weights is None:
            raise ValueError("the sampler has no parameters; call update first")
        vocabulary = self.weights.head.shape[0]
        check_sampling(n, sampling, vocabulary)
        check_numbers(prompts)
        slots = Slots(
            len(self.processes.own(self.shape.slots)),
            frozenset(sampling.stop_ids),
            Stops(self.tokenizer, sampling.stop, sampling.banned_ids),
        )
        limits = [limit_of(prompt, sampling, self.shape.longest) for prompt in prompts]
        groups = [
            [Request(i, j, prompt.row, prompt.number, limit) for j in range(n)]
            for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
        ]
        responses: list[list[Any]] = [[None] * n for _ in prompts]
        with self.on_mesh():
            run = _Run(self, self.weights, slots, groups)
            for finished in run.blocks(rule_of(sampling), draw_of(sampling, vocabulary, seed)):
                for request, response in finished:
                    responses[request.prompt][request.response] = response
                if finished:
                    done(len(finished))
        return Rollouts(tuple(tuple(row) for row in responses), self.version)

    def close(self) -> None:
        """See ``Engine.close``."""
        self.weights = None

    def on_mesh(self) -> Any:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


@dataclass(eq=False)
class _Chunk:
    """Prompts that were read together, until all their responses have slots."""

    size: int  # tokens per prompt
    cache: Cache
    states: jax.Array
    waiting: deque[tuple[int, Request]]  # index of the prompt in the chunk, and a response of it


class _Run:
    """One call of :meth:`Sampler.generate`."""

    def __init__(self, sampler: Sampler, weights: Weights, slots: Slots, groups: Sequence[list[Request]]):
        self.sampler, self.weights, self.slots = sampler, weights, slots
        self.processes, self.shape = sampler.processes, sampler.shape
        config = sampler.model.config
        self.decoder = config.decoder
        # Long prompts first: while they are answered the cache is large, and it is small for the rest.
        self.queue = deque(sorted(groups, key=lambda group: -_prompt_size(group)))
        self.chunks: list[_Chunk] = []
        self.images: dict[int, Future[ImageArrays]] = {}  # by prompt, of the next chunk
        self.cache, self.states = program.empty(self.decoder, config.dtype, self.shape.slots, _CACHE_STEP)

    def blocks(self, rule: Any, draw: Any) -> Iterator[list[tuple[Request, Response]]]:
        """Decodes block by block; yields what each finished."""
        steps, model = self.shape.steps, self.sampler.model
        while True:
            self._refill()
            longest = self.processes.largest([self.slots.longest])[0]
            if not longest:
                return
            self._fit(longest + steps)
            # The host changes its rows while the program may still read them.
            rows = self.processes.place(jax.tree.map(np.copy, self.slots.rows))
            self.cache, self.states, out = program.decode(
                model, rule, steps, self.weights, self.cache, self.states, rows, draw
            )
            for array in out:
                array.copy_to_host_async()
            self._read_ahead()
            yield self.slots.record(program.Block(*(self.processes.fetch(array) for array in out)), steps)

    def _refill(self) -> None:
        """Puts requests into all free slots, and reads prompts for that, while there are any."""
        while True:
            free = self.slots.free
            takes: list[int] = []
            for chunk in self.chunks:
                takes.append(min(len(free) - sum(takes), len(chunk.waiting)))
            left = [len(chunk.waiting) - take for chunk, take in zip(self.chunks, takes, strict=True)]
            wanted = bool(self.queue) and len(free) > sum(takes) and not any(left)
            size = _prompt_size(self.queue[0]) if wanted else 0
            images = wanted and any(len(group[0].row.images) for group in self._next())
            agreed = self.processes.largest([*takes, *left, size, images])
            count = len(self.chunks)
            for chunk, take, some in zip(self.chunks, takes, agreed[:count], strict=True):
                if some:
                    self._insert(chunk, free[:take])
                    del free[:take]
            self.chunks = [chunk for chunk, more in zip(self.chunks, agreed[count : 2 * count], strict=True) if more]
            size, with_images = agreed[-2:]
            if not size:
                return
            self.chunks.append(self._read(self._next() if wanted else [], size, bool(with_images)))

    def _next(self) -> list[list[Request]]:
        """The prompts of the next chunk: those of one size."""
        count = len(self.processes.own(self.shape.prompts))
        groups = [self.queue[i] for i in range(min(count, len(self.queue)))]
        return [group for group in groups if _prompt_size(group) == _prompt_size(groups[0])]

    def _read(self, groups: list[list[Request]], size: int, with_images: bool) -> _Chunk:
        """Reads prompts, and removes them from the queue."""
        own = self.processes.own(self.shape.prompts)
        for _ in groups:
            self.queue.popleft()
        rows: list[EncodedRow | None] = [group[0].row for group in groups]
        rows += [None] * (len(own) - len(rows))
        batch = self._batch(rows, groups, size, with_images)
        cache, states = program.read(self.sampler.model, self.weights, self.processes.place(batch))
        waiting = deque((own.start + i, request) for i, group in enumerate(groups) for request in group)
        return _Chunk(size, cache, states, waiting)

    def _batch(self, rows: list[EncodedRow | None], groups: list[list[Request]], size: int, with_images: bool) -> Any:
        index = np.asarray([-1 if row is None else i for i, row in enumerate(rows)])
        processor = self.sampler.processor
        if processor is None:
            none = ImageArrays(np.zeros((len(rows), 0, 1, 1, 3), np.uint8))
            return prompt_batch(rows, none, index, size, Collation(0, 0, bool(self.decoder.mrope_section)))
        images = processor.geometry.empty(len(rows), processor.arrays_per_row if with_images else 0)
        for i, group in enumerate(groups):
            if not len(group[0].row.images):
                continue
            try:
                found = self._reader.finish(self._images(group), group[0].row.images)
            except RowError:
                raise
            except UserError as error:
                raise RowError(group[0].row.id, str(error)) from None
            for whole, own in images.pairs(found):
                whole[i, : len(own)] = own
        for group in groups:
            self.images.pop(group[0].prompt, None)
        return self.sampler.encode(processor.for_kind("prompt").batch(rows, images, (size, 0), index), rows)

    def _read_ahead(self) -> None:
        """Has the images of the next chunk read while the device computes."""
        for group in self._next() if self.queue else []:
            if len(group[0].row.images):
                self._images(group)

    def _images(self, group: list[Request]) -> Future[ImageArrays]:
        request = group[0]
        if request.prompt not in self.images:
            self.images[request.prompt] = self._reader.start(request.row.images)
        return self.images[request.prompt]

    @property
    def _reader(self) -> ImageReader:
        assert self.sampler.reader is not None  # a row with images comes from a processor
        return self.sampler.reader

    def _insert(self, chunk: _Chunk, slots: list[int]) -> None:
        """Puts the next responses of a chunk into free slots."""
        sources = np.full(len(self.slots.requests), -1, np.int32)
        for slot in slots:
            sources[slot], request = chunk.waiting.popleft()
            self.slots.put(slot, request)
        self._fit(max(chunk.size, self.cache.size))
        self.cache, self.states = program.insert(
            self.decoder, self.cache, self.states, chunk.cache, chunk.states, self.processes.place(sources)
        )

    def _fit(self, tokens: int) -> None:
        """Gives the cache as many token slots as ``tokens`` need, in steps of twice or half the size."""
        wanted = cache_size(tokens)
        while self.cache.size != wanted:
            size = self.cache.size * 2 if self.cache.size < wanted else self.cache.size // 2
            self.cache = program.resize(self.decoder, self.cache, size)


def cache_size(tokens: int) -> int:
    """Token slots of a cache for rows of up to ``tokens`` tokens."""
    size = _CACHE_STEP
    while size < tokens:
        size *= 2
    return size


def _prompt_size(group: list[Request]) -> int:
    return bucket(len(group[0].row.tokens), _PROMPT_STEP)
