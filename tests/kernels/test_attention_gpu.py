"""The Mosaic GPU kernels: in JAX's interpreter compared with the reference, and lowered for a GPU that is not present.

The interpreter runs every program of a grid separately and, before JAX 0.11, compiles its code again each time, one or
two seconds per program. So cases have one or two programs per kernel, and some are heavy before JAX 0.11.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.gpu import mosaic_backward, mosaic_tile
from pivot_jax.kernels.gpu.mosaic import WIDTHS
from pivot_jax.kernels.mask import Ids
from tests.kernels.test_attention import compare, draw, loss, lowered_for

MASKS = ["none", "segments", "branches"]
NEW = jax.__version_info__ >= (0, 11)
slow = pytest.mark.heavy if not NEW else lambda test: test


def compare_gpu(n, heads, c, causal, masks, *, b=1, seed=0, dtype=jnp.bfloat16):
    q, k, v, segments, branches = draw(b, n, *heads, c, seed=seed, dtype=dtype)
    segments = None if masks == "none" else segments
    compare(q, k, v, segments, branches if masks == "branches" else None, causal, 2e-2, "pallas_gpu")


@pytest.mark.parametrize(
    ("n", "heads", "c", "causal", "masks", "dtype"),
    [
        pytest.param(1, (1, 1), 96, True, "none", jnp.float16, marks=[] if NEW else pytest.mark.heavy),
        (65, (2, 1), 72, False, "none", jnp.bfloat16),  # padded keys and width; dk and dv of two programs are summed
        (130, (1, 1), 64, True, "branches", jnp.bfloat16),  # several tiles, some empty, some without a mask
        pytest.param(128, (1, 1), 128, False, "segments", jnp.bfloat16, marks=[] if NEW else pytest.mark.heavy),
    ],
)
@pytest.mark.heavy_after(1)
def test_kernels_equal_the_reference(n, heads, c, causal, masks, dtype):
    compare_gpu(n, heads, c, causal, masks, dtype=dtype)


def test_query_heads_that_one_program_processes_in_turn(monkeypatch):
    monkeypatch.setattr(mosaic_backward, "_PROGRAMS", 1)
    assert mosaic_backward._chunks(2, 1) == 1
    compare_gpu(70, (2, 1), 80, True, "segments")


def test_the_programs_of_a_grid_fill_the_gpu():
    assert mosaic_backward._chunks(7, 8 * 4 * 32) == 1  # Qwen2.5 7B, eight rows of 4096
    assert mosaic_backward._chunks(6, 2 * 16) == 6  # 1.5B, one row of 2048
    assert mosaic_backward._chunks(6, 132) == 2


@pytest.mark.heavy
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 400),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1), (2, 2)]),
    c=st.sampled_from(list(WIDTHS)),
    causal=st.booleans(),
    masks=st.sampled_from(MASKS),
    dtype=st.sampled_from([jnp.bfloat16, jnp.float16]),
    seed=st.integers(0, 99),
)
def test_kernels_equal_the_reference_on_wide_draws(n, heads, c, causal, masks, dtype, seed):
    compare_gpu(n, heads, c, causal, masks, seed=seed, dtype=dtype)


@pytest.mark.heavy
@pytest.mark.parametrize(("n", "c", "causal"), [(257, 64, False), (577, 64, False), (729, 72, False), (512, 128, True)])
def test_lengths_of_real_models(n, c, causal):
    compare_gpu(n, (2, 1), c, causal, "segments" if causal else "none")


def test_fully_masked_rows_return_zeros_whatever_they_contain():
    q, k, v, *_ = draw(1, 40, 1, 1, 64, dtype=jnp.bfloat16)
    segments = jnp.asarray([[1] * 20 + [0] * 10 + [2] * 10])
    dirty = run(segments, *(x.at[:, 20:30].set(1e9) for x in (q, k, v)))
    for got, want in zip(dirty, run(segments, q, k, v, backend="reference"), strict=True):
        assert np.all(np.asarray(got)[:, 20:30] == 0)
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), atol=2e-2)


@slow
def test_huge_scores_stay_finite():
    q, k, v, *_ = draw(1, 40, 1, 1, 64, dtype=jnp.bfloat16)
    assert all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in run(jnp.ones((1, 40), int), q * 1e4, k, v))


@pytest.mark.skipif(not NEW, reason="JAX before 0.11 does not detect races")
def test_no_program_reads_what_another_writes(monkeypatch):
    """The interpreter's race detector. It requires a fence between a plain read and a later copy to the same memory.
    Tensor cores read the tiles, which the interpreter does not simulate here, so the test adds a fence."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
    from jax.experimental.pallas import mosaic_gpu as plgpu

    arrive = plgpu.barrier_arrive
    monkeypatch.setattr(plgpu, "barrier_arrive", lambda barrier: (plgpu.commit_smem(), arrive(barrier)))
    monkeypatch.setattr(mosaic_tile, "_interpreter", lambda: plgpu.InterpretGPUParams(detect_races=True))
    q, k, v, *_ = draw(1, 300, 2, 1, 64, dtype=jnp.bfloat16)
    jax.block_until_ready(run(jnp.ones((1, 300), int), q, k, v))
    assert not gpu_callbacks.get_races().races_found


