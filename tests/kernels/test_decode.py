"""Decode attention: every backend compared with the dense reference in float64, and compiled for TPUs."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.decode import BACKENDS, Part, decode_attention
from pivot_jax.kernels.tpu import decode as kernel

FAST = [backend for backend in BACKENDS if backend != "reference"]


def draw(prompts, n, heads, c, slots, *, seed=0, dtype=np.float32):
    """(q, own, prompt) with NaN after random lengths; the first prompt is full, the first own part empty."""
    rng = np.random.default_rng(seed)
    h, kv = heads
    parts = []
    for rows, s, first in ((prompts * n, slots[0], 0), (prompts, slots[1], slots[1])):
        lengths = np.concatenate([[first], rng.integers(0, s + 1, rows - 1)]).astype(np.int32)
        shape = (rows, kv, s, c)
        after = (np.arange(s)[None, :] >= lengths[:, None])[:, None, :, None]
        keys, values = (jnp.asarray(np.where(after, np.nan, rng.normal(size=shape)), dtype) for _ in range(2))
        parts.append(Part(keys, values, jnp.asarray(lengths)))
    return jnp.asarray(rng.normal(size=(prompts * n, h, c)), dtype), *parts


@functools.partial(jax.jit, static_argnames=("backend", "scale"))
def run(q, own, prompt, *, backend, scale=None):
    return decode_attention(q, own, prompt, scale=scale, backend=backend)


def expected(q, own, prompt):
    with jax.enable_x64(True):
        wide = lambda x: jnp.asarray(np.asarray(x, np.float64 if x.ndim > 1 else x.dtype))  # noqa: E731
        return np.asarray(run(*jax.tree.map(wide, (q, own, prompt)), backend="reference"))


def compare(backend, q, own, prompt):
    got = run(q, own, prompt, backend=backend)
    assert got.dtype == q.dtype and got.shape == q.shape
    tolerance = 2e-6 if q.dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(np.asarray(got, np.float64), expected(q, own, prompt), atol=tolerance)


# prompts, responses, heads, width, (own, prompt slots): lengths of one block, of several, and within a block.
CASES = [
    (3, 1, (4, 2), 8, (9, 17)),
    (2, 4, (6, 1), 80, (5, 300)),
    (2, 3, (4, 4), 128, (1, 128)),
    (2, 2, (2, 1), 64, (300, 1)),
    (3, 2, (4, 2), 64, (257, 384)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", FAST)
def test_backends_equal_the_reference(monkeypatch, backend, case):
    monkeypatch.setattr(kernel, "_BLOCK_BYTES", 1)  # blocks of 128
    compare(backend, *draw(*case))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_stays_within_its_rounding(backend):
    compare(backend, *draw(2, 2, (4, 2), 16, (20, 40), dtype=jnp.bfloat16))


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(
    backend=st.sampled_from(FAST),
    prompts=st.integers(1, 4),
    n=st.sampled_from([1, 2, 5, 8]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3), (14, 2)]),
    c=st.sampled_from([8, 64, 72, 80, 96, 128]),
    slots=st.tuples(st.integers(0, 600), st.integers(0, 600)),
    blocks=st.sampled_from([1, 1 << 19]),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
def test_backends_equal_the_reference_on_wide_draws(backend, prompts, n, heads, c, slots, blocks, half, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_BLOCK_BYTES", blocks)
        run.clear_cache()  # the size of a block is not an argument of the program
        compare(backend, *draw(prompts, n, heads, c, slots, seed=seed, dtype=jnp.bfloat16 if half else np.float32))


def test_blocks_are_measured_in_bytes():
    assert kernel.block_size(2, 128, 2) == 512 and kernel.block_size(2, 64, 2) == 512  # 64 lanes occupy 128
    assert kernel.block_size(4, 128, 2) == 256 and kernel.block_size(32, 128, 4) == 128


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_attention_over_the_same_keys(backend):
    """A closed form: one row with both parts full is attention of one query to all keys."""
    q, own, prompt = draw(1, 1, (4, 2), 8, (6, 5), seed=4)
    own = own.replace(keys=jnp.ones_like(own.keys), values=jnp.ones_like(own.values), lengths=jnp.asarray([6]))
    keys, values = (
        jnp.concatenate(pair, axis=2).swapaxes(1, 2) for pair in ((prompt.keys, own.keys), (prompt.values, own.values))
    )
    want = attention(q[:, None], keys, values, causal=False, scale=0.3, backend="reference")[:, 0]
    np.testing.assert_allclose(run(q, own, prompt, backend=backend, scale=0.3), want, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fully_masked_rows_return_zeros(backend):
    q, own, prompt = draw(2, 2, (4, 2), 8, (9, 17))
    ones = jnp.ones_like(own.keys)
    own, prompt = Part(ones, ones, jnp.asarray([0, 3, 0, 9])), prompt.replace(lengths=jnp.asarray([17, 0]))
    out = np.asarray(run(q, own, prompt, backend=backend))
    assert (out[2] == 0).all() and np.isfinite(out).all()
    np.testing.assert_allclose(out[3], 1.0, atol=1e-6)  # only its own values, which are all 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("slots", [(0, 5), (5, 0), (0, 0)])
def test_a_part_without_slots(backend, slots):
    q, own, prompt = draw(2, 2, (4, 2), 8, slots)
    compare(backend, q, own, prompt)


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_scores_stay_finite(backend):
    q, own, prompt = draw(2, 2, (4, 2), 8, (9, 17))
    assert np.isfinite(run(q * 1e4, own, prompt, backend=backend)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_raises_an_error(backend):
    q, own, prompt = draw(1, 1, (1, 1), 8, (2, 2))
    with pytest.raises(ValueError, match="for inference only: it has no gradient"):
        jax.grad(lambda q: decode_attention(q, own, prompt, backend=backend).sum())(q)


# Qwen2.5 0.5B, 1.5B and 7B with groups of 8, a head width of 80 and one of 96, odd lengths.
# prompts, responses, heads, key/value heads, width, own slots, prompt slots
SHAPES = [
    (4, 8, 12, 2, 128, 1024, 1024),
    (2, 8, 14, 2, 64, 77, 1000),
    (2, 1, 28, 4, 128, 300, 1025),
    (2, 4, 16, 16, 80, 130, 729),
    (2, 4, 8, 8, 96, 1, 5),
]


def shapes_of(shape, **sharding):
    prompts, n, h, kv, c, s, p = shape
    array = functools.partial(jax.ShapeDtypeStruct, **sharding)

    def part(rows, slots):
        keys = array((rows, kv, slots, c), jnp.bfloat16)
        return Part(keys, keys, array((rows,), jnp.int32))

    rows = prompts * n
    return array((rows, h, c), jnp.bfloat16), part(rows, s), part(prompts, p)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_lowers_without_a_tpu(shape):
    device = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        text = run.trace(*shapes_of(shape), backend="auto").lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2  # one for the prompt's part, one for the own part


COMPILE = """
import json, sys
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tests.kernels.test_decode import SHAPES, run, shapes_of

