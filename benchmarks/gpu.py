"""All measurements that need a GPU, in one command of under eight minutes.

    python benchmarks/gpu.py [--out benchmarks/results/gpu] [--budget 480]

In this order: numerics of every attention backend at every head width and mask, attention times, log-probs, the SFT
and DPO step, generation, rollouts of 64 rows with their share of the memory bandwidth. It needs jax with CUDA, flax,
optax, numpy and pillow. PyTorch, transformers and tokamax are compared where they are installed. pivot_jax itself need
not be installed.

Each part is a script of this folder in its own process group with its own time limit, and writes its JSON as results
arrive. A crash or a hang thus loses no earlier measurement. Parts without time left are skipped, the last ones first,
and the table at the end lists them. The fastest backends on this device, by the attention times, are written to
pivot_jax/kernels/choices.json, so `auto` selects them in the steps measured afterwards. A copy of the file is stored
with the results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
from measure import Budget

NEEDED = ("jax", "flax", "optax", "numpy", "pillow")
COMPARED = ("torch", "transformers", "tokamax")
# name: script, arguments, arguments of a smoke run, seconds. A part may also use time left over by earlier parts.
PARTS: dict[str, tuple[str, list[str], list[str], float]] = {
    "attention_numerics": ("attention.py", ["--numerics"], ["--smoke"], 90.0),
    "attention": ("attention.py", ["--rounds", "7"], ["--smoke", "--rounds", "2"], 140.0),
    "logprobs": ("logprobs.py", ["--rounds", "7"], ["--smoke", "--rounds", "2"], 40.0),
    "step": ("step.py", ["--rounds", "7"], ["--size", "tiny", "--rows", "2", "--rounds", "2"], 115.0),
    "sampler": ("sampler.py", ["--rounds", "5"], ["--size", "tiny", "--rounds", "2"], 50.0),
    "rollout": ("rollout.py", ["--rounds", "4", "--cases", "64 rows"], ["--rounds", "2", "--cases", "tiny"], 45.0),
}
LEAST = 20.0  # minimum seconds to start a part: its processes take that long to start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "gpu", help="folder of the JSON files")
    parser.add_argument("--budget", type=float, default=sum(part[3] for part in PARTS.values()), help="total seconds")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, only ours, as a test")
    args = parser.parse_args()
    budget = Budget(args.budget)
    if absent := [name for name in NEEDED if not measure.version(name)]:
        sys.exit(f"not installed: {', '.join(absent)}; install them with pip")
    versions = [f"{name} {measure.version(name) or 'not installed'}" for name in (*NEEDED, *COMPARED)]
    print(f"Python {sys.version.split()[0]}, {', '.join(versions)}; commit {measure.commit()}", flush=True)
    states = {}
    for index, name in enumerate(args.parts):
        later = sum(PARTS[other][3] for other in args.parts[index + 1 :])
        seconds = min(max(PARTS[name][3], budget.left - later), budget.left)
        if seconds < LEAST:
            states[name] = ("skipped: no time left", 0.0)
            continue
        print(f"\n==== {name}, up to {seconds:.0f} s", flush=True)
        states[name] = run(name, seconds, args)
        if name == "attention" and not args.smoke:
            take_fastest(args.out)
    print(f"\n{'part':20}{'seconds':>8}  state")
    for name, (state, seconds) in states.items():
        print(f"{name:20}{seconds:8.0f}  {state}")
    print(f"JSON files: {args.out}")
    sys.exit(any(state != "done" for state, _ in states.values()))


def run(name: str, limit: float, args: argparse.Namespace) -> tuple[str, float]:
    """Runs a part; its state and the seconds that it took."""
    script, full, small, _ = PARTS[name]
    arguments = full
    environment = dict(os.environ)
    if args.smoke:
        arguments = [*(["--numerics"] if "--numerics" in full else []), *small, "--ours-only"]
        environment["JAX_PLATFORMS"] = "cpu"
    file = args.out / f"{name}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # an earlier run's file must not pass for this one's
    # The script gets a shorter limit and ends on its own. The limit here is for a script that hangs.
    command = [sys.executable, "-u", str(Path(__file__).parent / script), *arguments]
    command += ["--json", str(file), "--limit", str(round(limit - 8))]
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(limit)
        state = "done" if code == 0 else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        state = f"stopped after {limit:.0f} s"
    with contextlib.suppress(ProcessLookupError):  # its children too, however it ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return state + reached(file, state), time.monotonic() - start


def take_fastest(out: Path) -> None:
    """Makes `auto` select the backends measured fastest in the cases that were reached."""
    from attention import write_table

    from pivot_jax.kernels import dispatch

    file = out / "attention.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    if content.get("results"):
        write_table(content)
        shutil.copy(dispatch.TABLE, out / dispatch.TABLE.name)


def reached(file: Path, state: str) -> str:
    """Contents of the file of a part that failed."""
    if state == "done":
        return ""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    names = ", ".join(found.get("results", {})) or "nothing"
    return f"; its file holds {names}"


if __name__ == "__main__":
    main()
