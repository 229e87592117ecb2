"""A model that answers a toolkit's requests: opened once, requests with the same limits answered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval.answerer import Reply
from pivot_jax.progress import progress
from pivot_jax.train.open import OpenModel, load

KEPT = 256  # questions whose images are in memory at a time; toolkits hand out decoded images


@dataclass(frozen=True)
class Limits:
    """How a request wants its answer drawn, and where it ends. See ``rollout.engine.Sampling``.

    Attributes:
      stop: the answer ends before the first of these strings in it.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True)
class Request:
    """A question, made when its turn comes, with its limits."""

    make: Callable[[], Example]
    limits: Limits


class ToolkitModel:
    """An open model.

    Args:
      workdir: of a run. step: of its checkpoint; None: the newest.
      weights: any model in place of a run: ``run:WORKDIR[@STEP]`` or ``hf:FOLDER``.
      batch_size: questions answered together; 0: ``eval.batch_size`` of the run's config.

    Raises:
      UserError: neither or both of workdir and weights, nothing there, or an encoder or language model alone.
    """

    def __init__(self, workdir: str = "", step: int | None = None, weights: str = "", batch_size: int = 0):
        if bool(workdir) == bool(weights):
            raise UserError("model arguments: name one of workdir=DIR (a run) and weights=SOURCE (such as hf:FOLDER)")
        if weights and step is not None:
            raise UserError("model arguments: step= is of workdir=; write weights=run:DIR@STEP")
        source = weights or (f"run:{workdir}" if step is None else f"run:{workdir}@{step}")
        found = load(source)
        if not isinstance(found, OpenModel):
            raise UserError(f"{source} is not a whole model (encoder, projector and decoder), so it answers nothing")
        self.opened = found
        self.answerer = found.answerer(batch_size)

    def answer(self, requests: Sequence[Request], label: str) -> list[Reply]:
        """A reply to each request, in their order.

        Raises:
          UserError: a question that cannot be asked; the message names it.
        """
        replies: dict[int, Reply] = {}
        with progress(label, len(requests)) as advance:
            for limits in dict.fromkeys(request.limits for request in requests):
                alike = [index for index, request in enumerate(requests) if request.limits == limits]
                options: dict[str, Any] = asdict(limits)
                for start in range(0, len(alike), KEPT):
                    part = alike[start : start + KEPT]
                    examples = [requests[index].make() for index in part]
                    replies |= zip(part, self.answerer.answer(examples, done=advance, **options), strict=True)
        return [replies[index] for index in range(len(requests))]
