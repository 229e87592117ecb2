"""The slots of the cache, as the host keeps them: which response each holds, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.rollout.choice import Alternatives
from pivot_jax.rollout.engine import Response, Sampling
from pivot_jax.rollout.program import Block, Rows
from pivot_jax.rollout.stops import Stops


@dataclass(eq=False)
class Request:
    """A response that is asked for, and its tokens so far."""

    prompt: int  # index among the prompts
    response: int  # index among the prompt's responses
    row: EncodedRow  # of the prompt
    number: int  # of the prompt, for random numbers
    limit: int
    sampling: Sampling
    stops: Stops
    ranked: bool = False  # whether the alternatives of its tokens are kept
    tokens: list[int] = field(default_factory=list)
    logps: list[np.ndarray] = field(default_factory=list)
    sampling_logps: list[np.ndarray] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)  # of a block's tokens each, [t] and [t, a]

    def result(self, ends: frozenset[int], stopped: int | None) -> Response:
        """The response. ``stopped``: its length where a stop string ended it."""
        length = len(self.tokens) if stopped is None else stopped
        finish: Any = "stop" if stopped is not None or self.tokens[length - 1] in ends else "length"
        logps, sampling_logps = (np.concatenate(x)[:length] for x in (self.logps, self.sampling_logps))
        return Response(np.asarray(self.tokens[:length], np.int32), logps, sampling_logps, finish)


class Slots:
    """Requests in ``count`` slots.

    Args:
      ends: ids that end a response.
    """

    def __init__(self, count: int, ends: frozenset[int]):
        self.ends = ends
        self.requests: list[Request | None] = [None] * count
        integers = {name: np.zeros(count, np.int32) for name in ("lengths", "positions", "counts", "limits")}
        numbers = {name: np.zeros(count, np.uint32) for name in ("prompts", "responses")}
        self.rows = Rows(active=np.zeros(count, bool), **integers, **numbers)

    @property
    def free(self) -> list[int]:
        return [slot for slot, request in enumerate(self.requests) if request is None]

    @property
    def longest(self) -> int:
        """The most cached tokens of a row; 0 where all slots are free."""
        return int(self.rows.lengths.max(initial=0))

    def put(self, slot: int, request: Request) -> None:
        """A request whose prompt is put into this slot of the cache."""
        row, rows = request.row, self.rows
        self.requests[slot] = request
        rows.active[slot] = True
        rows.lengths[slot] = len(row.tokens)
        rows.positions[slot] = int(row.positions.max()) + 1  # of all axes, as in training
        rows.counts[slot], rows.limits[slot] = 0, request.limit
        rows.prompts[slot], rows.responses[slot] = request.number % 2**32, request.response

    def record(self, block: Block, steps: int) -> list[tuple[Request, Response]]:
        """Takes over the tokens of a block, frees the slots of the requests that it finished, and returns these."""
        finished = []
        for slot, request in enumerate(self.requests):
            if request is None:
                continue
            known = len(request.tokens)
            fresh = slice(0, int(block.counts[slot]) - known)
            request.tokens += block.tokens[slot, fresh].tolist()
            request.logps.append(block.logps[slot, fresh])
            request.sampling_logps.append(block.sampling_logps[slot, fresh])
            if request.ranked and block.alternatives is not None:
                request.alternatives.append(Alternatives(*(array[slot, fresh] for array in block.alternatives)))
            stopped = request.stops.end(request.tokens, known)
            if stopped is not None or not block.active[slot]:
                finished.append((request, request.result(self.ends, stopped)))
                self.clear(slot)
            else:
                self.rows.counts[slot] = block.counts[slot]
                self.rows.lengths[slot] += steps
                self.rows.positions[slot] += steps
        return finished

    def clear(self, slot: int) -> None:
        """Frees a slot."""
        self.requests[slot] = None
        rows = self.rows
        for array in (rows.active, rows.lengths, rows.positions, rows.counts, rows.limits, rows.prompts):
            array[slot] = 0
        rows.responses[slot] = 0
