"""Implementations of attention to compare, one object per process."""

from __future__ import annotations

import functools
import time
from typing import Any

import measure
import numpy as np
from attention_cases import Case, draw, ids, visible

OTHER_JAX = {
    "cpu": ["jax.nn"],
    "gpu": ["jax.nn", "jax pallas triton", "jax pallas mosaic", "tokamax"],
    "tpu": ["jax.nn", "jax splash", "tokamax"],
}
TORCH = {"cpu": ["flash", "math"], "gpu": ["flash", "cudnn", "efficient", "math"], "tpu": []}
OURS = {
    "cpu": ["xla"],
    "gpu": ["xla", "pallas_gpu", "pallas_triton", "cudnn"],
    "tpu": ["xla", "pallas_tpu"],
}


class JaxSide:
    """Our backends, JAX's own implementations and tokamax's."""

    def __init__(self) -> None:
        import jax

        self._jax, self._device = jax, jax.devices()[0]
        self._ready: dict[tuple[str, str], tuple[Any, tuple[Any, ...]]] = {}
        self._case: Case | None = None

    def describe(self) -> tuple[str, str]:
        """Platform (cpu, gpu or tpu) and kind of the device."""
        return self._jax.default_backend(), self._device.device_kind

    def prepare(self, name: str, case: Case, dtype: str, whole: bool) -> dict[str, Any]:
        """Compiles and runs both passes; outputs of the last row and key/value head, or all.

        If the backward pass fails, the forward pass remains, and "error" has the reason.
        """
        jax, jnp = self._jax, self._jax.numpy
        if case != self._case:
            self._ready.clear()  # arrays of the previous case
            self._case = case
        attend = functools.partial(_jax_function(name), case=case, ids=[_array(jnp, x) for x in ids(case)])
        q, k, v, d_out = (jnp.asarray(x, dtype) for x in draw(case))

        def both(q, k, v, d_out):
            out, pull = jax.vjp(attend, q, k, v)
            return out, *pull(d_out)

        # Not eager: some kernels work only when traced.
        forward = jax.jit(attend).lower(q, k, v).compile()
        found = {"out": forward(q, k, v)}
        self._ready[name, "forward"] = (forward, (q, k, v))
        error = ""
        try:
            backward = jax.jit(both).lower(q, k, v, d_out).compile()
            found = dict(zip(("out", "dq", "dk", "dv"), backward(q, k, v, d_out), strict=True))
            self._ready[name, "both"] = (backward, (q, k, v, d_out))
        except Exception as reason:
            error = measure.one_line(reason)
        return {"error": error} | {
            key: np.asarray(_picked(x, case, key, whole), np.float32) for key, x in found.items()
        }

    def run(self, name: str, what: str, times: int) -> float:
        """Seconds of one run, the mean of ``times`` runs queued one after the other."""
        compiled, arguments = self._ready[name, what]
        self._jax.block_until_ready(compiled(*arguments))
        start = time.perf_counter()
        for _ in range(times):
            last = compiled(*arguments)
        self._jax.block_until_ready(last)
        return (time.perf_counter() - start) / times