devices = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1]).devices
mesh = Mesh(np.asarray(devices[:1]), ("data",), axis_types=(AxisType.Auto,))
found = []
with jax.set_mesh(mesh):
    for shape in SHAPES:
        arguments = shapes_of(shape, sharding=NamedSharding(mesh, PartitionSpec()))
        compiled = run.lower(*arguments, backend="auto").compile()
        found.append(compiled.memory_analysis().temp_size_in_bytes)
print(json.dumps(found))
"""


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_kernel_compiles_without_a_tpu(topology):
    """At Qwen2.5-1.5B's shape the 32 MiB of a layer's keys and values are not copied on their way into the kernel."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (pip install 'pivot-jax[tpu]')")
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    quiet |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, topology], env=os.environ | quiet, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])[0] < 2 << 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (4, 1, 4, 8)}, "needs q [b,h,c]"),
        ({"q": (4, 3, 8)}, "3 query heads are not a multiple of 2 key heads"),
        ({"own": (4, 9, 8)}, "needs own keys and values [rows,k,s,c]"),
        ({"own": (2, 4, 2, 9, 8)}, "needs own keys and values [rows,k,s,c]"),
        ({"prompt": (2, 2, 5, 7)}, "prompt keys (2, 2, 5, 7) do not fit q"),
        ({"prompt": (2, 1, 5, 8)}, "or the other part's heads"),
        ({"prompt": (3, 2, 5, 8)}, "4 queries, 4 own rows and 3 prompts"),
        ({"own": (2, 2, 9, 8)}, "4 queries, 2 own rows and 2 prompts"),
        ({"dtype": jnp.bfloat16}, "own keys and values are bfloat16 and bfloat16, q is float32"),
        ({"lengths": (3,)}, "own lengths (3,) do not fit keys"),
        ({"backend": "magic"}, "unknown; choose one of: auto, xla, xla_rows, pallas_tpu, reference"),
    ],
)
def test_bad_arguments_raise_an_error_that_names_them(change, message):
    def part(name, shape):
        keys = jnp.zeros(change.get(name, shape), change.get("dtype", jnp.float32))
        return Part(keys, keys, jnp.zeros(change.get("lengths", keys.shape[:1]), jnp.int32))

    q, own, prompt = jnp.zeros(change.get("q", (4, 4, 8))), part("own", (4, 2, 9, 8)), part("prompt", (2, 2, 5, 8))
    with pytest.raises(ValueError, match=re.escape(message)):
        decode_attention(q, own, prompt, backend=change.get("backend", "auto"))
