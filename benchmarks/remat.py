"""The cost of each remat policy in time, and its saving in memory.

    python benchmarks/remat.py                                                 # timed on this CPU
    pip install "pivot-jax[tpu]"; python benchmarks/remat.py --topology v5p-8  # full size, compiled only

On the CPU the policies take turns with the SFT step of ``cpu_step.py``, one process each; MiB are the temporaries by
XLA's count. With a topology, ``pivot-jax plan`` compiles the DPO step of ``plans.py`` for it, once per policy, and
reports temporaries and FLOPs; nothing runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import plans
from cpu_step import JaxSide, model_config
from measure import Record, Side

POLICIES = ("none", "dots", "full")
ROWS, THREADS = 4, 2


class Step(JaxSide):
    """Our SFT step with one policy."""

    def __init__(self, folder: Path, remat: str):
        super().__init__(folder, "sft", ROWS, THREADS, remat)

    def temporaries(self) -> int:
        with self.jax.set_mesh(self.mesh):
            compiled = self.run.lower(self.state, self.batch, self.reference).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def timed(self) -> float:
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


def on_cpu(record: Record, rounds: int) -> None:
    import jax

    from pivot_jax import hub
    from pivot_jax.models.mllm import MLLM, init_params

    cfg = model_config()
    params = jax.jit(lambda key: init_params(MLLM(cfg), key))(jax.random.key(0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = hub.export_mllm(params, cfg, Path(scratch) / "start", text=hub.ExportText(image_token=5))
        sides = {policy: Side(Step, folder, policy) for policy in POLICIES}
        memory = {policy: side.ask("temporaries", limit=600.0) for policy, side in sides.items()}
        turns = {policy: lambda side=side: side.ask("timed", limit=600.0) for policy, side in sides.items()}
        times, dropped = measure.take_turns(turns, rounds, warmup=2)
        for policy, reason in dropped.items():
            record.leave_out(policy, reason)
        for policy, found in times.items():
            ratios = [x / y for x, y in zip(found, times["none"], strict=True)]
            result = {"seconds": measure.summary(found), "of_none": measure.summary(ratios)}
            record.add(policy, result | {"temporaries": memory[policy]})
            print(
                f"{policy:16}{result['seconds']['median']:8.3f} s{result['of_none']['median']:8.2f} "
                f"[{result['of_none']['low']:.2f}, {result['of_none']['high']:.2f}]{memory[policy] / 2**20:10.0f} MiB",
                flush=True,
            )
        for side in sides.values():
            side.close()


def planned(record: Record, topology: str, rows: int) -> None:
    for policy in POLICIES:
        both = [f"--config.model.{tower}.remat={policy}" for tower in ("vision", "decoder")]
        found = plans.planned("1.5B", topology, "O1", [*both, f"--config.data.batch_size={rows}"], search=False)
        record.add(f"{topology} {policy}", found)
        if "error" in found:
            print(f"{policy:16}{found['error']}", flush=True)
            continue
        program: dict[str, Any] = found["program"]
        flops = program["flops"] / rows / 1e12
        print(f"{policy:16}{program['temporaries'] / 2**30:8.2f} GiB{flops:8.2f} TFLOP per pair ({found['seconds']} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--topology", help="compile the full size for it instead of timing on this CPU")
    parser.add_argument("--pairs", type=int, default=64, help="pairs per step, with a topology")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    name = f"remat_{args.topology}.json" if args.topology else "remat_cpu.json"
    record = Record(args.json or measure.RESULTS / name, args.topology or "cpu")
    if args.topology:
        planned(record, args.topology, args.pairs)
    else:
        on_cpu(record, args.rounds)
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
