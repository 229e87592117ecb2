"""What a rollout engine takes and returns: one protocol for training, benchmarks and serving.

Engines: :mod:`pivot_jax.rollout.sampler` (JAX, on the training mesh), :mod:`pivot_jax.rollout.vllm` (running servers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import EncodedRow

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn from the model's distribution.

    Attributes:
      max_tokens: the limit of a response, its end token included.
      temperature: 0 takes the most likely token (the first of equals).
      top_p: the smallest set of tokens with at least this probability is kept; 1 keeps all.
      top_k: this many of the most likely tokens are kept; 0 keeps all.
      min_p: tokens with at least this share of the most likely token's probability are kept; 0 keeps all.
      stop_ids: any of these ends a response and is its last token.
      stop: a response ends with the token that completes one of these strings.
      banned_ids: never sampled, such as the image token. Their logits are -inf for the sampler and for the trainer.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    banned_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer.

    Attributes:
      example: for engines that tokenise and read images themselves.
      row: the same as ids, from ``Processor.encode(example)`` of kind ``prompt``; its images are references.
      number: identifies the prompt in the random numbers of its responses (such as the row's index in the data).
      max_tokens: a limit below that of the sampling; 0: none.
    """

    example: Example
    row: EncodedRow
    number: int
    max_tokens: int = 0


class Response(NamedTuple):
    """One response.

    ``logps`` is the log-probability of each token at the sampling temperature (1 where that is 0), over all tokens that
    are not banned. It is comparable with the trainer's. ``sampling_logps`` is that of the distribution that the token
    was drawn from, after top-p, top-k and min-p; it is for importance correction only.

    An engine that only has ``sampling_logps`` (vLLM, where these truncate) returns NaN as ``logps``: the trainer then
    computes them with the parameters that sampled.
    """

    tokens: np.ndarray  # int32 [t], the end token included where there is one
    logps: np.ndarray  # float32 [t]
    sampling_logps: np.ndarray  # float32 [t]
    finish: Finish  # "length": the limit truncated it


@dataclass(frozen=True)
class Rollouts:
    """Responses to a list of prompts, in their order.

    Attributes:
      responses: n to each prompt.
      version: of the weights that sampled all of them.
    """

    responses: tuple[tuple[Response, ...], ...]
    version: int


class Engine(Protocol):
    """Samples responses."""

    def update(self, params: Any, version: int) -> None:
        """Uses these parameters from now on. ``version`` identifies them, such as the number of optimizer steps."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        seed: tuple[int, int],
        done: Callable[[int], Any] = lambda count: None,
    ) -> Rollouts:
        """``n`` responses to each prompt.

        Args:
          seed: of the run, and the number of the rollout. A token depends on these, the prompt's number, the number of
            the response and the token's position alone.
          done: called with a number of responses as these are finished. What it raises ends the call.

        Raises:
          UserError: a prompt that cannot be answered (too long, an image that cannot be read), or a server that fails.
        """
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
