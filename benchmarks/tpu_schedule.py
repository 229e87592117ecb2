"""Our attention kernels compiled for TPUs that are not present: do they compile, and how long are their schedules?

    pip install "pivot-jax[tpu]"; python benchmarks/tpu_schedule.py

libtpu writes the final VLIW schedule of every kernel. The script counts all bundles of a kernel (its code) and its hot
bundles, from the first to the last matmul bundle of each tile variant. On v5p it does the same for JAX's splash
attention at the same shape. Splash needs lengths that are multiples of 128, so 576 and 729 tokens are padded to 640 and
768 for it and masked by segment ids. The sampler's decode attention is compared with nothing: it reads the cache once.

This is a static figure. It does not include memory stalls or how often a tile runs, and it was not compared with a real
TPU. It serves to compare two kernels that do the same work per tile.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from model_shapes import SHAPES

TARGETS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
KERNELS = (
    "decode_attention",
    "attention_forward",
    "attention_backward",
    "splash_mha_fwd",
    "splash_mha_dq",
    "splash_mha_dkv",
)
# Decode attention of the sampler: rows, query heads, key/value heads, width, cached tokens.
DECODE = {
    "decode, Qwen2.5-1.5B, 64 rows": (64, 12, 2, 128, 2048),
    "decode, Qwen2.5-7B, 64 rows": (64, 28, 4, 128, 2048),
}
_GAP = 60  # bundles without a matmul that separate two tile variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "tpu_schedule.json")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--cases", nargs="+", default=["attention", "decode"], choices=["attention", "decode"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.cases)
        return
    found = {}
    for target in args.targets:
        lines = subprocess.run(
            [sys.executable, __file__, "--child", target, "--cases", *args.cases],
            env=quiet_environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.splitlines()
        found[target] = json.loads(lines[-1])
        for name, kernels in found[target].items():
            print(f"{target:5}{name:30}{show(kernels)}", flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    content = {"command": "python benchmarks/tpu_schedule.py", "versions": versions, "results": found}
    measure.write_json(args.json, content)
    print(f"written: {args.json}")


def show(kernels: dict[str, Any]) -> str:
    if "error" in kernels:
        return f"does not compile: {kernels['error']}"
    return "  ".join(f"{name} {'/'.join(map(str, x['hot']))} of {x['all']}" for name, x in kernels.items())


def quiet_environment() -> dict[str, str]:
    """For a process that only compiles: it does not search for hardware, and two may run at the same time."""
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    quiet |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    return os.environ | quiet | {"TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}


def child(target: str, cases: list[str]) -> None:
    """Compiles everything for one target; prints one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        import jax
        import numpy as np
        from jax.experimental import topologies
        from jax.sharding import AxisType, Mesh

        devices = topologies.get_topology_desc(platform="tpu", topology_name=TARGETS[target]).devices
        mesh = Mesh(np.asarray(devices[:1]), ("data",), axis_types=(AxisType.Auto,))
        found = {}
        shapes: dict[str, Any] = {**(SHAPES if "attention" in cases else {}), **(DECODE if "decode" in cases else {})}
        for name, shape in shapes.items():
            sides = [ours] if target != "v5p" or shape[-1] == "branches" else [ours, splash]
            sides = [decode] if name in DECODE else sides
            kernels: dict[str, Any] = {}
            for side in sides:
                try:
                    compiled(side(shape), mesh)
                except jax.errors.JaxRuntimeError as error:
                    kernels["error"] = str(error).splitlines()[0]
                kernels |= schedules(Path(folder))
            found[name] = kernels
    print(json.dumps(found))


def compiled(step: tuple[Any, tuple[Any, ...]], mesh: Any) -> None:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    function, arguments = step
    sharding = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        jax.jit(function).lower(*(jax.ShapeDtypeStruct(*x, sharding=sharding) for x in arguments)).compile()


