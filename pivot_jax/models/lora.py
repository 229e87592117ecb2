"""LoRA: a low-rank addition to a linear layer (Hu et al. 2021, https://arxiv.org/abs/2106.09685), in PEFT's form.

    y = x W + scale (x A) B        A [in, r], B [r, out], scale = alpha / r (rslora: alpha / sqrt(r))

An adapter is three leaves beside a kernel in the parameter tree: ``lora_a``, ``lora_b`` and ``lora_scale``; a stacked
kernel's have the leading layer axis too. ``layers.Linear`` adds the product where it finds them: ``apply(params,
batch)`` is the same for every caller, and the tree without them is the base. The product is not merged into W during
training: that would need W's gradient, which is as large as W and costs a third of the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.models import stacking

A, B, SCALE = "lora_a", "lora_b", "lora_scale"
LEAVES = (A, B, SCALE)
KERNEL = "kernel"

Ranks = dict[str, int]  # path of a kernel → rank of its adapter


def is_adapter(path: str) -> bool:
    return path.rpartition("/")[2] in LEAVES


def beside(kernel: str, leaf: str) -> str:
    """Path of an adapter's leaf from its kernel's."""
    return f"{kernel.removesuffix(KERNEL)}{leaf}"


def kernel_of(path: str) -> str:
    """Path of the kernel that an adapter's leaf adds to."""
    return f"{path.rpartition('/')[0]}/{KERNEL}"


def is_linear(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is a linear layer's kernel: [in, out], with a leading layer axis in a stack of blocks."""
    return path.endswith(f"/{KERNEL}") and len(shape) == (3 if stacking.in_stack(path) else 2)


def base(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without adapters; shares its arrays."""
    return rules.unflatten({path: leaf for path, leaf in rules.flatten(tree).items() if not is_adapter(path)})


def adapter(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Only the adapters' leaves."""
    return rules.unflatten({path: leaf for path, leaf in rules.flatten(tree).items() if is_adapter(path)})


def scale(alpha: float, rank: int, rslora: bool) -> float:
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def create(key: Any, kernels: Mapping[str, tuple[int, ...]], ranks: Ranks, alpha: float, rslora: bool) -> Any:
    """float32 adapters as PEFT initialises them: A uniform in ±1/sqrt(in) (Kaiming's with a = sqrt(5)), B zero.

    Args:
      kernels: path → shape.
    """
    made: dict[str, Any] = {}
    for number, (path, rank) in enumerate(sorted(ranks.items())):
        *stack, into, out = kernels[path]
        limit = 1 / math.sqrt(into)
        own = jax.random.fold_in(key, number)
        made[beside(path, A)] = jax.random.uniform(own, (*stack, into, rank), jnp.float32, -limit, limit)
        made[beside(path, B)] = jnp.zeros((*stack, rank, out), jnp.float32)
        made[beside(path, SCALE)] = jnp.full(stack, scale(alpha, rank, rslora), jnp.float32)
    return rules.unflatten(made)


def merged(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with every adapter added to its kernel, W + scale A B, in float32 on the host; no leaves beside it.

    Raises:
      UserError: an adapter without its kernel.
    """
    flat = rules.flatten(stacking.on_host(tree))
    result = {path: leaf for path, leaf in flat.items() if not is_adapter(path)}
    for path in flat:
        if not path.endswith(f"/{A}"):
            continue
        kernel = kernel_of(path)
        if kernel not in result:
            raise UserError(f"the adapter at '{path}' has no kernel beside it")
        leaves = (np.asarray(flat[beside(kernel, leaf)], np.float32) for leaf in LEAVES)
        result[kernel] = merge_kernel(np.asarray(result[kernel]), *leaves)
    return rules.unflatten(result)


def merge_kernel(kernel: np.ndarray, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """W + scale A B of [in, out], or of a stack [layers, in, out] one layer at a time."""
    if kernel.ndim == 2:
        return (kernel + scale * (a @ b)).astype(kernel.dtype)
    out = np.empty_like(kernel)
    for layer in range(len(kernel)):
        out[layer] = kernel[layer] + scale[layer] * (a[layer] @ b[layer])
    return out
