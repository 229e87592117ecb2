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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.errors import UserError
from pivot_jax.models.language_model import LanguageModel
from pivot_jax.parallel.mesh import check_rows
from pivot_jax.parallel.processes import Processes
from pivot_jax.rollout.cache import Weights, weights_of
from pivot_jax.rollout.choice import draw_of, rule_of
from pivot_jax.rollout.decoding import Decoding, Parts, Shape, prompt_size
from pivot_jax.rollout.engine import Prompt, Rollouts, Sampling
from pivot_jax.rollout.request import check_numbers, check_sampling, limit_of
from pivot_jax.rollout.slots import Request
from pivot_jax.rollout.stops import Stops

if TYPE_CHECKING:  # a GPU machine that only runs the benchmarks lacks what it imports
    from pivot_jax.data.processing.processor import Processor


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
        vocabulary = self.vocabulary
        check_sampling(n, sampling, vocabulary)
        check_numbers(prompts)
        stops = Stops(self.tokenizer, sampling.stop, sampling.banned_ids)
        limits = [limit_of(prompt, sampling, self.shape.longest) for prompt in prompts]
        groups = [
            [Request(i, j, prompt.row, prompt.number, limit, sampling, stops) for j in range(n)]
            for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
        ]
        responses: list[list[Any]] = [[None] * n for _ in prompts]
        how = rule_of(sampling), draw_of(sampling, vocabulary, seed)
        with self.on_mesh():
            decoding = self.decoding(sampling.stop_ids)
            # Long prompts first: while they are answered the cache is large, and it is small for the rest.
            decoding.queue.extend(sorted(groups, key=lambda group: -prompt_size(group)))
            while (finished := decoding.block(lambda: how)) is not None:
                for request, response in finished:
                    responses[request.prompt][request.response] = response
                if finished:
                    done(len(finished))
        return Rollouts(tuple(tuple(row) for row in responses), self.version)

    def decoding(self, stop_ids: Sequence[int]) -> Decoding:
        """Empty slots, for requests that these ids end."""
        parts = Parts(self.model, self.processor, self.shape, self.processes, self.reader, self.encode)
        return Decoding(parts, self._known_weights, stop_ids)

    @property
    def vocabulary(self) -> int:
        """v, the number of ids of the model."""
        return self._known_weights.head.shape[0]

    @property
    def _known_weights(self) -> Weights:
        if self.weights is None:
            raise ValueError("the sampler has no parameters; call update first")
        return self.weights

    def close(self) -> None:
        """See ``Engine.close``."""
        self.weights = None

    def on_mesh(self) -> Any:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
