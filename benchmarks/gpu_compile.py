"""Our attention kernels compiled for an H200 that is not present: do they compile, and do they fit its registers?

    pip install "pivot-jax[cuda]"; python benchmarks/gpu_compile.py

For every shape and GPU backend, forward and gradients are compiled ahead of time. The figures per kernel are those of
ptxas, registers per thread and bytes of registers spilled to memory (stored and loaded), and the shared memory of a
program. Mosaic kernels move registers between their warpgroups when they run; the figure is the number at their start.

No time is measured. A spill outside the loops has no significant cost. The results show that nothing overflows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from model_shapes import SHAPES

_PTXAS = re.compile(
    r"entry function '(?P<name>\w+)' for.*?(?P<stored>\d+) bytes spill stores, (?P<loaded>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def main() -> None:
    from pivot_jax.kernels.attention import BACKENDS

    backends = [name for name in BACKENDS if name.startswith("pallas_") and name != "pallas_tpu"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "gpu_compile.json")
    parser.add_argument("--backends", nargs="+", default=backends, choices=backends)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES, metavar="SHAPE")
    parser.add_argument("--rows", type=int, default=8, help="rows of the batch")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, args.rows)
        return
    found: dict[str, Any] = {}
    for backend in args.backends:
        for shape in args.shapes:
            kernels = compiled_kernels(backend, shape, args.rows)
            found.setdefault(backend, {})[shape] = kernels
            print(f"{backend:15}{shape:30}{show(kernels)}", flush=True)
    packages = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cuda-nvcc")
    versions = {name: importlib.metadata.version(name) for name in packages}
    command = f"python benchmarks/gpu_compile.py --rows {args.rows}"
    content = {"command": command, "target": "NVIDIA H200", "versions": versions, "results": found}
    measure.write_json(args.json, content)
    print(f"written: {args.json}")


def show(kernels: dict[str, Any]) -> str:
    if "error" in kernels:
        return f"does not compile: {kernels['error']}"
    line = "{} {registers} registers, {spill_stores}+{spill_loads} B spilled, {shared_memory} B shared"
    return "  ".join(line.format(name, **figures) for name, figures in kernels.items())


def compiled_kernels(backend: str, shape: str, rows: int) -> dict[str, Any]:
    """Figures by kernel, from the compilers' output: Mosaic writes files, XLA a log and a list of kernels."""
    with tempfile.TemporaryDirectory() as folder:
        switches = {"JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_PTXAS": "1", "MOSAIC_GPU_DUMP_TO": folder}
        switches |= {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "subprocess_compilation=3"}
        switches["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder}"
        command = [sys.executable, __file__, "--rows", str(rows), "--child", backend, shape]
        run = subprocess.run(
            command, env=os.environ | switches, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if run.returncode:
            return {"error": run.stdout.strip().splitlines()[-1]}
        files = Path(folder)
        log = run.stdout + "".join(path.read_text() for path in sorted(files.glob("*.ptxas")))
        shared = shared_memory(files)
        found = {}
        for match in _PTXAS.finditer(log):
            name = match["name"].removesuffix("_mosaic_gpu_kernel")
            if "attention" in name:
                figures = {"registers": match["registers"], "spill_stores": match["stored"]}
                figures |= {"spill_loads": match["loaded"], "shared_memory": shared.get(name)}
                found[name] = {key: value if value is None else int(value) for key, value in figures.items()}
        return found


def shared_memory(folder: Path) -> dict[str, str]:
    """Bytes by kernel."""
    found = {}
    for path in folder.glob("*.resources.txt"):
        name = re.sub(r"_\d+\.resources\.txt$", "", path.name)
        found[name] = path.read_text().split("smem_scratch_bytes=")[1].split(",")[0]
    for path in folder.glob("*.thunk_sequence.txt"):
        for name, size in re.findall(r"\] (\w+) grid: .* shared_memory: (\d+) bytes", path.read_text()):
            found[name] = size
    return found


def child(backend: str, shape: str, rows: int) -> None:
    """Compiles one step for one H200. The last line of its output is the error, if any."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from pivot_jax.kernels.attention import attention
    from pivot_jax.kernels.mask import Ids
    from pivot_jax.plan.topology import CHIPS, gpu_target

    n, h, kv, c, causal, mask = SHAPES[shape]
    target = gpu_target(CHIPS["h200"])
    devices = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=target).devices
    mesh = Mesh(np.asarray(devices[:1]), ("data",), axis_types=(AxisType.Auto,))

    def step(q, k, v, ids, d_out):
        found = Ids() if mask == "none" else Ids.same(ids, ids if mask == "branches" else None)
        out, pull = jax.vjp(lambda *x: attention(*x, causal=causal, backend=backend, ids=found), q, k, v)
        return out, pull(d_out)

    sharding = NamedSharding(mesh, PartitionSpec())
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # noqa: E731
    q, k = array(rows, n, h, c), array(rows, n, kv, c)
    with jax.set_mesh(mesh):
        jax.jit(step).lower(q, k, k, array(rows, n, dtype=jnp.int32), q).compile()


if __name__ == "__main__":
    main()
