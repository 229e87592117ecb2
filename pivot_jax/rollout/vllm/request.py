"""Prompts as requests to ``/inference/v1/generate``, and its answers as responses."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pivot_jax.data.processing import images
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import RowError, UserError
from pivot_jax.rollout.engine import Prompt, Response, Sampling
from pivot_jax.words import counted

ENDPOINT = "/inference/v1/generate"
COOLEST, HOTTEST = 0.01, 2.0  # vLLM raises a lower temperature to the first and rejects one above the second
BANNED = -1e30  # added to a logit: its probability is exactly 0 in float32, as with -inf
NO_LOGP = -9999.0  # vLLM's word for a log-prob that it does not have


def check_temperature(sampling: Sampling) -> None:
    """Raises UserError for a temperature that vLLM does not sample at."""
    if 0 < sampling.temperature < COOLEST or sampling.temperature > HOTTEST:
        raise UserError(
            f"temperature {sampling.temperature:g}: vLLM takes 0 (greedy) or {COOLEST:g} to {HOTTEST:g}; change it, or "
            "use the jax engine"
        )


def truncates(sampling: Sampling) -> bool:
    """Whether tokens are drawn from a part of the distribution only."""
    return sampling.temperature > 0 and (sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0)


def parameters(sampling: Sampling, limit: int, count: int, seed: int) -> dict[str, Any]:
    """``sampling_params`` of a request for ``count`` responses; response i gets the seed ``seed + i``.

    Nothing is left to the server's generation_config.json: a response ends with ``stop_ids`` and ``stop`` alone.
    """
    return {
        **{"n": count, "seed": seed, "max_tokens": limit, "logprobs": 0},
        **{"temperature": sampling.temperature, "top_p": sampling.top_p},
        **{"top_k": sampling.top_k, "min_p": sampling.min_p},
        **{"ignore_eos": True, "stop_token_ids": list(sampling.stop_ids), "stop": list(sampling.stop)},
        **{"detokenize": bool(sampling.stop), "skip_special_tokens": False, "spaces_between_special_tokens": False},
        "logit_bias": {str(token): BANNED for token in sampling.banned_ids} or None,
    }


def seed_of(seed: tuple[int, int], number: int) -> int:
    """Seed of a prompt's first response: 62 bits that depend on (run's seed, rollout) and the prompt's number."""
    digest = hashlib.blake2b(repr((*map(int, seed), int(number))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def collapsed(row: EncodedRow, processor: Processor) -> list[int]:
    """The row's tokens with one image token for each image, which vLLM expands.

    vLLM takes expanded ones too, but expands the first of them again, without an error.
    """
    image = row.image_slots // processor.geometry.features
    if processor.geometry.arrays > 1:  # a row of tiled images has one
        image = np.minimum(image, 0)
    shown = row.image_slots >= 0
    first = shown & (np.diff(image, prepend=-2) != 0)
    kept = ~shown | first
    if first.sum() != len(row.images):
        groups = counted(first.sum(), "group of image tokens", "groups of image tokens")
        raise RowError(row.id, f"{groups}, but {counted(len(row.images), 'image')}")
    return row.tokens[kept].tolist()


def data_urls(row: EncodedRow, processor: Processor) -> list[str]:
    """The row's images as PNG, resized as the encoder takes them, so that the server's resizing changes nothing.

    Raises:
      RowError: an image that cannot be read.
    """
    try:
        return [_url(processor.geometry.resized(images.load(x), len(row.images) == 1)) for x in row.images]
    except UserError as error:
        raise RowError(row.id, str(error)) from None


def _url(image: Any) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def body(prompt: Prompt, processor: Processor) -> dict[str, Any]:
    """A request without its sampling parameters."""
    found: dict[str, Any] = {"token_ids": collapsed(prompt.row, processor), "return_token_ids": True}
    if urls := data_urls(prompt.row, processor):
        found["content_parts"] = [{"type": "image_url", "url": url} for url in urls]
    return found


def check_expansion(row: EncodedRow, answer: Mapping[str, Any], url: str) -> None:
    """Raises RowError where the server made other tokens of the prompt than the trainer."""
    theirs = answer["prompt_token_ids"]
    if not np.array_equal(row.tokens, theirs):
        raise RowError(
            row.id,
            f"vLLM server {url} expands the prompt to {len(theirs)} tokens, the trainer to {len(row.tokens)}; give it "
            "the preprocessor_config.json that export-hf writes (limits of image sizes differ)",
        )


def versions(answer: Mapping[str, Any]) -> set[str]:
    """Versions of the weights that sampled an answer's tokens."""
    return {span["version"] for choice in answer["choices"] for span in choice["weight_versions"] or ()}


def responses(answer: Mapping[str, Any], sampling: Sampling, where: str) -> list[Response]:
    """The answer's choices in order.

    With ``processed_logprobs`` vLLM returns the log-prob of the distribution that it draws from; of greedy answers, the
    one at temperature 1. Without truncation that is ``logps`` too. With it, ``logps`` cannot be had and is NaN: the
    trainer computes it.

    Raises:
      UserError: a response that did not end, or without log-probs.
    """
    return [_response(x, sampling, where) for x in sorted(answer["choices"], key=lambda x: x["index"])]


def _response(choice: Mapping[str, Any], sampling: Sampling, where: str) -> Response:
    tokens = np.asarray(choice["token_ids"], np.int32)
    content: Sequence[Mapping[str, Any]] = (choice["logprobs"] or {}).get("content") or ()
    logps = np.asarray([token["logprob"] for token in content], np.float32)
    if choice["finish_reason"] not in ("stop", "length"):
        raise UserError(f"{where}: a response ended with '{choice['finish_reason']}'; something else aborts requests")
    if len(logps) != len(tokens) or not len(tokens) or (logps <= NO_LOGP).any():
        raise UserError(f"{where}: a response of {len(tokens)} tokens has log-probs for {(logps > NO_LOGP).sum()}")
    own = np.full_like(logps, np.nan) if truncates(sampling) else logps
    drawn = logps if sampling.temperature else np.zeros_like(logps)  # greedy: from a distribution of one token
    return Response(tokens, own, drawn, choice["finish_reason"])
