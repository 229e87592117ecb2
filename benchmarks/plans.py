"""Plans of the DPO step at full size for hardware that is not present, with the largest batch that fits.

    pip install "pivot-jax[tpu,cuda]"; python benchmarks/plans.py

``pivot-jax plan --search`` runs in its own process for each topology, on one length bucket of the full-size DPO config:
SigLIP2 So400m/16 at 384 pixels with Qwen2.5 1.5B, and with 7B. The JSON grows with each plan; ``--only`` selects some.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure

CONFIG = "configs/pivot/stage2_dpo.py"
DECODERS = {"1.5B": "Qwen/Qwen2.5-1.5B-Instruct", "7B": "Qwen/Qwen2.5-7B-Instruct"}
PLANS = [("1.5B", name) for name in ("h200-1", "v5e-16", "v5p-8", "v6e-16")]
PLANS += [("7B", name) for name in ("h100-8", "v5p-64")]
BUCKET = (1024, 448)  # tokens and scored targets of a pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"{size}:{topology}" for size, topology in PLANS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="SIZE:TOPOLOGY", help=", ".join(names)
    )
    parser.add_argument("--effort", choices=("O0", "O1", "full"), default="O1", help="of the compiler")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "plans.json")
    args = parser.parse_args()
    content: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else {"results": {}}
    content |= {"command": "python benchmarks/plans.py", "config": CONFIG, "bucket": BUCKET}
    for name in args.only:
        found = planned(*name.split(":"), args.effort)
        content["results"][name] = found
        measure.write_json(args.json, content)
        print(f"{name:14}{show(found)}", flush=True)
    print(f"written: {args.json}")


def planned(size: str, topology: str, effort: str, changes: Sequence[str] = (), search: bool = True) -> dict[str, Any]:
    """The plan of the config's batch, and the largest batch that fits."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "pivot_jax.cli", "plan", "--config", CONFIG, "--topology", topology]
        command += ["--effort", effort, "--json", str(file), f"--config.data.buckets=({BUCKET},)"]
        command += ["--config.train.accumulate=1", f"--config.model.decoder.name={DECODERS[size]}"]
        command += [*changes, *["--search"] * search]
        environment = os.environ | {"PYTHONPATH": str(measure.ROOT)}
        run = subprocess.run(command, cwd=measure.ROOT, env=environment, capture_output=True, text=True, check=False)
        if not file.exists():
            return {"error": run.stderr.strip().splitlines()[-1]}
        (plan,) = json.loads(file.read_text())
    packages = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
    versions = {name: found for name in packages if (found := measure.version(name))}
    how = {"effort": effort, "versions": versions} if plan["compiled"] else {}
    return plan | how | {"commit": measure.commit(), "seconds": round(time.monotonic() - start)}


def show(plan: dict[str, Any]) -> str:
    if "error" in plan:
        return plan["error"]
    program, gib = plan["program"], 2**30
    parts = [f"{program[key] / gib:.2f} {key}" for key in ("parameters", "optimizer", "temporaries")]
    peak = (program["arguments"] + program["temporaries"]) / gib
    how = "compiled" if plan["compiled"] else "estimated"
    sizes = f"{', '.join(parts)}, {peak:.2f} of {plan['hbm_gib']:g} GiB"
    return f"{plan['rows']} pairs {how}: {sizes}; {plan['largest_rows']} fit ({plan['seconds']} s)"


if __name__ == "__main__":
    main()
