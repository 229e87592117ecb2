"""Memory and time of reading a checkpoint: ours onto eight CPU devices, and transformers' from_pretrained.

    python benchmarks/import_memory.py                   # 1.5 billion parameters, needs 16 GiB of memory
    python benchmarks/import_memory.py --params 2e8      # the same model with fewer layers and a smaller vocabulary

A random checkpoint of Qwen2.5-1.5B's dimensions in bfloat16 and 4 shards is written to a scratch folder, shard by
shard. Each read has its own process and thus its own peak; the files are in the page cache. Ours splits every
parameter over eight devices (``fsdp=8``) of the CPU. ``seconds`` end when one byte of every page of the weights was
read: transformers maps the parameters that it does not convert, and reads them at their first use.

``peak`` is the kernel's VmHWM minus the memory that the process held before. ``anonymous`` excludes mapped files, whose
pages the kernel may reclaim. ``above_weights`` is either of these without the weights themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Record, Side

SIDES = {
    "ours bfloat16": ("ours", "bfloat16"),
    "transformers bfloat16": ("transformers", "bfloat16"),
    "ours float32": ("ours", "float32"),
    "transformers float32": ("transformers", "float32"),
}
FULL = 1.54e9
BYTES = {"bfloat16": 2, "float32": 4}
SHARDS = 4


def write_checkpoint(folder: Path, parameters: float) -> tuple[int, int]:
    """Returns the number of parameters, and the size of our largest stacked parameter."""
    import dataclasses

    import ml_dtypes
    from safetensors.numpy import save_file

    from pivot_jax.hub import HubModel, configs, families, names
    from pivot_jax.models import zoo

    scale = min(1.0, parameters / FULL)
    full = zoo.DECODERS["Qwen/Qwen2.5-1.5B-Instruct"]
    cfg = dataclasses.replace(full, depth=max(1, round(full.depth * scale)), vocab_size=int(full.vocab_size * scale))
    model = HubModel("qwen2", decoder=cfg)
    entries, _ = names.entries(families.layout_of(model), configs.sizes(model))
    shapes = {key: entry.their_shape for entry in entries for key in entry.keys}
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    rng = np.random.default_rng(0)
    files: dict[str, str] = {}
    pending: dict[str, np.ndarray] = {}
    filled, shard = 0, 1
    for key, shape in shapes.items():
        bits = rng.integers(0, 1 << 16, shape, np.uint16) & 0x80FF | 0x3C00  # values of about 0.01, either sign
        pending[key] = bits.view(ml_dtypes.bfloat16)
        filled += bits.size
        name = f"model-{shard:05d}-of-{SHARDS:05d}.safetensors"
        files[key] = name
        if filled >= total * shard / SHARDS:
            save_file(pending, folder / name, metadata={"format": "pt"})
            pending, shard = {}, shard + 1
    index = {"metadata": {"total_size": 2 * total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    raw = families.text_of(cfg).write(cfg, "bfloat16")
    (folder / "config.json").write_text(json.dumps(raw))
    return total, max(int(np.prod(entry.shape)) for entry in entries)


class Reader:
    """One read in a new process."""

    def __init__(self, kind: str, dtype: str):
        started = time.perf_counter()
        self._dtype = dtype
        if kind == "ours":
            os.environ["JAX_PLATFORMS"] = "cpu"
            os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
            import jax

            from pivot_jax import hub
            from pivot_jax.parallel.mesh import fit, make_mesh

            mesh = make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
            self._arrays: Any = lambda held: (
                np.asarray(shard.data).reshape(-1) for x in jax.tree.leaves(held) for shard in x.addressable_shards
            )
            self._read: Any = lambda folder: hub.load_params(folder, _split(mesh, fit), getattr(jax.numpy, dtype))
        else:
            import torch
            from transformers import AutoModelForCausalLM, Qwen2ForCausalLM, logging  # noqa: F401 (imported in advance)

            logging.disable_progress_bar()
            self._arrays = lambda held: (p.detach().view(torch.uint8).reshape(-1).numpy() for p in held.parameters())
            self._read = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._ready = time.perf_counter() - started

    def read(self, folder: str) -> dict[str, float]:
        before = _status()
        with _Sampler() as sampler:
            started = time.perf_counter()
            held = self._read(folder)
            seconds = time.perf_counter() - started
            for array in self._arrays(held):  # mapped memory is loaded when it is first read
                array[:: 4096 // array.itemsize].copy()
            ready = time.perf_counter() - started
        after = _status()
        return {
            "seconds": ready,
            "returns_after_seconds": seconds,
            "start_seconds": self._ready,
            "peak": after["VmHWM"] - before["VmRSS"],
            "anonymous": sampler.most - before["RssAnon"],
            "held": after["VmRSS"] - before["VmRSS"],
            "process": after["VmHWM"],
        }


def _split(mesh: Any, fit: Any) -> Any:
    """Splits every parameter over all devices along its first divisible axis, other than the axis of layers."""
    from jax.sharding import NamedSharding, PartitionSpec

    def choose(path: str, shape: tuple[int, ...]) -> Any:
        axes = range(1 if "/blocks/" in path else 0, len(shape))
        first = next((axis for axis in axes if shape[axis] % 8 == 0), None)
        spec = [None] * len(shape)
        if first is not None:
            spec[first] = "fsdp"
        return NamedSharding(mesh, fit(PartitionSpec(*spec), shape, mesh))

    return choose


def _status() -> dict[str, int]:
    """Bytes by name, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}


class _Sampler(threading.Thread):
    """The maximum of anonymous memory, sampled every 10 ms."""

    def __enter__(self) -> _Sampler:
        self.most, self._done = 0, threading.Event()
        self.start()
        return self

    def run(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, _status()["RssAnon"])

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=FULL, help="parameters of the checkpoint (default 1.54e9)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="parent of the scratch folder (default: the system's)")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "import_memory.json")
    args = parser.parse_args()
    record = Record(args.json, "cpu, 8 devices of JAX")
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        total, largest = write_checkpoint(Path(scratch), args.params)
        record.content |= {"parameters": total, "largest_group": largest, "shards": SHARDS, "rounds": args.rounds}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        for _ in range(args.rounds):
            for name, (kind, dtype) in SIDES.items():
                side = Side(Reader, kind, dtype)
                runs[name].append(side.ask("read", scratch, limit=1800.0))
                side.close()
        print(f"{total / 1e9:.2f} billion parameters; MiB")
        print(f"{'':24}{'seconds':>9}{'peak':>9}{'above weights':>15}{'anonymous':>11}{'largest group':>15}")
        for name, found in runs.items():
            size = BYTES[SIDES[name][1]]
            middle = {key: measure.summary([one[key] for one in found]) for key in found[0]}
            above = {key: middle[key]["median"] - size * total for key in ("peak", "anonymous")}
            record.add(name, {"above_weights": above, "weights": size * total, "group": size * largest, **middle})
            peak, extra, anonymous = (x / 2**20 for x in (middle["peak"]["median"], *above.values()))
            line = f"{name:24}{middle['seconds']['median']:9.2f}{peak:9.0f}{extra:15.0f}{anonymous:11.0f}"
            print(f"{line}{size * largest / 2**20:15.0f}", flush=True)
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
