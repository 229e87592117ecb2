"""A tiny MLLM with random weights made by NumPy: compiling the real initialisers takes longer than most tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.encoder import Encoder
from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig, init_params
from pivot_jax.models.vit import ViTConfig

IMAGE, PATCHES = 8, 4


def tiny_mllm(vocab_size: int, *, gain: float = 1.0, seed: int = 0) -> tuple[MLLM, dict[str, Any]]:
    """Model of 8-pixel images in 4 patches, and weights of standard deviation ``gain`` / √inputs.

    A gain above 1 makes answers vary with their prompts.
    """
    vision = ViTConfig(image_size=IMAGE, patch_size=4, width=8, depth=2, heads=2, mlp_dim=12, pool_head=False)
    decoder = DecoderConfig(vocab_size=vocab_size, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=24)
    mllm = MLLM(MLLMConfig(vision, ProjectorConfig(), decoder))
    return mllm, random_params(mllm, gain=gain, seed=seed)


def random_params(mllm: MLLM, *, gain: float, seed: int = 0) -> dict[str, Any]:
    """Weights of standard deviation ``gain`` / √inputs."""
    return _filled(jax.eval_shape(partial(init_params, mllm), jax.random.key(0)), gain, seed)


def random_encoder(encoder: Encoder, *, gain: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """As :func:`random_params`, of an encoder alone, with what its features do not need."""
    inputs = encoder.config.vision.example_input()
    shapes = jax.eval_shape(partial(encoder.init, method="whole"), jax.random.key(0), *inputs)
    return _filled(shapes["params"], gain, seed)


def _filled(shapes: Any, gain: float, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)

    def fill(path: tuple, shape: Any) -> np.ndarray:
        name = path[-1].key
        if name == "scale":
            return np.ones(shape.shape, np.float32)
        inputs = shape.shape[-2] if name == "kernel" else shape.shape[-1]
        return (gain * inputs**-0.5 * generator.normal(size=shape.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)