def run(segments, q, k, v, backend="pallas_gpu"):
    """Output and gradients of its sum."""
    ids = Ids.same(segments)

    @jax.jit
    def both(q, k, v):
        out, pull = jax.vjp(lambda *x: attention(*x, causal=True, backend=backend, ids=ids), q, k, v)
        return out, *pull(jnp.ones_like(out))

    return both(q, k, v)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("c", list(WIDTHS))
def test_kernels_lower_without_a_gpu(c, masks):
    text = lowered(300, (4, 2), c, masks != "none", masks)
    assert text.count("custom_call @mosaic_gpu") == 3
    assert all(f"attention_{kernel}" in text for kernel in ("forward", "d_queries", "d_keys"))


def test_kernels_lower_inside_a_scan_with_remat():
    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)

    def step(q):
        layer = jax.checkpoint(lambda x, _: (attention(x, x, x, causal=True, backend="pallas_gpu"), None))
        return jnp.sum(jax.lax.scan(layer, q, None, length=3)[0].astype(jnp.float32))

    text = lowered_for("NVIDIA H200", "cuda", jax.grad(step), (), q)
    assert text.count("custom_call @mosaic_gpu") == 4  # the backward pass recomputes the forward pass


def lowered(n, heads, c, causal, masks):
    h, kv = heads
    q, k = (jax.ShapeDtypeStruct((2, n, x, c), jnp.bfloat16) for x in (h, kv))
    ids = jax.ShapeDtypeStruct((2, n), jnp.int32)
    segments, branches = (None if masks == "none" else ids), (ids if masks == "branches" else None)
    grads = jax.grad(loss, (2, 3, 4))
    return lowered_for("NVIDIA H200", "cuda", grads, (0, 1), "pallas_gpu", causal, q, k, k, segments, branches, q)


@pytest.mark.parametrize(
    ("c", "dtype", "scale", "message"),
    [
        (64, jnp.float32, None, "supports bfloat16 or float16"),
        (40, jnp.bfloat16, None, "supports head widths 64, 72, 80, 96, 128; got 40"),
        (64, jnp.bfloat16, 0.0, "positive scale"),
    ],
)
def test_unsupported_arguments_raise_an_error_that_names_them(c, dtype, scale, message):
    q = jnp.zeros((1, 8, 2, c), dtype)
    with pytest.raises(ValueError, match=message):
        attention(q, q, q, causal=True, scale=scale, backend="pallas_gpu")


def test_the_kernels_do_not_run_on_tpus():
    with pytest.raises(ValueError, match="does not run on TPUs"):
        q = jax.ShapeDtypeStruct((1, 8, 2, 64), jnp.bfloat16)
        lowered_for("TPU v5 lite", "tpu", loss, (0, 1), "pallas_gpu", True, q, q, q, None, None, q)
