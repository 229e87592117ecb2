"""Our attention kernels compared with other installed ones: correctness first, then forward and backward times.

    python benchmarks/attention.py --numerics       # every backend, head width and mask against float64, small shapes
    python benchmarks/attention.py                  # the shapes of the models, timed
    python benchmarks/attention.py --write-table    # and `auto` then selects the fastest of ours on this device

The others are jax.nn, JAX's own Pallas kernels, tokamax, and PyTorch's scaled_dot_product_attention with each of its
backends. An implementation that is not installed, or does not support a shape, is listed with the reason. Each one runs
in its own process, so one that crashes the device ends only itself. They take turns in every round.

Before a shape is timed, its outputs and gradients are compared with float64 NumPy (last row, last key/value head). An
implementation with larger errors than rounding explains is marked wrong and not timed. TFLOP/s count the real head
width and the visible pairs of tokens, whatever a kernel computes in addition.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import threading
from pathlib import Path
from typing import Any

import measure
from attention_cases import CASES, SMALL, SMOKE, Case, errors, name_of, numerics_cases
from attention_sides import OTHER_JAX, OURS, TORCH, JaxSide, TorchSide
from measure import Budget, Record, Side, SideError

TURN = 0.03  # approximate seconds of a turn
PREPARE = 90.0  # seconds that compiling a case may take
WORKERS = 3  # processes per backend that check numerics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numerics", action="store_true", help="check small shapes, without timing")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds; cases that do not fit are skipped")
    parser.add_argument("--json", type=Path, help="default: results/attention.json or attention_numerics.json")
    parser.add_argument("--write-table", action="store_true", help="write pivot_jax/kernels/choices.json")
    parser.add_argument("--table-from", type=Path, help="write it from an earlier run's JSON, without measuring")
    parser.add_argument("--ours-only", action="store_true", help="measure only our implementation")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to test that it runs")
    args = parser.parse_args()
    if args.table_from:
        write_table(json.loads(args.table_from.read_text()))
        return
    budget = Budget(args.limit)
    first = Side(JaxSide)
    platform, kind = first.ask("describe")
    default = measure.RESULTS / f"attention{'_numerics' if args.numerics else ''}.json"
    record = Record(args.json or default, kind)
    dtype = "float32" if platform == "cpu" else "bfloat16"
    record.content |= {"dtype": dtype, "complete": False}
    if args.numerics:
        check(platform, dtype, first, record, budget, args.smoke)
    else:
        cases = SMOKE if args.smoke else SMALL if platform == "cpu" else CASES
        cases = {name: case for name, case in cases.items() if not args.cases or name in args.cases}
        sides = open_sides(platform, first, record, args.ours_only)
        time_all(sides, dtype, cases, record, budget, args.rounds)
        if args.write_table:
            write_table(record.content)
    record.content["complete"] = True
    record.write()
    print(f"written: {record.path}")


# ---- numerics


def check(platform: str, dtype: str, first: Side, record: Record, budget: Budget, smoke: bool) -> None:
    """Each of our backends at every width and mask. A process that dies is replaced, and its case is marked."""
    first.close() if platform != "tpu" else None
    names = ["xla", "pallas_triton"] if smoke else OURS[platform]
    cases = list(numerics_cases(smoke).values())
    workers = 1 if smoke or platform == "tpu" else WORKERS
    jobs = [(name, cases[part::workers]) for name in names for part in range(workers)]
    shared = first if platform == "tpu" else None  # only one process can use a TPU
    lock = threading.Lock()

    def keep(name: str, case: Case, entry: dict[str, Any]) -> None:
        with lock:
            record.content["results"].setdefault(name, {})[name_of(case)] = entry
            record.write()

    with concurrent.futures.ThreadPoolExecutor(1 if shared else len(jobs)) as pool:
        for run in [pool.submit(_check_some, name, part, dtype, shared, budget, keep) for name, part in jobs]:
            run.result()
    for name, found in record.content["results"].items():
        states = [x["state"] for x in found.values()]
        print(f"{name:15}{states.count('right')} right of {len(states)}")
        for case, x in found.items():
            if x["state"] != "right":
                print(f"    {case}: {x['state']}")


def _check_some(name: str, cases: list[Case], dtype: str, shared: Side | None, budget: Budget, keep: Any) -> None:
    side = shared or Side(JaxSide)
    for case in cases:
        if budget.left < 5:
            keep(name, case, {"state": "no time left"})
            continue
        if not side.alive:
            side = Side(JaxSide)
        try:
            arrays = side.ask("prepare", name, case, dtype, True, limit=min(PREPARE, budget.left))
        except SideError as error:
            keep(name, case, {"state": f"cannot: {error}"})
            continue
        keep(name, case, judged(case, dtype, arrays, whole=True))
    if side is not shared:
        side.close()


def judged(case: Case, dtype: str, arrays: dict[str, Any], whole: bool) -> dict[str, Any]:
    """A backend's state and errors, from the result of its ``prepare``."""
    failed = arrays.pop("error")
    report, wrong = errors(case, dtype, arrays, whole)
    state = f"wrong: {wrong}" if wrong else f"forward only: {failed}" if failed else "right"
    return {"state": state, "errors": report}


