"""Our SFT, DPO and GRPO step and PyTorch's, with SigLIP2 So400m/16 at 384 pixels and Qwen2.5-1.5B on an accelerator.

    python benchmarks/step.py [--rows 16] [--remat dots]

A row is an image (576 tokens), a prompt and an answer of 64 tokens each. DPO has two answers, in ours both in one row;
"grpo" is our policy update with eight in a row (``grpo_step.py`` compares whole steps with TRL's).
Weights are random and float32, matmuls bfloat16. In task "dpo" both sides have the reference's log-probs stored. In
"dpo_trl" PyTorch computes them in the step, as TRL does by default. Batches are on the device in advance;
``input_pipeline.py`` measures the wait for data.

The sides take turns, a step each, and share the device's memory. Where it holds only one of them (an H100: each has
30 GiB of weights, gradients and optimizer state), PyTorch runs first and last, and ours in between, each alone. A batch
that does not fit is halved until it does, separately for each side; the rate counts pairs.

MFU is the model's FLOPs (``models/flops.py``: no recomputation, no padding, the visible half of causal attention) over
the device's bfloat16 peak; HFU is the traced program's FLOPs over it. On a CPU a tiny size tests that it works.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure
from measure import Budget, Record, Side, SideError
from step_sides import SIZES, JaxSide, TorchSide

TASKS = ("dpo", "dpo_trl", "sft", "grpo")
BOTH_GIB = 90.0  # memory that JAX may use on a device; less does not hold both sides of 1.5B


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="default: 1.5B, on a CPU tiny")
    parser.add_argument("--rows", type=int, default=16, help="rows (SFT) or pairs (DPO) to try first")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots", help="ours")
    parser.add_argument("--torch-remat", choices=("none", "full"), default="none", help="gradient checkpointing")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--apart", action="store_true", help="one side at a time, even if the memory holds both")
    parser.add_argument("--ours-only", action="store_true", help="measure only our implementation")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "step.json")
    args = parser.parse_args()
    budget = Budget(args.limit)
    sides = {"ours": Side(JaxSide, args.size, args.remat)}
    about = sides["ours"].ask("describe")
    record = Record(args.json, about["kind"])
    record.content |= {
        "size": about["size"],
        "dtype": about["dtype"],
        "remat": args.remat,
        "torch_remat": args.torch_remat,
    }
    missing = [name for name in ("torch", "transformers") if not measure.version(name)]
    kinds = {"ours": (JaxSide, args.size, args.remat), "pytorch": (TorchSide, about["size"], args.torch_remat)}
    if missing:
        record.leave_out("pytorch", f"{' and '.join(missing)} not installed")
    if missing or about["platform"] == "tpu" or args.ours_only:
        del kinds["pytorch"]
    memory = about["memory_gib"]
    apart = "pytorch" in kinds and (args.apart or (memory is not None and memory < BOTH_GIB))
    record.content["apart"] = apart
    if apart:
        sides["ours"].close()
        measure_apart(kinds, args.tasks, args.rows, args.rounds, about, budget, record)
    else:
        sides |= {name: Side(*kind) for name, kind in kinds.items() if name not in sides}
        for task in args.tasks:
            if budget.left < 20:
                record.leave_out(task, "no time left")
                continue
            record.add(task, measure_task(sides, task, args.rows, args.rounds, about, budget))
            show(task, record.content["results"][task])
        for side in sides.values():
            side.close()
    record.write()
    print(f"written: {record.path}")


def measure_apart(
    kinds: dict[str, tuple[Any, ...]],
    tasks: list[str],
    rows: int,
    rounds: int,
    about: dict[str, Any],
    budget: Budget,
    record: Record,
) -> None:
    """PyTorch, ours, PyTorch again. Each process ends before the next one starts, which frees its memory."""
    found: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    times: dict[str, dict[str, list[float]]] = {task: {} for task in tasks}
    for name, share in (("pytorch", 2), ("ours", 1), ("pytorch", 2)):
        side = Side(*kinds[name])
        for task in tasks:
            before = found[task].get(name)
            if budget.left < 15 or (before and before["state"] != "ran"):
                continue
            entry = prepare({name: side}, task, before["rows"] if before else rows, budget)[name]
            found[task][name] = before or entry
            if entry["state"] == "ran":
                turn = {name: lambda side=side: side.ask("step", limit=min(60.0, budget.left))[0]}
                seconds, dropped = measure.take_turns(turn, -(-rounds // share), warmup=2)
                found[task][name]["state"] = dropped.get(name, "ran")
                times[task].setdefault(name, []).extend(seconds.get(name, []))
        side.close()
        for task in tasks:
            record.add(task, found[task])  # saved in case the next side does not finish
    for task in tasks:
        for name in [name for name, seconds in times[task].items() if not seconds]:
            del times[task][name]
        rate(found[task], times[task], about)
        if {"ours", "pytorch"} <= times[task].keys():
            ours = found[task]["ours"]
            factor = ours["rows"] / found[task]["pytorch"]["rows"] / ours["seconds"]["median"]
            ours["ratio_to_pytorch"] = measure.summary([factor * seconds for seconds in times[task]["pytorch"]])
        record.add(task, found[task])
        show(task, found[task])


def measure_task(
    sides: dict[str, Side], task: str, rows: int, rounds: int, about: dict[str, Any], budget: Budget
) -> dict[str, Any]:
    found = prepare(sides, task, rows, budget)
    ready = {name: side for name, side in sides.items() if found[name]["state"] == "ran"}
    turns = {
        name: (lambda side=side: side.ask("step", limit=min(60.0, budget.left))[0]) for name, side in ready.items()
    }
    times, dropped = measure.take_turns(turns, rounds, warmup=2)
    for name, reason in dropped.items():
        found[name]["state"] = reason
    rate(found, times, about)
    if {"ours", "pytorch"} <= times.keys():
        pairs = zip(times["pytorch"], times["ours"], strict=True)
        factor = found["ours"]["rows"] / found["pytorch"]["rows"]
        found["ours"]["ratio_to_pytorch"] = measure.summary([factor * theirs / ours for theirs, ours in pairs])
    return found


def rate(found: dict[str, dict[str, Any]], times: dict[str, list[float]], about: dict[str, Any]) -> None:
    """Adds rates, and to ours MFU and HFU where the device's peak is known."""
    from pivot_jax.parallel.chips import peak_flops

    peak = peak_flops(about["kind"])
    for name, seconds in times.items():
        entry = found[name]
        entry["seconds"] = measure.summary(seconds)
        entry["rows_per_second"] = entry["rows"] / entry["seconds"]["median"]
        if name == "ours" and peak:
            entry["mfu"] = entry["flops_useful"] / entry["seconds"]["median"] / peak
            entry["hfu"] = entry["flops_executed"] / entry["seconds"]["median"] / peak


