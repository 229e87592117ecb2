"""Perception-aware RL: which tokens of a response depend on the image, and training that stresses them.

Most methods compare with what the policy would say about a damaged image. That view costs one teacher-forced pass over
the same responses, before the update and without gradient. Its log-probs ℓ_masked enter in two ways: as weights of
tokens (:data:`TOKEN_WEIGHTS`), or as a term of the loss (PAPO). PEPO's weights need no such pass: they come from the
hidden states of the pass that computes the old log-probs. NoisyRollout needs none either: part of a group is sampled
from noised images, and all of it is trained on the clean one.

All on the host but :func:`divergence`. Letters: N responses, t tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.divergences import CLAMP, k3

Array = np.ndarray
_PATCH = 14  # pixels


def masked_image(pixels: Array, share: float, rng: np.random.Generator) -> Array:
    """The image with each square of 14 pixels black with probability ``share``: uint8 [h, w, 3].

    PAPO: Wang et al. 2025, share 0.6; VPPO: Huang et al. 2025, share 0.5.
    """
    height, width = pixels.shape[:2]
    black = rng.random((-(-height // _PATCH), -(-width // _PATCH))) < share
    whole = np.repeat(np.repeat(black, _PATCH, axis=0), _PATCH, axis=1)[:height, :width]
    return np.where(whole[..., None], 0, pixels).astype(np.uint8)


def noise_level(algorithm: Algorithm, step: int, steps: int) -> int:
    """Diffusion step of the noise at a step of training: k = k0 (1 - σ(λ (step - mid) / steps)).

    NoisyRollout: Liu et al. 2025; k0 = 500, λ = 30, mid = 2/3 of all steps.
    """
    where = algorithm.noise_rate * (step / steps - algorithm.noise_middle)
    return int(algorithm.noise_start / (1 + math.exp(min(where, 700.0))))


def noised_image(pixels: Array, level: int, rng: np.random.Generator) -> Array:
    """sqrt(ᾱ) x + sqrt(1 - ᾱ) ε of an image x in [0, 1], clipped, at a diffusion step of 1,000: uint8 [h, w, 3].

    β of step s is 1e-5 + (0.005 - 1e-5) σ(-6 + 12 s / 999), ᾱ the product of 1 - β up to ``level`` (Leng et al. 2023).
    """
    betas = 1e-5 + (0.005 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, 1000)))
    kept = np.cumprod(1 - betas)[level]
    noisy = math.sqrt(kept) * (pixels / 255) + math.sqrt(1 - kept) * rng.normal(size=pixels.shape)
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8)


def divergence(logps: Any, masked_logps: Any) -> Any:
    """k3 of the policy from its view of the masked image, per token, at most 10; the gradient is that of ``logps``."""
    return jnp.minimum(k3(logps, masked_logps, 0.0), CLAMP)


def _top(values: Array, mask: Array, share: float) -> Array:
    """1 at the ⌈share * length⌉ tokens of each response with the largest values, else 0: float64 [N, t]."""
    count = np.ceil(share * mask.sum(1, keepdims=True) - 1e-9)
    order = np.argsort(np.where(mask, -values, np.inf), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    return np.where(mask & (ranks < count), 1.0, 0.0)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a rollout's responses, float [N, t] each.

    Attributes:
      mask: bool; False after a response's end, where the others have any value.
      old_logps, entropy: under the policy before the update.
      masked_logps: the same with masked images, where a weighting reads them.
      similarity: to the image tokens (``models.logprobs.target_states_and_similarity``), where a weighting reads it.
      progress: share of the training that is done, 0 to 1.
    """

    mask: Array
    old_logps: Array
    entropy: Array
    masked_logps: Any = None
    similarity: Any = None
    progress: float = 0.0