# ---- times


def time_all(
    sides: dict[str, Any], dtype: str, cases: dict[str, Case], record: Record, budget: Budget, rounds: int
) -> None:
    for name, case in cases.items():
        if budget.left < 20:
            record.leave_out(name, "no time left")
            continue
        for label, (side, kind, own) in sides.items():
            if not side.alive:
                sides[label] = (Side(kind), kind, own)
        found = time_case(sides, case, dtype, budget, rounds)
        record.add(name, {"case": case._asdict(), "flops_forward": case.flops, "sides": found})
        show(name, found)
    for side, *_ in sides.values():
        side.close()


def open_sides(platform: str, first: Side, record: Record, ours_only: bool) -> dict[str, tuple[Side, type, str]]:
    """Label → (process, its class, its name there) of installed sides. On a TPU JAX's sides share one process."""
    fresh = (lambda: first) if platform == "tpu" else (lambda: Side(JaxSide))
    sides = {name: (first if name == "xla" else fresh(), JaxSide, name) for name in OURS[platform]}
    if ours_only:
        return sides
    for name in OTHER_JAX[platform]:
        if name == "tokamax" and not measure.version("tokamax"):
            record.leave_out(name, "not installed")
        else:
            sides[name] = (fresh(), JaxSide, name)
    if not measure.version("torch"):
        record.leave_out("torch", "not installed")
        return sides
    opened = {f"torch {name}": (Side(TorchSide), TorchSide, name) for name in TORCH[platform]}
    for label, (side, *_) in opened.items():
        try:
            there, _ = side.ask("describe")
        except SideError as error:
            there = str(error)
        if there == platform:
            sides[label] = opened[label]
        else:
            record.leave_out(label, f"PyTorch has no {platform} on this machine ({there})")
            side.close()
    return sides


def time_case(sides: dict[str, Any], case: Case, dtype: str, budget: Budget, rounds: int) -> dict[str, Any]:
    """Checks and compiles all sides at the same time, then takes turns."""
    found: dict[str, Any] = {}
    for together in _one_call_each(sides):
        for _, (side, _, name) in together.items():
            side.send("prepare", name, case, dtype, False)
        for label, (side, *_) in together.items():
            try:
                arrays = side.receive(min(PREPARE, budget.left - 10))
            except SideError as error:
                found[label] = {"state": f"cannot: {error}"}
                continue
            found[label] = judged(case, dtype, arrays, whole=False)
    for what, factor in (("forward", 1.0), ("both", 3.5)):  # the backward pass has five products to the forward's two
        runs = {}
        for label, entry in found.items():
            if entry["state"] == "right" or (what == "forward" and entry["state"].startswith("forward only")):
                runs[label] = _turn(sides[label], what)
        times, dropped = measure.take_turns(runs, rounds, warmup=1)
        for label, seconds in times.items():
            spread = measure.summary([1e3 * s for s in seconds])
            found[label][what] = {"ms": spread, "tflops": factor * case.flops / spread["median"] / 1e9}
        for label, reason in dropped.items():
            found[label]["state"] = f"failed when timed: {reason}"
    for entry in found.values():
        if {"forward", "both"} <= entry.keys():
            ms = entry["both"]["ms"]["median"] - entry["forward"]["ms"]["median"]
            entry["backward"] = {"ms": ms, "tflops": 2.5 * case.flops / ms / 1e9}
    compare(found)
    return found


