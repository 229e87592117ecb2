"""A leaf per layer compared with stacked parameters, unrolled and scanned, on the CPU.

    python benchmarks/layer_leaves.py [--rounds 15] [--json benchmarks/results/layer_leaves.json]

* The training step of a tower of 8 MLPs with AdamW, through the package's stack, optimizer and layouts.
* The SFT step of ``cpu_step.py``'s model.
* The matmuls of a decode step: 30 layers with the dimensions of SmolLM2-135M and 32 rows, eight steps in a loop.

All sides of a comparison run in this process and take turns, a step each. float32.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Record

SIDES = ("leaf per layer", "stacked, unrolled", "stacked, scanned")
THREADS = 2


def tower_steps(width: int = 1024, hidden: int = 4096, depth: int = 8, tokens: int = 256) -> dict[str, Callable]:
    """Side → one training step of an MLP tower; parameters and moments are donated, as in a run."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    from pivot_jax import config as configs
    from pivot_jax import rules
    from pivot_jax.models import layers, stacking
    from pivot_jax.optim import adamw

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> tuple[Any, None]:
            return x + layers.MLP(hidden, "gelu_tanh", name="mlp")(x), None

    class Tower(nn.Module):
        scan: bool

        def setup(self) -> None:
            self.blocks = layers.Stack(Block, (), depth, "none", self.scan, ())

        def __call__(self, x: Any) -> Any:
            return self.blocks(x)[0]

    x = jax.random.normal(jax.random.key(1), (1, tokens, width))

    def step_of(side: str) -> Callable:
        tower = Tower(side.endswith("scanned"))
        params = {"tower": tower.init(jax.random.key(0), x)["params"]}
        params = stacking.per_layer(params) if side == SIDES[0] else params
        tx = adamw.build_optimizer(configs.base().optimizer, dict.fromkeys(rules.flatten(params), 1e-4), 1000)

        def step(params: Any, moments: Any) -> tuple[Any, Any, Any]:
            loss = lambda params: jnp.mean(tower.apply({"params": params["tower"]}, x) ** 2)  # noqa: E731
            value, gradients = jax.value_and_grad(loss)(params)
            factor = jnp.minimum(1.0, 1.0 / (optax.tree.norm(gradients) + 1e-6))
            updates, moments = tx.update(jax.tree.map(lambda g: g * factor, gradients), moments, params)
            return optax.apply_updates(params, updates), moments, value

        compiled = jax.jit(step, donate_argnums=(0, 1))
        state = [params, jax.jit(tx.init)(params)]

        def run() -> None:
            *state[:], value = compiled(*state)
            value.block_until_ready()

        return run

    return {side: step_of(side) for side in SIDES}


def sft_steps(rows: int = 4) -> dict[str, Callable]:
    """Side → one SFT step of ``cpu_step.py``'s model: 22.6M parameters, 320 tokens a row."""
    import jax
    from cpu_step import PATCHES, RATE, VOCAB, JaxSide, make_data, model_config, unrolled

    from pivot_jax import config as configs
    from pivot_jax.models import stacking
    from pivot_jax.models.mllm import MLLM, init_params
    from pivot_jax.objectives.table import build_objective
    from pivot_jax.optim.update import build_step
    from pivot_jax.parallel.mesh import make_mesh
    from pivot_jax.train.model import Model
    from pivot_jax.train.setup import assemble, starting_params

    config = configs.base()
    config.optimizer.rules = ((".*", RATE),)
    config.optimizer.schedule, config.optimizer.warmup_ratio = "constant", 0.0
    maker: Any = JaxSide.__new__(JaxSide)
    maker.task = "sft"
    batch = jax.device_put(maker._batch(make_data(rows)), jax.devices()[0])
    assert batch.tokens.shape[1] > PATCHES and batch.tokens.max() < VOCAB

    def step_of(side: str) -> Callable:
        module = MLLM(model_config() if side.endswith("scanned") else unrolled(model_config(), "none"))
        model = Model(module, lambda key: init_params(module, key))
        mesh, steps = make_mesh(config.parallel, jax.devices()[:1]), argparse.Namespace(total_steps=1000)
        setup = assemble(config, mesh, steps, model, build_objective(module, config))
        state, compiled = [setup.fresh_state(starting_params(setup))], setup.compiled_step()
        if side == SIDES[1]:
            own = build_step(setup.objective, setup.optimizer, clip=config.optimizer.clip, accumulate=1)
            state, compiled = [stacking.stacked(state[0])], jax.jit(own, donate_argnums=0)

        def run() -> None:
            with jax.set_mesh(mesh):
                state[0], metrics = compiled(state[0], batch, None)
            metrics["loss"].block_until_ready()

        return run

    return {side: step_of(side) for side in SIDES}