def ours(shape: tuple[int, int, int, int, bool, str]) -> tuple[Any, tuple[Any, ...]]:
    """(forward and gradients, shapes of their arguments)."""
    import jax
    import jax.numpy as jnp

    from pivot_jax.kernels.attention import attention
    from pivot_jax.kernels.mask import Ids

    n, h, kv, c, causal, mask = shape

    def step(q, k, v, ids, d_out):
        found = Ids() if mask == "none" else Ids.same(ids, ids if mask == "branches" else None)
        out, pull = jax.vjp(lambda *x: attention(*x, causal=causal, backend="pallas_tpu", ids=found), q, k, v)
        return out, pull(d_out)

    q, k = ((1, n, h, c), jnp.bfloat16), ((1, n, kv, c), jnp.bfloat16)
    return step, (q, k, k, ((1, n), jnp.int32), q)


def decode(shape: tuple[int, int, int, int, int]) -> tuple[Any, tuple[Any, ...]]:
    """(a token's attention to a cache, shapes of its arguments)."""
    import jax.numpy as jnp

    from pivot_jax.kernels.decode import Part, decode_attention

    rows, h, kv, c, s = shape

    def step(q, keys, values, lengths, own, count):
        return decode_attention(q, Part(own, own, count), Part(keys, values, lengths), backend="pallas_tpu")

    cached, own = ((rows, kv, s, c), jnp.bfloat16), ((rows, kv, 128, c), jnp.bfloat16)
    return step, (((rows, h, c), jnp.bfloat16), cached, cached, ((rows,), jnp.int32), own, ((rows,), jnp.int32))


def splash(shape: tuple[int, int, int, int, bool, str]) -> tuple[Any, tuple[Any, ...]]:
    """The same with splash attention; keys and values repeated for grouped queries, tiles as large as ours."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    from pivot_jax.kernels.tpu.attention import choose_tiles
    from pivot_jax.shapes import round_up

    n, h, _, c, causal, _ = shape
    n = round_up(n, 128)
    side = round_up(choose_tiles(n, n).both.keys, 128)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    sizes = kernel.BlockSizes(**dict.fromkeys((*names, "block_q_dq", "block_kv_dq"), side))
    mask = masks.MultiHeadMask([masks.CausalMask((n, n)) if causal else masks.FullMask((n, n))] * h)
    attend = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)

    def step(q, k, v, ids, d_out):
        out, pull = jax.vjp(lambda *x: attend(*x, kernel.SegmentIds(ids, ids)), q, k, v)
        return out, pull(d_out)

    q = ((h, n, c), jnp.bfloat16)
    return step, (q, q, q, ((n,), jnp.int32), q)


def schedules(folder: Path) -> dict[str, dict[str, Any]]:
    """Bundles of the kernels dumped since the last call, all and hot per tile variant; clears the folder."""
    found = {}
    for path in sorted(folder.glob("*final_hlo-static-per-bundle-utilization.txt")):
        kernel = next((name for name in KERNELS if name in path.name), None)
        if kernel:
            rows = [
                line.split()
                for line in path.read_text().split("== UTILIZATION:")[1].splitlines()
                if re.match(r"\d", line)
            ]
            found[kernel] = {"all": len(rows), "hot": hot([int(row[0]) for row in rows])}
    for path in folder.iterdir():
        path.unlink()
    return found


def hot(matmuls: list[int]) -> list[int]:
    """Lengths of the runs of bundles from first to last matmul; a gap of :data:`_GAP` starts a new run."""
    indices = [i for i, used in enumerate(matmuls) if used]
    ends = [i for i, (a, b) in enumerate(itertools.pairwise(indices)) if b - a > _GAP]
    starts = [0, *(i + 1 for i in ends)]
    return [indices[b] - indices[a] + 1 for a, b in zip(starts, [*ends, len(indices) - 1], strict=True)]


if __name__ == "__main__":
    main()
