"""What the digests of a checkpoint cost: saving and restoring a train state of 135M parameters, with and without.

    python benchmarks/checkpoints.py [--rounds 5] [--json benchmarks/results/checkpoints.json]

The shapes are SmolLM2-135M's, with AdamW's two moments, float32: 1.6 GB of random values. Both sides take turns in one
process and write to the same folder. A save is timed until it is on disk.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
from measure import Record

SIDES = ("with digests", "without")


def random_state() -> Any:
    import jax
    import numpy as np

    from pivot_jax import rules
    from pivot_jax.models.stacking import per_layer
    from pivot_jax.optim.update import TrainState

    layers, width, hidden, vocabulary, keys = 30, 576, 1536, 49152, 192
    shapes = {"embed": (vocabulary, width), "norm/scale": (width,)}
    shapes |= {f"blocks/{name}/scale": (layers, width) for name in ("norm1", "norm2")}
    shapes |= {f"blocks/attn/{name}/kernel": (layers, width, width) for name in ("q", "out")}
    shapes |= {f"blocks/attn/{name}/kernel": (layers, width, keys) for name in ("k", "v")}
    shapes |= {f"blocks/mlp/{name}/kernel": (layers, width, hidden) for name in ("gate", "up")}
    shapes |= {"blocks/mlp/down/kernel": (layers, hidden, width)}
    random = np.random.default_rng(0)
    trees = []
    for _ in range(3):
        flat = {f"decoder/{path}": random.standard_normal(shape, np.float32) for path, shape in shapes.items()}
        trees.append(jax.device_put(per_layer(rules.unflatten(flat))))
    params, mu, nu = trees
    return TrainState(jax.numpy.int32(7), params, {}, {"mu": mu, "nu": nu}, None, jax.numpy.bool_(True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "checkpoints.json")
    arguments = parser.parse_args()

    import jax

    from pivot_jax.train import digests
    from pivot_jax.train.checkpoints import Checkpoints

    record = Record(arguments.json, "cpu")
    state = random_state()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    of_checkpoint, of_tree, read = digests.of_checkpoint, digests.of_tree, digests.read
    times: dict[str, dict[str, list[float]]] = {side: {"save": [], "restore": []} for side in SIDES}
    alone = []
    for number in range(arguments.rounds + 1):  # the first round warms up
        for side in SIDES if number % 2 else SIDES[::-1]:
            own = side == "with digests"
            digests.of_checkpoint = of_checkpoint if own else lambda *_: digests.Digests({}, "")
            digests.of_tree = of_tree if own else lambda tree: {}
            digests.read = read if own else lambda folder: None
            folder = Path(tempfile.mkdtemp(dir="."))
            try:
                checkpoints = Checkpoints(folder)
                began = time.perf_counter()
                checkpoints.save(1, state, {})
                checkpoints.wait()
                saved = time.perf_counter()
                jax.block_until_ready(checkpoints.restore(1, like))
                restored = time.perf_counter()
                checkpoints.close()
            finally:
                shutil.rmtree(folder)
            if number:
                times[side]["save"].append(saved - began)
                times[side]["restore"].append(restored - saved)
        digests.of_tree = of_tree
        began = time.perf_counter()
        of_checkpoint(state, {})
        alone.append(time.perf_counter() - began)
    for what in ("save", "restore"):
        for side in SIDES:
            add(record, f"{what}, {side}", times[side][what])
    add(record, "digests alone", alone[1:])
    print(f"written: {record.path}")


def add(record: Record, name: str, seconds: list[float]) -> None:
    found = {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}
    record.add(name, found)
    print(f"{name:<24}" + "".join(f"{key} {value:7.2f}  " for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
