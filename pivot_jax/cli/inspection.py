"""``inspect``: the modules of a model, their sizes, and the parameters that a config trains."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from pivot_jax.cli import tables
from pivot_jax.errors import UserError

if TYPE_CHECKING:
    from pivot_jax.train.contents import Contents, Leaf

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


def inspect(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    if bool(args.config) == bool(args.weights):
        raise UserError("name one thing to inspect: --config FILE, or a run, a pack or a Hugging Face folder")
    if overrides and not args.config:
        raise UserError(f"--config.{next(iter(overrides))} changes a config; add --config FILE")
    import jax

    jax.config.update("jax_platforms", "cpu")  # only shapes are computed, so no real device is needed
    from pivot_jax.train import contents

    found = contents.of_config(args.config, overrides) if args.config else contents.of_weights(args.weights, args.step)
    if args.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        show(found, args.depth)


def show(found: Contents, depth: int) -> None:
    """Prints the tree down to ``depth`` levels (0: all) and the table of the trained parameters."""
    from rich.tree import Tree

    console = tables.console()
    tree = Tree(f"{found.title}: {_size(list(found.leaves.values()))}", highlight=True)
    _grow(tree, found.leaves, depth)
    console.print(tree)
    if found.groups:
        table = tables.table("group", "parameters", "learning rate", title="trained parameters")
        for row in found.groups:
            rate = row["rate"] if isinstance(row["rate"], str) else f"{row['rate']:g}"
            table.add_row(row["group"], f"{row['parameters']:,}", rate)
        trained = sum(row["parameters"] for row in found.groups if row["rate"] != "frozen")
        table.add_section()
        table.add_row("total trained", f"{trained:,}", f"of {sum(row['parameters'] for row in found.groups):,}")
        console.print(table)


def _grow(node: Any, leaves: dict[str, Leaf], depth: int) -> None:
    """Adds the parameters below ``node``; their names are relative to it."""
    below: dict[str, dict[str, Leaf]] = {}
    for path, leaf in leaves.items():
        name, _, rest = path.partition("/")
        below.setdefault(name, {})[rest] = leaf
    for name, inside in below.items():
        if "" in inside:
            leaf = inside[""]
            node.add(f"{name}  \\[{', '.join(map(str, leaf.shape))}]  {leaf.dtype}  {leaf.parameters:,}")
            continue
        branch = node.add(f"{name}: {_size(list(inside.values()))}")
        if depth != 1:
            _grow(branch, inside, depth - 1)


def _size(leaves: list[Leaf]) -> str:
    size = sum(leaf.bytes for leaf in leaves)
    unit, name = next((unit, name) for unit, name in UNITS if size >= unit)
    stored = ", ".join(sorted({leaf.dtype for leaf in leaves}))
    return f"{sum(leaf.parameters for leaf in leaves):,} parameters, {size / unit:.4g} {name} in {stored}"