def decode_steps(depth: int = 30, rows: int = 32, steps: int = 8) -> dict[str, Callable]:
    """Side → the matmuls of ``steps`` decode steps in a loop."""
    import jax
    import jax.numpy as jnp

    from pivot_jax.models import stacking
    from pivot_jax.models.layers import linear

    d, kv, f = 576, 192, 1536
    shapes = {"q": (d, d), "k": (d, kv), "v": (d, kv), "out": (d, d), "gate": (d, f), "up": (d, f), "down": (f, d)}
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=(depth, *shape)).astype(np.float32) / shape[0] ** 0.5)  # noqa: E731
    blocks = {"decoder": {"blocks": {name: draw(shape) for name, shape in shapes.items()}}}

    def layer(x: Any, own: Any) -> tuple[Any, None]:
        q, k, v = (linear(x, own[name]) for name in "qkv")
        x = 0.5 * (x + linear(q + jnp.concatenate([k, k, k], -1) + jnp.concatenate([v, v, v], -1), own["out"]))
        return 0.5 * (x + linear(jax.nn.silu(linear(x, own["gate"])) * linear(x, own["up"]), own["down"])), None

    def step(x: Any, params: Any, scan: bool) -> Any:
        own = params["decoder"]["blocks"]
        if scan:
            return jax.lax.scan(layer, x, own)[0]
        for i in range(depth):
            x, _ = layer(x, stacking.layer(own, i))
        return x

    def step_of(side: str) -> Callable:
        params = stacking.per_layer(blocks) if side == SIDES[0] else blocks
        loop = jax.jit(
            lambda params, x: jax.lax.fori_loop(0, steps, lambda _, x: step(x, params, side.endswith("scanned")), x)
        )
        x = jnp.ones((rows, d))

        def run() -> None:
            loop(params, x).block_until_ready()

        return run

    return {side: step_of(side) for side in SIDES}


CASES: dict[str, Callable[[], dict[str, Callable]]] = {
    "MLP tower": tower_steps,
    "SFT step": sft_steps,
    "decode matmuls": decode_steps,
}


def turns(sides: dict[str, Callable], rounds: int, warmup: int = 3) -> tuple[dict[str, list], dict[str, list]]:
    """Seconds, and CPU seconds of all threads, by side.

    Other processes distort the second less, and least the fastest step.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    cpu_seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(warmup + rounds):
        for side, run in sides.items():
            begin, busy = time.perf_counter(), time.process_time()
            run()
            if turn >= warmup:
                seconds[side].append(time.perf_counter() - begin)
                cpu_seconds[side].append(time.process_time() - busy)
    return seconds, cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "layer_leaves.json")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    from pivot_jax.parallel import runtime

    runtime.keep_freed_memory()
    record = Record(args.json, "cpu")
    for case in args.cases:
        seconds, cpu_seconds = turns(CASES[case](), args.rounds)
        base, found = seconds[SIDES[1]], {}
        for side, own in seconds.items():
            ratio = measure.summary([x / y for x, y in zip(own, base, strict=True)])
            found[side] = {
                "seconds": measure.summary(own) | {"fastest": min(own)},
                "cpu_seconds": measure.summary(cpu_seconds[side]) | {"fastest": min(cpu_seconds[side])},
                "of_unrolled": ratio,
            }
            print(
                f"{case:16}{side:20}{ratio['median']:6.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
                + "".join(
                    f"   {key} {found[side][key]['median']:.3f} (fastest {found[side][key]['fastest']:.3f})"
                    for key in ("seconds", "cpu_seconds")
                ),
                flush=True,
            )
        record.add(case, found)
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
