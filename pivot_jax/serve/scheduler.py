"""The thread that computes: it takes requests between two blocks of tokens, and gives each its tokens as they come."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.errors import UserError
from pivot_jax.rollout.choice import Alternatives
from pivot_jax.rollout.continuous import Continuous
from pivot_jax.rollout.engine import Finish, Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.rollout.slots import Request
from pivot_jax.serve import likelihood
from pivot_jax.serve.failure import Failure
from pivot_jax.serve.model import ReadImages, Served

log = logging.getLogger(__name__)
STEPS = 16  # tokens between two looks at the requests, as eval's; a stream's pieces are as long
READ_TOGETHER = 4  # prompts
ENDING = "the server is being stopped; send the request to another one, or later"


@dataclass(frozen=True)
class Update:
    """More tokens of a response, and its end. ``alternatives``: of these tokens, where they were asked for."""

    response: int
    tokens: list[int]
    alternatives: Alternatives | None
    finish: Finish | None


@dataclass(eq=False)
class Job:
    """A prompt to answer ``n`` times.

    ``send`` gets the updates of its responses, or once a Failure. It is called on the scheduler's thread, returns at
    once, and raises nothing.
    """

    prompt: Prompt
    n: int
    sampling: Sampling
    ranked: bool
    send: Callable[[Update | Failure], None]
    requests: list[Request] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)  # response not finished → its tokens that were sent


@dataclass(eq=False)
class _Scored:
    """A prompt to score."""

    ids: Sequence[int]
    top: int
    future: Future[Alternatives]


class Scheduler:
    """Decodes jobs together on one thread, which owns the device.

    Args:
      slots: responses that are decoded together.
    """

    def __init__(self, served: Served, slots: int):
        self._served = served
        shape = Shape(slots, min(READ_TOGETHER, slots), STEPS)
        self._sampler = Sampler(served.module, served.processor, shape, reader=ImageReader(ReadImages.read))
        self._sampler.update(served.params, 0)
        self._continuous = self._fresh()
        self._jobs: list[Job] = []  # that are being answered
        self._changed = threading.Condition()  # guards the next four
        self._new: deque[Job] = deque()
        self._dropped: list[Job] = []
        self._scored: deque[_Scored] = deque()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Fails all jobs with 503, and ends the thread after its block of tokens."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(timeout)

    def submit(self, job: Job) -> None:
        """Takes a job; all that can be wrong with it is sent to it."""
        with self._changed:
            if not self._ending:
                self._new.append(job)
                self._changed.notify()
                return
        job.send(Failure(503, ENDING))

    def drop(self, job: Job) -> None:
        """Nobody waits for the job any more: its slots are free after this block. A finished one is no error."""
        with self._changed:
            self._dropped.append(job)
            self._changed.notify()

    def score(self, ids: Sequence[int], top: int) -> Future[Alternatives]:
        """Log-probs of a prompt; see :func:`likelihood.likelihoods`. A cancelled future is not computed."""
        future: Future[Alternatives] = Future()
        with self._changed:
            if not self._ending:
                self._scored.append(_Scored(ids, top, future))
                self._changed.notify()
                return future
        future.set_exception(Failure(503, ENDING))
        return future

    @property
    def active(self) -> int:
        """Jobs that are being answered, for tests and for ``/health``."""
        return len(self._jobs)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ending or self._new or self._dropped or self._scored or self._continuous.busy
                )
                new, dropped = list(self._new), self._dropped
                self._new.clear()
                self._dropped = []
                scored = self._next_scored()
            if self._ending:
                self._fail([*self._jobs, *new], Failure(503, ENDING))
                self._fail_scored(Failure(503, ENDING), scored)
                return
            for job in new:
                self._admit(job)
            for job in dropped:
                self._forget(job)
            if scored:
                self._score(scored)
            if self._continuous.busy:
                self._decode()

    def _fresh(self) -> Continuous:
        return Continuous(self._sampler, (self._served.chat.end_id,))

    def _admit(self, job: Job) -> None:
        try:
            job.requests = self._continuous.add(job.prompt, job.n, job.sampling, ranked=job.ranked)
        except UserError as error:
            job.send(Failure(400, str(getattr(error, "reason", error))))
            return
        except Exception as error:  # as in _decode
            log.exception("a request cannot be read")
            job.send(Failure(500, f"the request cannot be read ({type(error).__name__}); see the server's log"))
            return
        job.sent = dict.fromkeys(range(job.n), 0)
        self._jobs.append(job)

    def _forget(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self._continuous.drop(job.requests)

    def _decode(self) -> None:
        """One block of tokens for all slots."""
        try:
            finished = {id(request): response for request, response in self._continuous.step()}
        except Exception as error:  # whatever it is, the server lives on, and the next requests get a fresh start
            log.exception("decoding failed; %d requests get an error", len(self._jobs))
            self._fail(self._jobs, Failure(500, f"decoding failed ({type(error).__name__}); see the server's log"))
            self._continuous = self._fresh()
            return
        for job in list(self._jobs):
            for request in job.requests:
                if request.response in job.sent:
                    self._send(job, request, finished.get(id(request)))
            if not job.sent:
                self._jobs.remove(job)

    def _send(self, job: Job, request: Request, response: Any) -> None:
        """What is new of a response. ``response``: of a request that is finished."""
        known = job.sent[request.response]
        tokens = request.tokens if response is None else response.tokens.tolist()
        if response is None and len(tokens) == known:
            return
        ranked = None
        if request.ranked and request.alternatives:
            whole = [np.concatenate(parts) for parts in zip(*request.alternatives, strict=True)]
            request.alternatives = [Alternatives(*whole)]
            ranked = Alternatives(*(array[known : len(tokens)] for array in whole))
        job.send(Update(request.response, tokens[known:], ranked, response and response.finish))
        if response is None:
            job.sent[request.response] = len(tokens)
        else:
            del job.sent[request.response]

    def _fail(self, jobs: Sequence[Job], failure: Failure) -> None:
        for job in list(jobs):
            job.send(failure)
        self._jobs.clear()

    def _next_scored(self) -> list[_Scored]:
        """Prompts that are scored together: the longest of the first ones sets their shape."""
        found: list[_Scored] = []
        while self._scored and len(found) < likelihood.TOGETHER:
            one = self._scored.popleft()
            if one.future.set_running_or_notify_cancel():
                found.append(one)
        return found

    def _score(self, scored: list[_Scored]) -> None:
        try:
            top = max(1, *(one.top for one in scored)) if scored else 1
            ids = [one.ids for one in scored]
            found = likelihood.likelihoods(self._served.module, self._served.params, ids, top)
        except Exception as error:  # as in _decode
            log.exception("scoring failed; %d requests get an error", len(scored))
            for one in scored:
                one.future.set_exception(Failure(500, f"scoring failed ({type(error).__name__}); see the server's log"))
            return
        for one, result in zip(scored, found, strict=True):
            one.future.set_result(result)

    def _fail_scored(self, failure: Failure, scored: list[_Scored]) -> None:
        for one in [*scored, *self._scored]:
            if one in scored or one.future.set_running_or_notify_cancel():
                one.future.set_exception(failure)
        self._scored.clear()
