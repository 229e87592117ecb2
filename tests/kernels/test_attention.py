"""Attention backends, compared with the dense reference in float64 and with closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from pivot_jax.kernels.attention import BACKENDS, attention
from pivot_jax.kernels.attention_xla import _BLOCK
from pivot_jax.kernels.mask import Ids
from pivot_jax.kernels.tpu import backward

ELSEWHERE = ("reference", "pallas_gpu", "cudnn")  # test_attention_gpu.py; cudnn runs on GPUs only
FAST = [backend for backend in BACKENDS if backend not in ELSEWHERE]


def draw(b, n, h, kv, c, *, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    q, k, v = (jnp.asarray(rng.normal(size=(b, n, heads, c)), dtype) for heads in (h, kv, kv))
    segments = np.sort(rng.integers(0, 3, (b, n)), axis=1)[:, ::-1].copy()  # padding (0) on the right
    branches = np.where(np.arange(n) < n // 3, 0, rng.integers(1, 3, (b, n)))
    return q, k, v, jnp.asarray(segments), jnp.asarray(branches)


def loss(backend, causal, q, k, v, segments, branches, probe):
    return jnp.sum(attention(q, k, v, causal=causal, backend=backend, ids=Ids.same(segments, branches)) * probe)


def compare(q, k, v, segments, branches, causal, tolerance, backend="xla"):
    probe = jnp.asarray(np.random.default_rng(9).normal(size=q.shape), q.dtype)
    both = jax.jit(jax.value_and_grad(loss, argnums=(2, 3, 4)), static_argnums=(0, 1))
    value, grads = both(backend, causal, q, k, v, segments, branches, probe)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v)]
        expected, expected_grads = both("reference", causal, *wide, segments, branches, jnp.asarray(probe, jnp.float64))
    np.testing.assert_allclose(
        value, expected, rtol=tolerance, atol=tolerance * np.abs(np.asarray(probe, float)).sum() ** 0.5
    )
    for got, want in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance * (1 + np.abs(want).max()))


@settings(max_examples=10, deadline=None)
@given(
    n=st.sampled_from([1, 2, 7, 33, 64]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]),
    c=st.sampled_from([4, 9, 16]),
    causal=st.booleans(),
    masks=st.sampled_from(["none", "segments", "branches"]),
    seed=st.integers(0, 99),
)
def test_xla_equals_the_reference_forward_and_backward(n, heads, c, causal, masks, seed):
    q, k, v, segments, branches = draw(2, n, *heads, c, seed=seed)
    segments = None if masks == "none" else segments
    branches = branches if masks == "branches" else None
    compare(q, k, v, segments, branches, causal, 2e-6)


@pytest.mark.parametrize("n", [257, 577, 729])
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_that_are_not_multiples_of_the_block(n, causal):
    assert n > _BLOCK
    q, k, v, segments, branches = draw(1, n, 2, 1, 8)
    compare(q, k, v, segments, branches, causal, 5e-6)


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_stays_within_its_rounding(backend):
    q, k, v, segments, _ = draw(2, 40, 4, 2, 16, dtype=jnp.bfloat16)
    compare(q, k, v, segments, None, True, 2e-2, backend)


# Pallas kernels in JAX's interpreter: one tile and several; every mask; queries in groups; odd lengths and widths.
PALLAS_CASES = [
    ("pallas_tpu", 1, (1, 1), 8, True, "none"),
    ("pallas_tpu", 200, (4, 2), 72, False, "none"),
    ("pallas_tpu", 150, (4, 1), 64, True, "branches"),
    ("pallas_tpu", 897, (2, 1), 8, True, "branches"),
    ("pallas_tpu", 1025, (2, 2), 8, False, "segments"),
]


@pytest.mark.parametrize(("backend", "n", "heads", "c", "causal", "masks"), PALLAS_CASES)
def test_pallas_kernels_equal_the_reference(backend, n, heads, c, causal, masks):
    q, k, v, segments, branches = draw(1, n, *heads, c)
    segments = None if masks == "none" else segments
    compare(q, k, v, segments, branches if masks == "branches" else None, causal, 5e-6, backend)


def test_heads_are_split_where_their_dq_does_not_fit_together(monkeypatch):
    """Six query heads of one key/value head: dk and dv of two groups of three are summed."""
    monkeypatch.setattr(backward, "_DQ_BYTES", 3 * 80 * 8 * 4)
    assert backward._heads_at_once(6, 80 * 8 * 4) == 3
    q, k, v, segments, branches = draw(1, 80, 6, 1, 8)
    compare(q, k, v, segments, branches, True, 5e-6, "pallas_tpu")


@pytest.mark.heavy
@settings(max_examples=40, deadline=None)
@given(
    backend=st.sampled_from(["pallas_tpu", "xla"]),
    n=st.integers(1, 1025),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]),
    c=st.sampled_from([8, 64, 72, 80, 96, 128]),
    causal=st.booleans(),
    masks=st.sampled_from(["none", "segments", "branches"]),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
def test_backends_equal_the_reference_on_wide_draws(backend, n, heads, c, causal, masks, half, seed):
    q, k, v, segments, branches = draw(1, n, *heads, c, seed=seed, dtype=jnp.bfloat16 if half else np.float32)
    segments = None if masks == "none" else segments
    compare(q, k, v, segments, branches if masks == "branches" else None, causal, 2e-2 if half else 5e-6, backend)


# Head counts, widths and lengths of the supported families: SigLIP at 256 to 729 patches, Qwen2.5 0.5B, 1.5B and 7B.
SHAPES = [
    (577, 12, 12, 64, False),
    (576, 16, 16, 72, False),
    (729, 16, 16, 72, False),
    (256, 16, 16, 96, False),
    (1024, 14, 2, 64, True),
    (2048, 12, 2, 128, True),
    (4096, 28, 4, 128, True),
]


@pytest.mark.parametrize("masks", ["none", "segments", "branches"])
@pytest.mark.parametrize(("n", "h", "kv", "c", "causal"), SHAPES)
def test_tpu_kernels_lower_without_a_tpu(n, h, kv, c, causal, masks):
    q, k, ids = (
        jax.ShapeDtypeStruct((2, n, *x), t) for x, t in (((h, c), jnp.bfloat16), ((kv, c), jnp.bfloat16), ((), int))
    )
    segments = None if masks == "none" else ids
    branches = ids if masks == "branches" else None
    text = lowered_for(
        "TPU v5 lite", "tpu", jax.grad(loss, (2, 3, 4)), (0, 1), "auto", causal, q, k, k, segments, branches, q
    )
    assert text.count("tpu_custom_call") == 2  # forward and backward


def lowered_for(kind, platform, function, static, *args):
    """StableHLO of ``function`` for a device that is not present."""
    device = jax.sharding.AbstractDevice(kind, 1, platform)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(function, static_argnums=static).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.heavy_after(2)
def test_a_fully_masked_query_returns_zeros_and_zero_gradients(backend):
    q, k, v, *_ = draw(1, 5, 2, 2, 4)
    segments = jnp.asarray([[1, 1, 0, 0, 2]])
    ids = Ids.same(segments)
    out, pull = jax.vjp(lambda *x: attention(*x, causal=True, backend=backend, ids=ids), q, k, v)
    grads = pull(jnp.ones_like(out))
    assert np.all(np.asarray(out)[:, 2:4] == 0)
    assert all(np.all(np.asarray(g)[:, 2:4] == 0) and np.all(np.isfinite(g)) for g in grads)


@pytest.mark.parametrize("backend", FAST)
def test_huge_scores_stay_finite(backend):
    q, k, v, *_ = draw(1, 6, 1, 1, 4)
    out, grads = jax.value_and_grad(lambda q: jnp.sum(attention(q * 1e4, k, v, causal=True, backend=backend) ** 2))(q)
    assert np.isfinite(out) and np.all(np.isfinite(grads))


@pytest.mark.parametrize("backend", FAST)
def test_the_content_of_padding_has_no_effect(backend):
    q, k, v, *_ = draw(2, 8, 2, 1, 4)
    segments = jnp.asarray([[1] * 6 + [0] * 2] * 2)
    ids = Ids.same(segments)
    out = attention(q, k, v, causal=False, backend=backend, ids=ids)
    dirty = [x.at[:, 6:].set(1e9) for x in (q, k, v)]
    np.testing.assert_array_equal(attention(*dirty, causal=False, backend=backend, ids=ids), out)


def test_a_branch_does_not_attend_to_the_other_branch():
    q, k, v, *_ = draw(1, 9, 2, 2, 4)
    segments, branches = jnp.ones((1, 9), int), jnp.asarray([[0, 0, 0, 1, 1, 1, 2, 2, 2]])
    ids = Ids.same(segments, branches)
    out = attention(q, k, v, causal=True, ids=ids)
    changed = [x.at[:, 3:6].add(1.0) for x in (k, v)]
    again = attention(q, *changed, causal=True, ids=ids)
    np.testing.assert_array_equal(out[:, 6:], again[:, 6:])
    assert np.abs(np.asarray(out - again)[:, 3:6]).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (2, 8, 2, 5)}, "differ in rows or head width"),
        ({"k": (2, 8, 3, 4)}, "not a multiple of 3"),
        ({"k": (2, 7, 2, 4)}, "as many queries as keys"),
        ({"k": (2, 0, 2, 4)}, "has no tokens"),
        ({"segments": (2, 7)}, "segment ids have shape"),
        ({"segments": (2, 8), "ids": float}, "segment ids are float32; expected integers"),
        (
            {"backend": "magic"},
            "unknown; choose one of: auto, xla, pallas_tpu, pallas_gpu, pallas_triton, cudnn",
        ),
    ],
)
def test_bad_arguments_raise_an_error_that_names_them(change, message):
    q = jnp.zeros((2, 8, 4, 4))
    k = jnp.zeros(change.get("k", (2, 8, 2, 4)))
    segments = jnp.ones(change["segments"], change.get("ids", int)) if "segments" in change else None
    with pytest.raises(ValueError, match=message):
        backend = change.get("backend", "auto")
        attention(q, k, k, causal=True, ids=Ids.same(segments), backend=backend)