class TorchSide:
    """PyTorch's scaled_dot_product_attention, restricted to one of its backends."""

    def __init__(self) -> None:
        import torch

        self._torch, self._ready = torch, {}
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def describe(self) -> tuple[str, str]:
        torch = self._torch
        return ("gpu", torch.cuda.get_device_name()) if self._device == "cuda" else ("cpu", "cpu")

    def prepare(self, name: str, case: Case, dtype: str, whole: bool) -> dict[str, Any]:
        """As :meth:`JaxSide.prepare`; arrays are [b, h, n, c], the layout of PyTorch's kernels."""
        torch, functional = self._torch, self._torch.nn.functional
        self._ready.clear()
        q, k, v, d_out = (
            torch.tensor(x, device=self._device).to(getattr(torch, dtype)).transpose(1, 2).contiguous()
            for x in draw(case)
        )
        for x in (q, k, v):
            x.requires_grad_()
        mask = None
        if case.mask != "none":
            rows = np.stack([visible(case, row) for row in range(case.rows)])
            mask = torch.tensor(rows[:, None], device=self._device)
        kind = {"flash": "FLASH", "cudnn": "CUDNN", "efficient": "EFFICIENT"}.get(name, name.upper())
        backend = getattr(torch.nn.attention.SDPBackend, kind if kind == "MATH" else f"{kind}_ATTENTION")
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": case.causal and mask is None}

        def attend():
            keys, values = k, v
            if case.h != case.kv and name == "efficient":  # it does not support grouped queries
                keys, values = (x.repeat_interleave(case.h // case.kv, dim=1) for x in (k, v))
            grouped = {"enable_gqa": True} if keys.shape[1] != case.h else {}
            with torch.nn.attention.sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(q, keys, values, **options, **grouped)

        def forward():
            with torch.no_grad():
                return attend()

        def both():
            out = attend()
            return out, *torch.autograd.grad(out, (q, k, v), d_out)

        self._ready = {"forward": forward, "both": both}
        found = dict(zip(("out", "dq", "dk", "dv"), both(), strict=True))
        arrays = {key: _picked(x.transpose(1, 2), case, key, whole).float() for key, x in found.items()}
        return {"error": ""} | {key: x.detach().cpu().numpy() for key, x in arrays.items()}

    def run(self, name: str, what: str, times: int) -> float:
        compute = self._ready[what]
        compute()
        self._wait()
        start = time.perf_counter()
        for _ in range(times):
            compute()
        self._wait()
        return (time.perf_counter() - start) / times

    def _wait(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()


def _picked(x: Any, case: Case, name: str, whole: bool) -> Any:
    heads = case.h // case.kv if name in ("out", "dq") else 1
    return x if whole else x[-1:, :, x.shape[2] - heads :]


def _array(jnp: Any, x: np.ndarray | None) -> Any:
    return None if x is None else jnp.asarray(x)


# ---- JAX functions: (q, k, v, case, ids) → out


def _jax_function(name: str) -> Any:
    others = {
        "jax.nn": _jax_nn,
        "jax pallas triton": _jax_triton,
        "jax pallas mosaic": _jax_mosaic,
        "jax splash": _jax_splash,
        "tokamax": _tokamax,
    }
    return others.get(name) or functools.partial(_ours, name)


def _ours(name, q, k, v, *, case, ids):
    from pivot_jax.kernels.attention import attention
    from pivot_jax.kernels.mask import Ids

    segments, branches = ids
    return attention(q, k, v, causal=case.causal, backend=name, ids=Ids.same(segments, branches))


def _dense_mask(case):
    return None if case.mask == "none" else np.stack([visible(case, row) for row in range(case.rows)])[:, None]


def _jax_nn(q, k, v, *, case, ids):
    import jax

    mask = _dense_mask(case)
    causal = case.causal and mask is None
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="xla")


def _jax_triton(q, k, v, *, case, ids):
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.gpu.attention import mha

    if case.mask == "branches":
        raise ValueError("does not support branches")
    k, v = (jnp.repeat(x, case.h // case.kv, axis=2) for x in (k, v))
    return mha(q, k, v, ids[0], sm_scale=case.c**-0.5, causal=case.causal)


def _jax_mosaic(q, k, v, *, case, ids):
    from jax.experimental.pallas.ops.gpu.attention_mgpu import TuningConfig, attention

    if case.mask != "none":
        raise ValueError("does not support ids")
    sides = dict.fromkeys(("block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), 64)
    config = TuningConfig(
        block_q=64, block_kv=128 if case.n % 128 == 0 else 64, max_concurrent_steps=2, causal=case.causal, **sides
    )
    # It does not scale the scores.
    return attention(q * np.asarray(case.c**-0.5, q.dtype), k, v, config)


def _jax_splash(q, k, v, *, case, ids):
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    from pivot_jax.shapes import round_up

    if case.mask == "branches":
        raise ValueError("does not support branches")
    padded = round_up(case.n, 128)  # it supports no other lengths; segment ids mask the rest
    segments = jnp.ones((case.rows, case.n), jnp.int32) if ids[0] is None else ids[0]
    segments = jnp.pad(segments, ((0, 0), (0, padded - case.n)))
    one = masks.CausalMask((padded, padded)) if case.causal else masks.FullMask((padded, padded))
    side = next(size for size in (512, 384, 256, 128) if padded % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    sizes = kernel.BlockSizes(**dict.fromkeys((*names, "block_q_dq", "block_kv_dq"), side))
    attend = kernel.make_splash_mqa if case.kv < case.h else kernel.make_splash_mha
    heads = case.h // case.kv if case.kv < case.h else case.h
    attend = attend(masks.MultiHeadMask([one] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1)
    wide = ((0, 0), (0, padded - case.n), (0, 0), (0, 0))
    q, k, v = (jnp.pad(x, wide).transpose(0, 2, 1, 3) for x in (q * np.asarray(case.c**-0.5, q.dtype), k, v))
    if case.kv < case.h:
        q = q.reshape(case.rows, case.kv, heads, padded, case.c)
        attend = jax.vmap(attend, in_axes=(0, 0, 0, None))  # over key/value heads
    out = jax.vmap(lambda q, k, v, s: attend(q, k, v, kernel.SegmentIds(s, s)))(q, k, v, segments)
    return out.reshape(case.rows, case.h, padded, case.c).transpose(0, 2, 1, 3)[:, : case.n]


def _tokamax(q, k, v, *, case, ids):
    import tokamax

    mask = _dense_mask(case)
    return tokamax.dot_product_attention(q, k, v, mask=mask, is_causal=case.causal and mask is None)
