"""Triton kernels and cuDNN: compared with the reference in the interpreter, and compiled for GPUs not present."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels.attention import BACKENDS, attention
from pivot_jax.kernels.gpu import cudnn, triton, triton_tile
from pivot_jax.kernels.gpu.triton_tile import Spec, Tile, Tiles
from pivot_jax.kernels.mask import NO_IDS, Ids, visible
from pivot_jax.plan import topology
from tests.kernels.test_attention import compare, draw, loss, lowered_for

needs_plugin = pytest.mark.skipif(
    not importlib.util.find_spec("jax_plugins") or not importlib.util.find_spec("jax_plugins.xla_cuda13"),
    reason="jax's cuda plugin (extra cuda) is not installed",
)
MASKS = ["none", "segments", "branches"]
WIDTHS = [64, 72, 80, 96, 128]
CALL = "__gpu$xla.gpu.triton"


def ids_of(masks, segments, branches):
    return None if masks == "none" else segments, branches if masks == "branches" else None


# One tile and several; every mask; queries in groups; lengths and widths that are not powers of two.
@pytest.mark.parametrize(
    ("n", "heads", "c", "causal", "masks", "half"),
    [
        (1, (1, 1), 64, True, "none", False),
        (77, (4, 2), 72, False, "none", False),
        (100, (3, 1), 80, True, "branches", False),
        (90, (2, 2), 128, False, "segments", False),
        (150, (2, 1), 96, True, "none", True),
    ],
)
def test_kernels_equal_the_reference(n, heads, c, causal, masks, half):
    q, k, v, segments, branches = draw(1, n, *heads, c, dtype=jnp.bfloat16 if half else np.float32)
    compare(q, k, v, *ids_of(masks, segments, branches), causal, 2e-2 if half else 5e-6, "pallas_triton")


@pytest.mark.heavy
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 769),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]),
    c=st.sampled_from([8, *WIDTHS]),
    causal=st.booleans(),
    masks=st.sampled_from(MASKS),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
    seed=st.integers(0, 99),
)
def test_kernels_equal_the_reference_on_wide_draws(n, heads, c, causal, masks, dtype, seed):
    q, k, v, segments, branches = draw(1, n, *heads, c, seed=seed, dtype=dtype)
    tolerance = {jnp.float32: 5e-6, jnp.bfloat16: 2e-2, jnp.float16: 3e-3}[dtype]
    compare(q, k, v, *ids_of(masks, segments, branches), causal, tolerance, "pallas_triton")


@pytest.mark.parametrize("with_segments", [False, True])
def test_numbers_of_queries_and_keys_and_sides_of_tiles_may_differ(with_segments):
    q, k, v, *_ = draw(2, 70, 2, 1, 16)
    k, v = k[:, :45], v[:, :45]
    ids = NO_IDS
    if with_segments:
        rows = [jnp.asarray(np.sort(np.random.default_rng(1).integers(0, 3, (2, size)))) for size in (70, 45)]
        ids = Ids(*rows)
    tiles = Tiles(Tile(32, 16, 4, 1), Tile(16, 32, 4, 1), Tile(16, 64, 4, 1))

    def value(compute, q, k, v, **options):
        return jnp.sum(jnp.sin(compute(q, k, v, ids, causal=False, scale=0.2, **options)))

    got = jax.jit(lambda *x: jax.grad(value, (1, 2, 3))(BACKENDS["pallas_triton"], *x, tiles=tiles))(q, k, v)
    want = jax.jit(lambda *x: jax.grad(value, (1, 2, 3))(BACKENDS["reference"], *x))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got, want)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 150),
    m=st.integers(1, 150),
    own=st.sampled_from([16, 32, 64]),
    other=st.sampled_from([16, 32, 64]),
    causal=st.booleans(),
)
def test_loops_visit_each_visible_tile_once_and_mask_those_not_wholly_visible(n, m, own, other, causal):
    m = n if causal else m
    tile = Tile(own, other, 4, 1)
    spec = Spec(causal, 1.0, Tiles(tile, tile, tile), True)
    seen = np.asarray(visible(NO_IDS, range(n), range(m), causal)) if causal else np.ones((n, m), bool)
    seen = np.pad(seen, ((0, -n % 64), (0, -m % 64)))
    walks = [(seen, n, lambda i: triton_tile.keys_to_visit(spec, tile, m, i, []))]
    # Queries of the overhang add nothing whatever the mask, so the keys' kernel asks only for queries that exist.
    walks.append((seen.T, m, lambda j: triton_tile.queries_to_visit(spec, tile, n, j, [])))
    for mask, length, walk in walks:
        for i in range(-(-length // own)):
            visits = walk(i)
            whole, part = ([int(index(t)) for t in range(int(count))] for count, index in visits)
            assert len(set(whole + part)) == len(whole + part)
            rows = mask[i * own : (i + 1) * own][: length - i * own]
            for j in range(mask.shape[1] // other):
                tile_mask = rows[:, j * other : (j + 1) * other]
                assert j in whole + part or not tile_mask.any()
                assert j not in whole or tile_mask.all()


def shapes(n, h, kv, c, masks, dtype=jnp.bfloat16, rows=2, sharding=None):
    like = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # noqa: E731
    q, k, ids = like((rows, n, h, c), dtype), like((rows, n, kv, c), dtype), like((rows, n), jnp.int32)
    return (q, k, k, *ids_of(masks, ids, ids), q)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("c", WIDTHS)
def test_kernels_lower_without_a_gpu(c, masks, causal):
    args = shapes(577, 4, 2, c, masks)
    text = lowered_for("NVIDIA H200", "cuda", jax.grad(loss, (2, 3, 4)), (0, 1), "pallas_triton", causal, *args)
    assert text.count(CALL) == 3  # forward, dq, dk and dv


def test_float32_and_float16_lower_for_gpus():
    for dtype in (jnp.float32, jnp.float16):
        args = shapes(100, 2, 1, 72, "branches", dtype)
        text = lowered_for("NVIDIA H200", "cuda", jax.grad(loss, (2, 3, 4)), (0, 1), "pallas_triton", True, *args)
        assert text.count(CALL) == 3


# ViT-B/16, SigLIP So400m and giant-opt, a tower of width 80; Qwen2.5 0.5B and 1.5B, a pair, 7B.
MODELS = [
    (577, 12, 12, 64, False, "none"),
    (576, 16, 16, 72, False, "none"),
    (729, 16, 16, 72, False, "none"),
    (576, 16, 16, 96, False, "none"),
    (1024, 16, 16, 80, False, "segments"),
    (2048, 14, 2, 64, True, "segments"),
    (2048, 12, 2, 128, True, "segments"),
    (768, 14, 2, 64, True, "branches"),
    (1537, 12, 2, 128, True, "branches"),
    (4096, 28, 4, 128, True, "segments"),
]


@pytest.mark.heavy
@needs_plugin
@pytest.mark.parametrize(("n", "h", "kv", "c", "causal", "masks"), MODELS)
def test_kernels_compile_for_an_h200_without_spilling_registers(n, h, kv, c, causal, masks):
    devices = topology.find("h200-1").devices
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    args = shapes(n, h, kv, c, masks, sharding=NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss, (2, 3, 4)), static_argnums=(0, 1))
        lowered = step.trace("pallas_triton", causal, *args).lower()
    strict = {"xla_gpu_fail_ptx_compilation_on_register_spilling": True, "xla_backend_optimization_level": 3}
    assert lowered.compile(compiler_options=strict).memory_analysis() is not None


@pytest.mark.parametrize(
    ("c", "dtype", "platform", "message"),
    [
        (136, jnp.bfloat16, "cpu", "supports heads up to 128; got 136"),
        (64, jnp.int8, "cpu", "all in bfloat16, float16 or float32; got int8"),
        (64, jnp.bfloat16, "tpu", "does not run on TPUs"),
    ],
)
def test_unsupported_arguments_of_triton_raise_an_error(c, dtype, platform, message, monkeypatch):
    monkeypatch.setattr(triton, "platform", lambda: platform)
    x = jnp.zeros((1, 8, 2, c), dtype)
    with pytest.raises(ValueError, match=message):
        attention(x, x, x, causal=True, backend="pallas_triton")


def cudnn_loss(causal, q, k, v):
    return jnp.sum(attention(q, k, v, causal=causal, backend="cudnn").astype(jnp.float32))


@pytest.mark.parametrize(("n", "lengths"), [(576, False), (729, True)])
@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_lowers_without_a_gpu(n, lengths, causal, monkeypatch):
    """Odd lengths get a token of padding and lengths that mask it. JAX asks for the version of an installed cuDNN."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91200)
    q, k, v, *_ = shapes(n, 16, 8, 72, "none")
    text = lowered_for("NVIDIA H200", "cuda", jax.grad(cudnn_loss, (1, 2, 3)), (0,), causal, q, k, v)
    assert "__cudnn$fmhaSoftmax" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text
    assert (f"{n + 1}x16x72xbf16" in text) is lengths
    assert ("PADDING" in text) is lengths


@pytest.mark.parametrize(
    ("c", "dtype", "segments", "platform", "message"),
    [
        (64, jnp.bfloat16, False, "cpu", "'cudnn' runs on NVIDIA GPUs only; use 'auto', 'pallas_triton' or 'xla'"),
        (64, jnp.bfloat16, True, "gpu", "does not support segment or branch ids"),
        (64, jnp.float32, False, "gpu", "all in bfloat16 or float16; got float32"),
        (68, jnp.bfloat16, False, "gpu", "multiple of 8 up to 128; got 68"),
        (136, jnp.bfloat16, False, "gpu", "multiple of 8 up to 128; got 136"),
    ],
)
def test_unsupported_arguments_of_cudnn_raise_an_error(c, dtype, segments, platform, message, monkeypatch):
    monkeypatch.setattr(cudnn, "platform", lambda: platform)
    x, ids = jnp.zeros((1, 8, 2, c), dtype), jnp.ones((1, 8), int) if segments else None
    with pytest.raises(ValueError, match=message):
        attention(x, x, x, causal=True, ids=Ids.same(ids), backend="cudnn")
