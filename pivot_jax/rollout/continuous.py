"""Responses to prompts that come and go while others are decoded, each with a sampling of its own: for serving.

A response is the same whatever is decoded beside it, as that of :class:`pivot_jax.rollout.sampler.Sampler`: a token
depends on the request's own numbers, and on what shares the slots by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pivot_jax.rollout.choice import Draw, Rule, draw_of, draw_of_rows, rule_of_rows
from pivot_jax.rollout.engine import Prompt, Response, Sampling
from pivot_jax.rollout.request import check_sampling, limit_of
from pivot_jax.rollout.sampler import Sampler
from pivot_jax.rollout.slots import Request
from pivot_jax.rollout.stops import Stops

ALTERNATIVES = 20  # most likely words that are kept of a token, where they are asked for
_FREE = Sampling(1, temperature=0.0)  # of a slot without a request


class Continuous:
    """An open list of requests on a sampler's model, of one process. One thread calls all methods.

    Args:
      stop_ids: ids that end every response. Those of a request's own sampling would be ignored, so it has none.
      seed: of the random numbers, beside the number of a request's prompt.
    """

    def __init__(self, sampler: Sampler, stop_ids: Sequence[int], seed: tuple[int, int] = (0, 0)):
        self._sampler, self._decoding = sampler, sampler.decoding(stop_ids)
        self._shared = draw_of(Sampling(1, stop_ids=tuple(stop_ids)), sampler.vocabulary, seed)
        self._alternatives = min(ALTERNATIVES, sampler.vocabulary)
        self._count = 0  # of prompts so far

    @property
    def busy(self) -> bool:
        """Whether :meth:`step` has anything to do."""
        return self._decoding.busy

    def add(self, prompt: Prompt, n: int, sampling: Sampling, *, ranked: bool = False) -> list[Request]:
        """Takes a prompt, to be answered ``n`` times.

        Args:
          prompt: its number is the seed of its responses; several prompts may have one.
          ranked: with the log-probs of the most likely words (``Request.alternatives``).

        Returns:
          The requests. Their tokens are added in :meth:`step`; those of a block may go beyond a stop string.

        Raises:
          UserError: as ``Sampler.generate`` before the first token.
        """
        if sampling.stop_ids or sampling.banned_ids:
            raise ValueError("stop_ids and banned_ids are those of all requests")
        check_sampling(n, sampling, self._sampler.vocabulary)
        stops = Stops(self._sampler.tokenizer, sampling.stop)
        limit = limit_of(prompt, sampling, self._sampler.shape.longest)
        self._count += 1
        group = [
            Request(self._count, j, prompt.row, prompt.number, limit, sampling, stops, ranked=ranked) for j in range(n)
        ]
        self._decoding.queue.append(group)
        return list(group)

    def drop(self, requests: Iterable[Request]) -> None:
        """Forgets requests, finished or not; what they hold is free."""
        self._decoding.drop(requests)

    def step(self) -> list[tuple[Request, Response]]:
        """Decodes one block; returns the requests that it finished.

        Raises:
          UserError: an image cannot be read. Which requests are affected is not known; make a new object.
        """
        with self._sampler.on_mesh():
            return self._decoding.block(self._sampling) or []

    def _sampling(self) -> tuple[Rule, Draw]:
        requests = self._decoding.slots.requests
        ranked = any(request is not None and request.ranked for request in requests)
        samplings = [_FREE if request is None else request.sampling for request in requests]
        rule = rule_of_rows(samplings, self._alternatives if ranked else 0)
        return rule, draw_of_rows(samplings, self._shared)