def vppo(tokens: Tokens) -> Array:
    """1 at the 40 % most image-dependent tokens of each response, times a scale of the response; 0 elsewhere.

    VPPO: Huang et al. 2025. The dependency of a token is :func:`divergence`. With u the response's mean dependency,
    brought to [0, 1] over the batch, the scale is b + (B - b) u, b = 0.9, B = b + (1 - b) / mean(u): 1 on average.
    """
    mask = tokens.mask
    seen = np.asarray(divergence(tokens.old_logps, tokens.masked_logps), np.float64)
    dependency = np.where(mask, seen, 0.0)
    responses = mask.any(1)
    means = dependency.sum(1) / np.maximum(mask.sum(1), 1)
    low, high = means[responses].min(initial=np.inf), means[responses].max(initial=-np.inf)
    scale = np.ones(len(mask))
    if high - low > 1e-6:
        u = (means - low) / (high - low)
        scale = 0.9 + 0.1 / u[responses].mean() * u
    return _top(dependency, mask, 0.4) * scale[:, None]


def tor(tokens: Tokens) -> Array:
    """1 at the 30 % tokens of highest entropy, ½ at the 30 % whose log-prob changes most without the image, else 0.

    ToR ("token re-weighting"), arXiv 2603.25077; a token that is both has weight 1.
    """
    changes = np.abs(tokens.old_logps - tokens.masked_logps)
    return np.maximum(_top(tokens.entropy, tokens.mask, 0.3), 0.5 * _top(changes, tokens.mask, 0.3))


def pepo(tokens: Tokens) -> Array:
    """1 - λ + λ w: from equal weights to those by perception and entropy, while λ grows linearly from 0 to 1.

    PEPO: Li et al. 2026, arXiv 2603.22847. w = T softmax((1 + α tanh g) S) over the T tokens of a response, so w is 1
    on average. S is the similarity to the image; g = Ŝ + Ĥ - mean(Ŝ + Ĥ), where Ŝ and Ĥ are similarity and entropy
    brought to [0, 1] over the response (0 where all are equal); α = 0.05.

    The authors' code divides the softmax's argument by 1.8, which the paper does not mention, and takes similarity and
    entropy of the policy at every optimizer step. Ours are those before the update, as of all weights here; λ is the
    share of optimizer steps done. A response without images keeps equal weights (there: all tokens count as image).
    """
    mask, counts = tokens.mask, np.maximum(tokens.mask.sum(1, keepdims=True), 1)
    similarity = np.where(mask, np.asarray(tokens.similarity, np.float64), 0.0)
    mixed = _unit_range(similarity, mask) + _unit_range(np.asarray(tokens.entropy, np.float64), mask)
    gate = 1 + 0.05 * np.tanh(mixed - mixed.sum(1, keepdims=True) / counts)
    powers = np.where(mask, np.exp(gate * similarity), 0.0)  # |gate * similarity| < 1.1
    weights = counts * powers / np.maximum(powers.sum(1, keepdims=True), 1e-20)
    return np.where(mask, 1 - tokens.progress + tokens.progress * weights, 0.0)


def _unit_range(values: Array, mask: Array) -> Array:
    """Values of each response shifted and scaled to [0, 1]; 0 where all are equal, and after its end."""
    low = np.where(mask, values, np.inf).min(1, keepdims=True, initial=np.inf)
    high = np.where(mask, values, -np.inf).max(1, keepdims=True, initial=-np.inf)
    return np.where(mask, (values - low) / np.maximum(high - low, 1e-6), 0.0)


class Weighting(NamedTuple):
    """Weights that the advantages of the tokens are multiplied by, [N, t], and what they read besides."""

    function: Callable[[Tokens], Array]
    reads: str = ""  # masked_logps | similarity


TOKEN_WEIGHTS: dict[str, Weighting] = {
    "none": Weighting(lambda tokens: tokens.mask.astype(np.float64)),
    "vppo": Weighting(vppo, "masked_logps"),
    "tor": Weighting(tor, "masked_logps"),
    "pepo": Weighting(pepo, "similarity"),
}


def needs_masked_view(algorithm: Algorithm) -> bool:
    """Whether the responses are scored with masked images too."""
    return TOKEN_WEIGHTS[algorithm.token_weights].reads == "masked_logps" or algorithm.perception_coefficient > 0


def needs_similarity(algorithm: Algorithm) -> bool:
    """Whether the similarity of the responses' tokens to the image is computed."""
    return TOKEN_WEIGHTS[algorithm.token_weights].reads == "similarity"
