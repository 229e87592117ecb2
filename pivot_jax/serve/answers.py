"""Requests answered: from what is asked to replies, whole or as a stream of chunks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.spelling import Spelling
from pivot_jax.rollout.choice import Alternatives
from pivot_jax.rollout.engine import Prompt
from pivot_jax.serve import replies
from pivot_jax.serve.asked import ChatAsked, CompletionAsked, Wanted
from pivot_jax.serve.failure import Failure
from pivot_jax.serve.growth import Growth, Scored, scored
from pivot_jax.serve.model import Served
from pivot_jax.serve.replies import Header
from pivot_jax.serve.scheduler import Job, Scheduler, Update
from pivot_jax.serve.text import Text

_BEFORE = 4  # last tokens of a prompt that its continuation is decoded with


class Answers:
    """Answers from one model."""

    def __init__(self, served: Served, scheduler: Scheduler):
        self._served, self._scheduler = served, scheduler
        self._spelling = Spelling(served.tokenizer)
        self._end = served.chat.end_id

    async def chat(self, asked: ChatAsked, row: EncodedRow) -> dict[str, Any]:
        """The reply to a chat request.

        Raises:
          Failure: it cannot be answered.
        """
        wanted = asked.wanted
        answers = [self._growth(wanted) for _ in range(wanted.n)]
        async with aclosing(self._updates([row], wanted)) as updates:
            async for _, update in updates:
                answers[update.response].add(update)
        choices = [replies.message(i, one, self._chat_logprobs(one.scored, wanted)) for i, one in enumerate(answers)]
        count = sum(one.count for one in answers)
        return self._header("chat.completion").reply(choices, replies.usage(len(row.tokens), count))

    async def chat_chunks(self, asked: ChatAsked, row: EncodedRow) -> AsyncGenerator[dict[str, Any], None]:
        """The same as a stream. Raises as :meth:`chat`, before the first chunk or later."""
        wanted, header = asked.wanted, self._header("chat.completion")
        answers = [self._growth(wanted) for _ in range(wanted.n)]
        chunk = partial(header.reply, chunk=".chunk")
        async with aclosing(self._updates([row], wanted)) as updates:
            async for _, update in updates:
                index, answer = update.response, answers[update.response]
                if not answer.count:
                    yield chunk([replies.opening(index)])
                part = answer.add(update)
                if part.text or part.scored or part.finish:
                    logprobs = self._chat_logprobs(part.scored, wanted) if part.scored else None
                    yield chunk([replies.delta(index, part, logprobs)])
        if wanted.usage:
            yield chunk([], replies.usage(len(row.tokens), sum(one.count for one in answers)))

    async def completion(self, asked: CompletionAsked, rows: Sequence[EncodedRow]) -> dict[str, Any]:
        """The reply to a completion request. Raises as :meth:`chat`."""
        wanted, n = asked.wanted, asked.wanted.n
        known: list[Alternatives] = []
        if asked.echo and wanted.top is not None:
            known = await self._likelihoods(rows, max(wanted.top, 1))
        answers = [[self._growth(wanted, row) for _ in range(n)] for row in rows]
        # The likelihoods know the most likely next token, which is all that evaluations of options ask for.
        if known and asked.tokens == 1 and wanted.sampling.temperature == 0:
            for likelihood, group in zip(known, answers, strict=True):
                for index, answer in enumerate(group):
                    answer.add(self._next(index, likelihood))
        elif asked.tokens:
            async with aclosing(self._updates(rows, wanted)) as updates:
                async for number, update in updates:
                    answers[number][update.response].add(update)
        choices = list[dict[str, Any]]()
        for i, (prompt, row, group) in enumerate(zip(asked.prompts, rows, answers, strict=True)):
            before = self._prompt_text(prompt) if asked.echo else ""
            head = _of_prompt(row.tokens, known[i]) if known else []
            for answer in group:
                found = self._completion_logprobs([*head, *answer.scored], wanted, 0 if head else len(before))
                choices.append(replies.text(len(choices), before + answer.content, found, answer.finish or "length"))
        count = sum(answer.count for group in answers for answer in group)
        usage = replies.usage(sum(len(row.tokens) for row in rows), count)
        return self._header("text_completion").reply(choices, usage)

    async def completion_chunks(
        self, asked: CompletionAsked, rows: Sequence[EncodedRow]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The same as a stream, without ``echo``."""
        wanted, header = asked.wanted, self._header("text_completion")
        answers = [[self._growth(wanted, row) for _ in range(wanted.n)] for row in rows]
        offsets: dict[int, int] = {}
        if asked.tokens:
            async with aclosing(self._updates(rows, wanted)) as updates:
                async for prompt, update in updates:
                    index = prompt * wanted.n + update.response
                    part = answers[prompt][update.response].add(update)
                    if part.text or part.scored or part.finish:
                        found = self._completion_logprobs(part.scored, wanted, offsets.get(index, 0))
                        offsets[index] = offsets.get(index, 0) + len("".join(found["tokens"]) if found else "")
                        yield header.reply([replies.text(index, part.text, found, part.finish)])
        else:
            yield header.reply([replies.text(i, "", None, "length") for i in range(len(rows) * wanted.n)])
        if wanted.usage:
            count = sum(answer.count for group in answers for answer in group)
            yield header.reply([], replies.usage(sum(len(row.tokens) for row in rows), count))

    async def _updates(self, rows: Sequence[EncodedRow], wanted: Wanted) -> AsyncGenerator[tuple[int, Update], None]:
        """Updates of the responses to each row, until all are finished. Leaving it early frees their slots."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Update | Failure]]()

        def send(index: int, event: Update | Failure) -> None:
            if not loop.is_closed():  # else the server has ended, and nobody waits
                loop.call_soon_threadsafe(events.put_nowait, (index, event))

        seed = secrets.randbits(32) if wanted.seed is None else wanted.seed
        jobs = [
            Job(Prompt(_NONE, row, seed), wanted.n, wanted.sampling, wanted.top is not None, partial(send, index))
            for index, row in enumerate(rows)
        ]
        left = len(rows) * wanted.n
        try:
            for job in jobs:
                self._scheduler.submit(job)
            while left:
                index, event = await events.get()
                if isinstance(event, Failure):
                    raise event
                left -= event.finish is not None
                yield index, event
        finally:
            for job in jobs:
                self._scheduler.drop(job)

    async def _likelihoods(self, rows: Sequence[EncodedRow], top: int) -> list[Alternatives]:
        futures = [asyncio.wrap_future(self._scheduler.score(row.tokens.tolist(), top)) for row in rows]
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()

    def _growth(self, wanted: Wanted, row: EncodedRow | None = None) -> Growth:
        """A response of a chat, or to a prompt of text."""
        before = [] if row is None else row.tokens[-_BEFORE:].tolist()
        text = Text(self._served.tokenizer, wanted.sampling.stop, strip=row is None, before=before)
        return Growth(text, self._end, keep_end=row is not None, streams=wanted.stream)

    def _next(self, index: int, likelihood: Alternatives) -> Update:
        """The most likely token after a prompt as the whole response."""
        last = Alternatives(*(array[-1:] for array in likelihood))
        token = int(last.top[0, 0])
        return Update(index, [token], last, "stop" if token == self._end else "length")

    def _prompt_text(self, prompt: str | tuple[int, ...]) -> str:
        return prompt if isinstance(prompt, str) else self._served.tokenizer.decode(list(prompt))

    def _chat_logprobs(self, tokens: Sequence[Scored], wanted: Wanted) -> dict[str, Any] | None:
        return None if wanted.top is None else replies.chat_logprobs(tokens, self._spelling, wanted.top)

    def _completion_logprobs(self, tokens: Sequence[Scored], wanted: Wanted, offset: int) -> dict[str, Any] | None:
        return None if wanted.top is None else replies.completion_logprobs(tokens, self._spelling, wanted.top, offset)

    def _header(self, kind: str) -> Header:
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        return Header(kind, self._served.name, self._served.identity, prefix)


_NONE = Example("request", ())


def _of_prompt(tokens: np.ndarray, likelihood: Alternatives) -> list[Scored]:
    """The tokens of a prompt; nothing is known of the first."""
    first = Scored(int(tokens[0]), None, [], [])
    return [first, *scored(tokens[1:].tolist(), *(array[:-1] for array in likelihood))]