def _one_call_each(sides: dict[str, Any]) -> list[dict[str, Any]]:
    """Groups that contain each process at most once."""
    groups: list[dict[str, Any]] = []
    for label, entry in sides.items():
        free = (g for g in groups if all(entry[0] is not other[0] for other in g.values()))
        group = next(free, None)
        if group is None:
            groups.append(group := {})
        group[label] = entry
    return groups


def _turn(entry: tuple[Side, type, str], what: str) -> Any:
    """A function that runs one turn of about :data:`TURN` seconds; the first call finds how many runs that is."""
    side, _, name = entry
    count = 0

    def turn() -> float:
        nonlocal count
        seconds = side.ask("run", name, what, max(count, 1), limit=30.0)
        count = count or max(1, min(1000, int(TURN / max(seconds, 1e-6))))
        return seconds

    return turn


def compare(found: dict[str, Any]) -> None:
    """Adds to our entries the ratio of the best other time to ours (above 1: ours is faster)."""
    ours = {name for names in OURS.values() for name in names}
    for what in ("forward", "both"):
        others = {x: y[what]["ms"]["median"] for x, y in found.items() if x not in ours and what in y}
        if others:
            best = min(others, key=lambda label: others[label])
            for label in ours & found.keys():
                if what in found[label]:
                    ratio = others[best] / found[label][what]["ms"]["median"]
                    found[label][what] |= {"ratio_to_best_other": ratio, "best_other": best}


def show(name: str, found: dict[str, Any]) -> None:
    """Prints a table. The backward time is that of both passes minus that of the forward pass."""
    heads = "".join(f"{what:>10}{'TFLOP/s':>9}" for what in ("forward ms", "backward", "both"))
    print(f"\n{name:26}{heads}{'ratio':>7}")
    for label, entry in found.items():
        line = f"  {label:24}"
        for what in ("forward", "backward", "both"):
            x = entry.get(what)
            ms = x and (x["ms"] if what == "backward" else x["ms"]["median"])
            line += f"{ms:10.3f}{x['tflops']:9.1f}" if x else f"{'-':>10}{'-':>9}"
        ratio = entry.get("both", {}).get("ratio_to_best_other")
        line += f"{ratio:7.2f}" if ratio else " " * 7
        print(line if entry["state"] == "right" else f"{line}  {entry['state']}", flush=True)


def write_table(content: dict[str, Any]) -> None:
    """Writes our backend with the least forward and backward time per width and mask, over all of their cases."""
    from pivot_jax.kernels import dispatch

    groups: dict[tuple[int, bool, str, str], list[dict[str, Any]]] = {}
    for found in content["results"].values():
        case = Case(**found["case"])
        groups.setdefault((case.c, case.causal, case.mask, content["dtype"]), []).append(found["sides"])
    fastest = {}
    for key, members in groups.items():
        names = {name for names in OURS.values() for name in names}
        names = {name for name in names if all("both" in sides.get(name, {}) for sides in members)}
        if names:
            totals = {name: sum(sides[name]["both"]["ms"]["median"] for sides in members) for name in names}
            fastest[key] = min(totals, key=lambda name: totals[name])
    kind = content["machine"]["device"]
    dispatch.write_table(kind, fastest)
    print(f"written: {dispatch.TABLE.relative_to(measure.ROOT)}: {len(fastest)} choices for {kind}")


if __name__ == "__main__":
    main()
