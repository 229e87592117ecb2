"""What a client asks: the JSON of ``/v1/chat/completions`` and ``/v1/completions``, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pivot_jax.data.example import Message
from pivot_jax.rollout.continuous import ALTERNATIVES
from pivot_jax.rollout.engine import Sampling
from pivot_jax.serve.failure import Failure, bad
from pivot_jax.serve.fields import Fields
from pivot_jax.serve.turns import turns
from pivot_jax.words import counted

MOST_ANSWERS = 128  # to a prompt (n), and to all prompts of a request
MOST_STOPS = 16
LEGACY_TOKENS = 16  # OpenAI's default of max_tokens in /v1/completions
_LEAST_TOP_P = 1e-6  # top_p 0 keeps the most likely token, as OpenAI's does

# Fields of OpenAI's API, and of servers like it, that would change an answer in a way that is not supported here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
}  # fmt: skip
_CHAT_NEUTRAL: dict[str, tuple[Any, ...]] = _NEUTRAL | {
    "response_format": ({"type": "text"},), "modalities": (["text"],), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "function_call": ("none", "auto"), "parallel_tool_calls": (True, False), "audio": (),
    "prediction": (), "reasoning_effort": (), "verbosity": (), "web_search_options": (),
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a request may ask for at most: tokens of an answer, pixels and number of its images."""

    tokens: int
    pixels: int
    images: int


@dataclass(frozen=True)
class Wanted:
    """What both kinds of requests share.

    Attributes:
      sampling: without stop ids.
      seed: None: any.
      top: most likely words whose log-probs are wanted beside each token's own; None: no log-probs.
      usage: a last chunk of a stream says how many tokens there were.
    """

    sampling: Sampling
    n: int
    seed: int | None
    top: int | None
    stream: bool
    usage: bool


@dataclass(frozen=True)
class ChatAsked:
    """Turns, with ``<image>`` where images go; in this order the encoded images, each with the name of its field."""

    wanted: Wanted
    messages: tuple[Message, ...]
    images: tuple[tuple[bytes, str], ...]


@dataclass(frozen=True)
class CompletionAsked:
    """Prompts as text or token ids. ``tokens``: of an answer; 0 with ``echo`` asks for the prompt's log-probs alone."""

    wanted: Wanted
    prompts: tuple[str | tuple[int, ...], ...]
    tokens: int
    echo: bool


def chat(body: Mapping[str, Any], model: str, limits: Limits) -> ChatAsked:
    """A request to ``/v1/chat/completions``.

    Raises:
      Failure: 404, another model; 400, a field that is missing, wrong, unknown or not supported.
    """
    fields = Fields(body)
    _model(fields, model)
    messages, images = turns(fields.take("messages"), limits.images)
    both = fields.whole("max_tokens", 1, limits.tokens), fields.whole("max_completion_tokens", 1, limits.tokens)
    if None not in both and both[0] != both[1]:
        raise bad("max_completion_tokens", f"{both[1]}, but max_tokens is {both[0]}; give one of them")
    ranked, top = fields.flag("logprobs"), fields.whole("top_logprobs", 0, ALTERNATIVES)
    if top and not ranked:
        raise bad("top_logprobs", f"{top} without logprobs; set logprobs to true")
    wanted = _wanted(fields, both[0] or both[1] or limits.tokens, (top or 0) if ranked else None)
    fields.neutral(_CHAT_NEUTRAL)
    fields.end()
    return ChatAsked(wanted, messages, images)


def completion(body: Mapping[str, Any], model: str, limits: Limits) -> CompletionAsked:
    """A request to ``/v1/completions``. Raises as :func:`chat`."""
    fields = Fields(body)
    _model(fields, model)
    prompts = _prompts(fields.take("prompt"))
    tokens = fields.whole("max_tokens", 0, limits.tokens)
    tokens = min(LEGACY_TOKENS, limits.tokens) if tokens is None else tokens
    echo, top = fields.flag("echo"), fields.whole("logprobs", 0, ALTERNATIVES)
    wanted = _wanted(fields, max(tokens, 1), top)
    if len(prompts) * wanted.n > MOST_ANSWERS:
        answers = f"{counted(len(prompts), 'prompt')} with n = {wanted.n}"
        raise bad("prompt", f"{answers} are more than {MOST_ANSWERS} answers; split the request")
    if wanted.stream and echo:
        raise bad("echo", "not supported together with stream; leave one of them out")
    fields.neutral(_NEUTRAL | {"suffix": ("",), "best_of": (wanted.n, 1)})
    fields.end()
    return CompletionAsked(wanted, prompts, tokens, echo)


def _model(fields: Fields, model: str) -> None:
    name = fields.text("model")
    if name is None:
        raise bad("model", f"missing; this server has '{model}'")
    if name != model:
        raise Failure(
            404, f"model: '{name}' is unknown; this server has '{model}'", param="model", code="model_not_found"
        )


def _wanted(fields: Fields, tokens: int, top: int | None) -> Wanted:
    temperature, top_p = fields.number("temperature", 0, 2), fields.number("top_p", 0, 1)
    sampling = Sampling(
        max_tokens=tokens,
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else max(top_p, _LEAST_TOP_P),
        top_k=fields.whole("top_k", -1, 1 << 31) or 0,
        min_p=fields.number("min_p", 0, 1) or 0.0,
        stop=_stops(fields.take("stop")),
    )
    if sampling.top_k < 0:  # vLLM's word for all of them
        sampling = replace(sampling, top_k=0)
    stream, options = fields.flag("stream"), fields.take("stream_options")
    usage = False
    if options is not None:
        if not isinstance(options, dict):
            raise bad("stream_options", "not an object")
        if not stream:
            raise bad("stream_options", "given without stream; set stream to true or leave it out")
        own = Fields(options, "stream_options.")
        usage = own.flag("include_usage")
        own.neutral({"include_obfuscation": (False, True)})  # it pads the chunks of OpenAI's servers
        own.end()
    n = fields.whole("n", 1, MOST_ANSWERS) or 1
    return Wanted(sampling, n, fields.whole("seed", -(1 << 63), (1 << 63) - 1), top, stream, usage)


def _stops(value: Any) -> tuple[str, ...]:
    strings = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(one, str) and one for one in strings):
        raise bad("stop", "not a string or a list of strings that are not empty")
    if len(strings) > MOST_STOPS:
        raise bad("stop", f"{len(strings)} strings; at most {MOST_STOPS}")
    return tuple(strings)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, a list of texts, token ids, or a list of these."""
    rows = [value] if isinstance(value, str) or _ids(value) else value
    if not isinstance(rows, list) or not rows or not all(isinstance(row, str) or _ids(row) for row in rows):
        raise bad("prompt", "not a text, token ids, or a list of texts or of lists of token ids")
    if any(len(row) == 0 for row in rows):
        raise bad("prompt", "empty; nothing can follow it")
    return tuple(row if isinstance(row, str) else tuple(row) for row in rows)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)
