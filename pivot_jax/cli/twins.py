"""``twin``: a config's run as a script for PyTorch, and both runs' curves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pivot_jax.cli import outputs, tables
from pivot_jax.cli.options import command, config, positive
from pivot_jax.errors import UserError

CURVE_POINTS = 10  # of a short run, at least


def add(subparsers) -> None:
    parser = command(
        subparsers, "twin", twin,
        "the run of a config for TRL or LLaMA-Factory: the same rows, weights, template and hyper-parameters",
        "DIR/trl gets train.py, the starting weights and the rows in their order. With --run, our run goes to\n"
        "DIR/ours, TRL's to DIR/torch, and curves.html shows both. What TRL computes in another way is an error that\n"
        "names it. LLaMA-Factory's twin is DIR/llamafactory/train.yaml.",
    )  # fmt: skip
    config(parser)
    parser.add_argument("--to", choices=("trl", "llamafactory"), default="trl", help="the library (trl)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the twin, and for both runs")
    parser.add_argument("--steps", type=positive, metavar="N", help="optimizer steps of both (default: the config's)")
    parser.add_argument(
        "--run", dest="both", action="store_true", help="train both, one after the other, and compare their curves"
    )
    parser.add_argument(
        "--python", metavar="PATH", default=sys.executable, help="with --run: Python of an environment with TRL"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier twin in DIR")


def twin(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax import config as configs

    out = outputs.folder(args.out, "--out")
    if args.steps:
        overrides = overrides | {"train.steps": str(args.steps)}
    loaded = configs.load(args.config, overrides)
    if args.both and "train.log_every" not in overrides:
        every = max(1, min(loaded.train.log_every, (args.steps or loaded.train.log_every) // CURVE_POINTS))
        loaded = configs.load(args.config, overrides | {"train.log_every": str(every)})
    if args.both and args.to != "trl":
        raise UserError(f"--run: only TRL's twin is trained here; leave it out of --to {args.to}")
    if args.both and (out / "ours").exists():
        raise UserError(f"--out {out}: {out / 'ours'} is an earlier run; remove it, or name another folder")
    from pivot_jax.parallel import runtime
    from pivot_jax.twin import compare, write

    runtime.keep_freed_memory()
    script = write.write(loaded, out / args.to, args.to, overwrite=args.overwrite)
    if not args.both:
        print(script, "is the twin; its first lines say how to start it")
        return
    found = compare.run_both(loaded, out, script, args.python)
    table = tables.table("metric", "PIVOT-JAX", "TRL", "relative difference", "step")
    for name, one in found.items():
        table.add_row(name, f"{one.ours:.6g}", f"{one.theirs:.6g}", f"{one.relative:.1e}", str(one.step))
    tables.console().print(table)
    print(Path(out / compare.PAGE))
