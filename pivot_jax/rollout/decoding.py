"""Prompts that are read and responses that are decoded in slots, block by block: the device's side of the sampler.

Which requests there are may change between two blocks: :mod:`sampler` decodes a closed list of prompts,
:mod:`continuous` those of clients that come and go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
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
from pivot_jax.parallel.processes import Processes
from pivot_jax.rollout import program
from pivot_jax.rollout.cache import Cache, Weights
from pivot_jax.rollout.choice import Draw, Rule
from pivot_jax.rollout.engine import Response
from pivot_jax.rollout.slots import Request, Slots
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


@dataclass(frozen=True)
class Parts:
    """What decoding takes from a sampler; see there."""

    model: LanguageModel
    processor: Processor | None
    shape: Shape
    processes: Processes
    reader: ImageReader | None
    encode: Callable[[Any, Sequence[EncodedRow | None]], Any]


@dataclass(eq=False)
class _Chunk:
    """Prompts that were read together, until all their responses have slots."""

    size: int  # tokens per prompt
    cache: Cache
    states: jax.Array
    waiting: deque[tuple[int, Request]]  # index of the prompt in the chunk, and a response of it


class Decoding:
    """Requests in a queue, in slots, or read and waiting for one.

    Args:
      ends: ids that end a response.
    """

    def __init__(self, parts: Parts, weights: Weights, ends: Iterable[int]):
        self.parts, self.weights = parts, weights
        self.processes, self.shape = parts.processes, parts.shape
        self.slots = Slots(len(self.processes.own(self.shape.slots)), frozenset(ends))
        config = parts.model.config
        self.decoder = config.decoder
        self.queue: deque[list[Request]] = deque()  # a group: the responses to one prompt
        self.chunks: list[_Chunk] = []
        self.images: dict[int, Future[ImageArrays]] = {}  # by prompt, of the next chunk
        self.cache, self.states = program.empty(self.decoder, config.dtype, self.shape.slots, _CACHE_STEP)

    def block(self, sampling: Callable[[], tuple[Rule, Draw]]) -> list[tuple[Request, Response]] | None:
        """Decodes one block of steps.

        Args:
          sampling: called when the slots are filled: how their next tokens are chosen.

        Returns:
          The requests that it finished; None where nothing is left to decode.
        """
        steps = self.shape.steps
        self._refill()
        longest = self.processes.largest([self.slots.longest])[0]
        if not longest:
            return None
        self._fit(longest + steps)
        # The host changes its rows while the program may still read them.
        rows = self.processes.place(jax.tree.map(np.copy, self.slots.rows))
        rule, draw = sampling()
        self.cache, self.states, out = program.decode(
            self.parts.model, rule, steps, self.weights, self.cache, self.states, rows, draw
        )
        for array in jax.tree.leaves(out):
            array.copy_to_host_async()
        self._read_ahead()
        return self.slots.record(jax.tree.map(self.processes.fetch, out), steps)

    def drop(self, requests: Iterable[Request]) -> None:
        """Forgets requests, wherever they are; their slots are free. Of one process only."""
        dropped = {id(request) for request in requests}
        kept = [[one for one in group if id(one) not in dropped] for group in self.queue]
        self.queue = deque(group for group in kept if group)
        for chunk in self.chunks:
            chunk.waiting = deque(pair for pair in chunk.waiting if id(pair[1]) not in dropped)
        self.chunks = [chunk for chunk in self.chunks if chunk.waiting]
        for slot, request in enumerate(self.slots.requests):
            if request is not None and id(request) in dropped:
                self.slots.clear(slot)
        waiting = {group[0].prompt for group in self.queue}
        self.images = {prompt: future for prompt, future in self.images.items() if prompt in waiting}

    @property
    def busy(self) -> bool:
        """Whether there is anything to decode."""
        return bool(self.queue or self.chunks or self.slots.longest)

    def _refill(self) -> None:
        """Puts requests into all free slots, and reads prompts for that, while there are any."""
        while True:
            free = self.slots.free
            takes: list[int] = []
            for chunk in self.chunks:
                takes.append(min(len(free) - sum(takes), len(chunk.waiting)))
            left = [len(chunk.waiting) - take for chunk, take in zip(self.chunks, takes, strict=True)]
            wanted = bool(self.queue) and len(free) > sum(takes) and not any(left)
            size = prompt_size(self.queue[0]) if wanted else 0
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
        return [group for group in groups if prompt_size(group) == prompt_size(groups[0])]

    def _read(self, groups: list[list[Request]], size: int, with_images: bool) -> _Chunk:
        """Reads prompts, and removes them from the queue."""
        own = self.processes.own(self.shape.prompts)
        for _ in groups:
            self.queue.popleft()
        rows: list[EncodedRow | None] = [group[0].row for group in groups]
        rows += [None] * (len(own) - len(rows))
        batch = self._batch(rows, groups, size, with_images)
        cache, states = program.read(self.parts.model, self.weights, self.processes.place(batch))
        waiting = deque((own.start + i, request) for i, group in enumerate(groups) for request in group)
        return _Chunk(size, cache, states, waiting)

    def _batch(self, rows: list[EncodedRow | None], groups: list[list[Request]], size: int, with_images: bool) -> Any:
        index = np.asarray([-1 if row is None else i for i, row in enumerate(rows)])
        processor = self.parts.processor
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
        return self.parts.encode(processor.for_kind("prompt").batch(rows, images, (size, 0), index), rows)

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
        assert self.parts.reader is not None  # a row with images comes from a processor
        return self.parts.reader

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


def prompt_size(group: list[Request]) -> int:
    """Tokens that the prompt of a group is padded to."""
    return bucket(len(group[0].row.tokens), _PROMPT_STEP)
