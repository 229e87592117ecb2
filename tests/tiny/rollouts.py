"""Prompts for the sampler without a tokenizer, its greedy answers, and the trainer's log-probs of what it sampled."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.chat import Limits
from pivot_jax.data.processing.geometry import Geometry, ImageArrays, Square
from pivot_jax.data.processing.processor import Processor
from pivot_jax.models.language_model import head_matrix
from pivot_jax.rollout import choice
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import mllm

_SQUARE = Square("siglip", mllm.IMAGE, mllm.PATCHES)


def processor(geometry: Geometry = _SQUARE, *, mrope: bool = False, tokenizer: Any = None) -> Processor:
    """A processor of rows that are token ids already, with up to one image each."""
    chat: Any = SimpleNamespace(tokenizer=tokenizer, pad_id=0, mrope=mrope, limits=Limits(images=1))
    return Processor(chat, geometry, "prompt")


def row(name: str, tokens: Any, features: int = 0, image: Any = None) -> EncodedRow:
    """A prompt of text, whose image's tokens come after its second one."""
    tokens, none = np.asarray(tokens, np.int32), np.zeros(0, np.int32)
    slots = np.full(len(tokens), -1, np.int32)
    slots[2 : 2 + features] = np.arange(features)
    where = np.arange(len(tokens), dtype=np.int32)
    images = () if image is None else (image,)
    return EncodedRow(name, tokens, slots, where, np.zeros_like(where), none, none, none, images)


def prompt(number: int, encoded: EncodedRow, max_tokens: int = 0) -> Prompt:
    return Prompt(Example(encoded.id, ()), encoded, number, max_tokens)


def random_prompts(lengths: Any, vocabulary: int, seed: int = 0, images: bool = True) -> list[Prompt]:
    """Prompts of these numbers of tokens, with an image each."""
    rng = np.random.default_rng(seed)
    found = []
    for number, length in enumerate(lengths):
        image = rng.integers(0, 255, (mllm.IMAGE, mllm.IMAGE, 3)).astype(np.uint8) if images else None
        tokens = rng.integers(0, vocabulary, length)
        found.append(prompt(number, row(f"row{number}", tokens, mllm.PATCHES if images else 0, image)))
    return found


def greedy(
    model: Any, params: Any, prompts: list[Prompt], new: int, made: Processor | None = None, ends: Any = ()
) -> list[list[int]]:
    """Token ids of the most likely answers, without the end token."""
    sampler = Sampler(model, made, Shape(slots=2, prompts=2, steps=16))
    sampler.update(params, 0)
    rollouts = sampler.generate(prompts, 1, Sampling(new, temperature=0.0, stop_ids=tuple(ends)), (0, 0))
    sampler.close()
    found = [group[0] for group in rollouts.responses]
    return [one.tokens[: len(one.tokens) - (one.finish == "stop")].tolist() for one in found]


def trained_logps(
    model: Any, params: Any, made: Processor, prompts: list[Prompt], responses: Any, sampling: Sampling
) -> list[list[np.ndarray]]:
    """Log-probs of the responses' tokens by the training step's forward pass: a row per group, a branch per response.

    From a softmax over all words at the temperature, without the banned ones.
    """
    rows = [group_row(one.row, [r.tokens for r in group]) for one, group in zip(prompts, responses, strict=True)]
    images = made.geometry.empty(len(rows), made.arrays_per_row)
    for i, one in enumerate(rows):
        if len(one.images):
            for whole, own in images.pairs(made.read_images(one.images)):
                whole[i, : len(own)] = own
    bucket = max(len(one.tokens) for one in rows), max(len(one.targets) for one in rows)
    batch = made.for_kind("preference").batch(rows, ImageArrays(*images), bucket)
    found = np.asarray(_logps(model, params, batch, sampling))
    result = []
    for values, group in zip(found, responses, strict=True):
        ends = np.cumsum([len(response.tokens) for response in group])
        result.append(np.split(values[: ends[-1]], ends[:-1]))
    return result


def _logps(model: Any, params: Any, batch: Any, sampling: Sampling) -> jax.Array:
    @jax.jit
    def compute(params: Any, batch: Any) -> jax.Array:
        hidden = model.apply({"params": params}, batch, method="hidden")
        picked = jnp.take_along_axis(hidden, batch.sources[:, :, None], axis=1)
        logits = picked @ head_matrix(params).T
        logits = logits.at[:, :, jnp.asarray(sampling.banned_ids, jnp.int32)].set(-jnp.inf)
        logps = jax.nn.log_softmax(logits / (sampling.temperature or 1.0))
        return jnp.take_along_axis(logps, batch.targets[:, :, None], axis=-1)[:, :, 0]

    return compute(params, batch)


def next_logits(model: tuple[Any, Any], made: Processor, one: Prompt, tokens: Any) -> np.ndarray:
    """Logits of the token after the prompt and these tokens, from a forward pass over all of them."""
    module, params = model
    whole = group_row(one.row, [[*tokens, 0]])
    images = made.geometry.empty(1, made.arrays_per_row)
    if len(whole.images):
        for all_, own in images.pairs(made.read_images(whole.images)):
            all_[0, : len(own)] = own
    length = -(-len(whole.tokens) // 64) * 64
    batch = made.for_kind("preference").batch([whole], images, (length, length))
    return np.asarray(_logits(module, params, batch)[0, len(tokens)])


@partial(jax.jit, static_argnums=0)
def _logits(module: Any, params: Any, batch: Any) -> jax.Array:
    hidden = module.apply({"params": params}, batch, method="hidden")
    return jnp.take_along_axis(hidden, batch.sources[:, :, None], axis=1) @ head_matrix(params).T


def assert_agree(
    model: tuple[Any, Any],
    made: Processor,
    prompts: list[Prompt],
    ours: Any,
    theirs: Any,
    sampling: Sampling,
    seed: Any,
) -> None:
    """At least 99.9 % of the tokens are equal, and each first difference is a draw within 1e-5 of a boundary."""
    total = equal = 0
    for one, mine, others in zip(prompts, ours.responses, theirs.responses, strict=True):
        for index, (a, b) in enumerate(zip(mine, others, strict=True)):
            short = min(len(a.tokens), len(b.tokens))
            same = int(np.argmin(np.r_[a.tokens[:short] == b.tokens[:short], False]))
            total, equal = total + len(a.tokens), equal + same
            np.testing.assert_allclose(a.logps[:same], b.logps[:same], atol=1e-4)
            if same < max(len(a.tokens), len(b.tokens)):
                assert boundary_gap(model, made, one, index, a.tokens[:same], sampling, seed) < 1e-5
    assert equal >= 0.999 * total


def boundary_gap(
    model: tuple[Any, Any], made: Processor, one: Prompt, response: int, tokens: Any, sampling: Sampling, seed: Any
) -> float:
    """Distance of the draw after these tokens from the nearest value of the distribution function."""
    logits = next_logits(model, made, one, tokens).astype(np.float64)
    logits[list(sampling.banned_ids)] = -np.inf
    logits /= sampling.temperature
    upto = np.cumsum(np.exp(logits - logits.max()))
    numbers = (np.asarray([x], np.uint32) for x in (one.number, response))
    keys = choice.row_keys(jnp.asarray(seed, jnp.uint32), *numbers)
    drawn = float(choice.uniforms(keys, jnp.asarray([len(tokens)]))[0])
    return float(np.abs(upto / upto[-1] - drawn).min())
