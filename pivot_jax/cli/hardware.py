"""``plan`` and ``tune``: compiling for hardware, and tile sizes for it."""

from __future__ import annotations

import argparse

from pivot_jax.cli import outputs, tables
from pivot_jax.errors import UserError

EXAMPLES = "v4-8, v5e-16, v5p-8, v6e-16, v6e-16x2 for two slices, 7x-8, h100-8, h200-1"


def plan(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from pivot_jax import config as configs

    config = configs.load(args.config, overrides)
    if args.json:
        outputs.file(args.json, "--json", command="pivot-jax plan")
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is executed, so no real device is needed
    if args.effort != "full":
        jax.config.update("jax_optimization_level", args.effort)
    from pivot_jax.plan import page
    from pivot_jax.plan import run as plans
    from pivot_jax.plan.program import prepare
    from pivot_jax.plan.topology import find

    names = [args.topology] if args.topology else config.hardware
    if not names:
        raise UserError(f"{args.config} names no hardware; give --topology ({EXAMPLES})")
    content, fits = [], True
    for topology in [find(name) for name in names]:
        if args.sharding:
            table = tables.table("parameter", "shape", "mesh axes")
            for row in page.sharding_rows(prepare(config, topology)):
                table.add_row(*row)
            tables.console().print(table)
        for each in plans.plan(config, topology, rows=args.rows, search=args.search):
            print(page.text(each, topology), flush=True)
            content.append(page.as_json(each, topology))
            fits &= each.fits
    if args.json:
        outputs.record(args.json, "pivot-jax plan", content)
    return 0 if fits else 1


def tune(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from pivot_jax.kernels import tiles as table
    from pivot_jax.kernels import tune as kernels
    from pivot_jax.kernels.dispatch import kind, platform

    shapes = [kernels.parse(text) for text in args.shape]
    tunable = kernels.TUNABLE.get(platform())
    if tunable is None:
        raise UserError(
            f"tune needs a GPU or a TPU, and this machine's device is a {platform()}; run it on one of them"
        )
    for text, shape in zip(args.shape, shapes, strict=True):
        found = kernels.tune(shape, tunable)
        entry = {"tiles": found.tiles, "ms": found.ms, "default_ms": found.default_ms}
        table.record(kind(), tunable.backend, found.case, entry)
        tiles = ", ".join(f"{name} {tuple(tile)}" for name, tile in zip(found.tiles._fields, found.tiles, strict=True))
        print(f"{text}: {found.ms:.3f} ms, {found.default_ms:.3f} with the defaults; {tiles}")
    print(f"written to {table.path()}")
    return 0
