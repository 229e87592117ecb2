"""Attention on Hopper GPUs (H100, H200, GH200): Pallas kernels for Mosaic GPU, forward and backward.

They use Hopper's own instructions: products of whole warpgroups (wgmma), which earlier and later GPUs lack, and TMA.

The tiles to visit come from :mod:`pivot_jax.kernels.blocks` as lists in memory. Tiles that the mask empties are neither
computed nor fetched. Tiles that are wholly visible come first and skip the mask.

Letters as in :mod:`pivot_jax.kernels.attention`. Exponents are to base 2, with the scale folded in
(``rate = scale * log2 e``), and ``lse`` is to base 2 too.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.kernels import residuals
from pivot_jax.kernels.dispatch import platform
from pivot_jax.kernels.gpu.mosaic_backward import backward
from pivot_jax.kernels.gpu.mosaic_forward import forward
from pivot_jax.kernels.gpu.mosaic_tile import TILE, Spec
from pivot_jax.kernels.mask import Codes, Ids, encode
from pivot_jax.shapes import round_up

Array = jax.Array
HOPPER = "9.0"  # compute capability
WIDTHS = {64: 64, 72: 80, 80: 80, 96: 96, 128: 128}  # head width: as the kernels hold it, with zeros after


def attention_gpu(
    q: Array, k: Array, v: Array, ids: Ids, *, causal: bool, scale: float, interpret: bool | None = None
) -> Array:
    """See :func:`pivot_jax.kernels.attention.attention`.

    Args:
      interpret: run the kernels in JAX's interpreter, which is slow but exact; default: on CPUs.

    Raises:
      ValueError: on a TPU, or a GPU that is not a Hopper; inputs that are not all bfloat16 or all float16; a head
        width that is not in :data:`WIDTHS`; a scale that is not positive.
    """
    target = platform()
    interpret = target == "cpu" if interpret is None else interpret
    _check(q, k, v, scale, target)
    b, n, _, c = q.shape
    m = k.shape[1]
    padded_n, padded_m = round_up(n, TILE), round_up(m, TILE)
    mask = ids.kind
    if mask == "none" and padded_m != m and not causal:
        mask = "keys"  # causal: padded keys come after every query that counts
    spec = Spec(causal, scale * math.log2(math.e), mask, interpret)
    codes = encode(ids, (b, n, m), (padded_n, padded_m))
    padded = (_pad(q, padded_n), _pad(k, padded_m), _pad(v, padded_m))
    return _attend(spec, *padded, codes)[:, :n, :, :c]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: Spec, q: Array, k: Array, v: Array, codes: Codes) -> Array:
    return forward(spec, q, k, v, codes)[0]


def _attend_fwd(spec, q, k, v, codes):
    out, lse = residuals.attention(*forward(spec, q, k, v, codes))
    return out, (q, k, v, codes, out, lse)


def _attend_bwd(spec, kept, d_out):
    q, k, v, codes, out, lse = kept
    return *backward(spec, q, k, v, codes, out, lse, d_out), jax.tree.map(_no_gradient, codes)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _no_gradient(x: Array) -> Any:
    return np.zeros(x.shape, jax.dtypes.float0)


def _check(q: Array, k: Array, v: Array, scale: float, target: str) -> None:
    name = "attention backend 'pallas_gpu'"
    if target == "tpu":
        raise ValueError(f"{name} does not run on TPUs; use 'auto'")
    if (
        target == "gpu" and jax.default_backend() == "gpu"
    ):  # else the program is compiled for a device that is not present
        device = jax.local_devices()[0]
        if str(device.compute_capability) != HOPPER:
            raise ValueError(f"{name} runs on Hopper GPUs (H100, H200); this is {device.device_kind}. Use 'auto'")
    if len({x.dtype for x in (q, k, v)}) > 1 or q.dtype not in (jnp.bfloat16, jnp.float16):
        found = ", ".join(str(x.dtype) for x in (q, k, v))
        raise ValueError(f"{name} supports bfloat16 or float16 for q, k and v; got {found}. 'xla' supports every type")
    if q.shape[3] not in WIDTHS:
        raise ValueError(f"{name} supports head widths {', '.join(map(str, WIDTHS))}; got {q.shape[3]}. Use 'xla'")
    if not scale > 0:
        raise ValueError(f"{name} needs a positive scale; got {scale}")


def _pad(x: Array, length: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, WIDTHS[x.shape[3]] - x.shape[3])))