def prepare(sides: dict[str, Side], task: str, rows: int, budget: Budget) -> dict[str, dict[str, Any]]:
    """Compiles all sides at the same time, then halves batches that did not fit."""
    found: dict[str, dict[str, Any]] = {}
    tries = dict.fromkeys(sides, rows)
    while tries:
        for name, count in tries.items():
            sides[name].send("prepare", task, count)
        again = {}
        for name, count in tries.items():
            try:
                found[name] = {"state": "ran"} | sides[name].receive(budget.left - 10)
            except SideError as error:
                found[name] = {"state": str(error), "rows": count}
                if measure.is_out_of_memory(str(error)) and count > 1:
                    print(f"{task}: {name} runs out of memory with {count} rows; halved", flush=True)
                    again[name] = count // 2
        tries = again
    return found


def show(task: str, found: dict[str, Any]) -> None:
    print(f"\n{task:10}{'rows':>6}{'s/step':>9}{'quartiles':>16}{'rows/s':>9}{'MFU':>7}{'HFU':>7}{'GiB':>7}")
    for name, x in found.items():
        if "seconds" not in x:
            print(f"  {name:10}{x['state']}")
            continue
        seconds, share = x["seconds"], lambda key, x=x: f"{x[key]:7.1%}" if key in x else f"{'-':>7}"
        spread = f"{seconds['low']:.3f}-{seconds['high']:.3f}"
        peak = f"{x['peak_gib']:7.1f}" if x["peak_gib"] else f"{'-':>7}"
        line = f"  {name:8}{x['rows']:6}{seconds['median']:9.3f}{spread:>16}{x['rows_per_second']:9.2f}"
        print(line + share("mfu") + share("hfu") + peak, flush=True)
    ratio = found.get("ours", {}).get("ratio_to_pytorch")
    if ratio:
        print(f"  ours / PyTorch {ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")


if __name__ == "__main__":
    main()
