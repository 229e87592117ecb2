"""What is sent to clients: the JSON of answers and of a stream's chunks, in OpenAI's form."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pivot_jax.data.processing.spelling import Spelling
from pivot_jax.serve.growth import Growth, Part, Scored

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Header:
    """What all replies to one request have in common.

    Attributes:
      kind: ``chat.completion`` or ``text_completion``. fingerprint: identity of the weights.
    """

    kind: str
    model: str
    fingerprint: str
    prefix: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def reply(self, choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None, chunk: str = "") -> Any:
        """A whole answer, or with ``chunk`` (a suffix of the kind) a part of one."""
        return {
            "id": f"{self.prefix}-{self.id}", "object": f"{self.kind}{chunk}", "created": self.created,
            "model": self.model, "system_fingerprint": self.fingerprint, "choices": list(choices), "usage": usage,
        }  # fmt: skip


def usage(prompts: int, answers: int) -> dict[str, int]:
    """Numbers of tokens."""
    return {"prompt_tokens": prompts, "completion_tokens": answers, "total_tokens": prompts + answers}


def message(index: int, answer: Growth, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """A choice of a chat."""
    turn = {"role": "assistant", "content": answer.content, "refusal": None}
    return {"index": index, "message": turn, "logprobs": logprobs, "finish_reason": answer.finish}


def opening(index: int) -> dict[str, Any]:
    """The first choice of a chat's stream."""
    delta = {"role": "assistant", "content": "", "refusal": None}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def delta(index: int, part: Part, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """A later choice of a chat's stream."""
    new = {"content": part.text} if part.text or logprobs else {}
    return {"index": index, "delta": new, "logprobs": logprobs, "finish_reason": part.finish}


def text(index: int, content: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    """A choice of a completion, or of its stream."""
    return {"index": index, "text": content, "logprobs": logprobs, "finish_reason": finish}


def chat_logprobs(tokens: Sequence[Scored], spelling: Spelling, top: int) -> dict[str, Any]:
    """Each token with its log-prob and bytes, and the ``top`` most likely ones in its place."""

    def one(token: int, logp: float | None) -> dict[str, Any]:
        return {"token": spelling.text(token), "logprob": logp, "bytes": spelling.bytes(token)}

    content = [
        one(found.token, found.logp)
        | {"top_logprobs": [one(*pair) for pair in zip(found.top[:top], found.top_logps, strict=False)]}
        for found in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Scored], spelling: Spelling, top: int, offset: int = 0) -> dict[str, Any]:
    """The same in the older form: a list for each kind of value. The token itself is always among the ``top_logprobs``.

    Args:
      offset: characters of the text before the tokens; ``text_offset`` counts those of the tokens joined.
    """
    texts, offsets, tops = [], [], list[dict[str, float] | None]()
    for found in tokens:
        texts.append(spelling.text(found.token))
        offsets.append(offset)
        offset += len(texts[-1])
        if found.logp is None:
            tops.append(None)
            continue
        likely: dict[str, float] = {}  # of words that are spelled alike, the most likely one
        for token, logp in zip(found.top[:top], found.top_logps, strict=False):
            likely.setdefault(spelling.text(token), logp)
        likely.setdefault(texts[-1], found.logp)
        tops.append(likely)
    logps = [found.logp for found in tokens]
    return {"tokens": texts, "token_logprobs": logps, "top_logprobs": tops, "text_offset": offsets}


def event(content: Any) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
