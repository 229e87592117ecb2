"""`pivot-jax inspect`: the modules of a model, their sizes, and what a config would train. No weights are read."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from pivot_jax.errors import UserError

WIDTH = 120  # characters, where the output is no terminal


class Leaf(NamedTuple):
    """One parameter."""

    shape: tuple[int, ...]
    dtype: str  # as it is stored

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        from jax.numpy import dtype

        return self.parameters * dtype(self.dtype).itemsize


class Found(NamedTuple):
    """What there is to show."""

    title: str
    leaves: dict[str, Leaf]
    groups: list[dict[str, Any]]  # rows of ``partition.table``; none where nothing says what is trained


def inspect(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    if bool(args.config) == bool(args.place):
        raise UserError("name one thing to look at: --config FILE, or a run, a pack or a Hugging Face folder")
    if overrides and not args.config:
        raise UserError(f"--config.{next(iter(overrides))} changes a config; add --config FILE")
    import jax

    jax.config.update("jax_platforms", "cpu")  # shapes only: a real device is left alone
    found = _of_config(args.config, overrides) if args.config else _of_place(args.place, args.step)
    if args.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        show(found, args.depth)


def as_json(found: Found) -> dict[str, Any]:
    leaves: dict[str, dict[str, Any]] = {
        path: {"shape": list(leaf.shape), "dtype": leaf.dtype, "parameters": leaf.parameters, "bytes": leaf.bytes}
        for path, leaf in found.leaves.items()
    }
    total = {key: sum(leaf[key] for leaf in leaves.values()) for key in ("parameters", "bytes")}
    return {"title": found.title, **total, "leaves": leaves, "trained": found.groups}


def show(found: Found, depth: int) -> None:
    """Prints the tree down to ``depth`` levels (0: all) and the table of what is trained."""
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    tree = Tree(f"{found.title}: {_words(list(found.leaves.values()))}", highlight=True)
    _grow(tree, found.leaves, depth)
    console.print(tree)
    if found.groups:
        table = Table("group", "parameters", "learning rate", title="what is trained", title_justify="left")
        for row in found.groups:
            rate = row["rate"] if isinstance(row["rate"], str) else f"{row['rate']:g}"
            table.add_row(row["group"], f"{row['parameters']:,}", rate)
        moving = sum(row["parameters"] for row in found.groups if row["rate"] != "frozen")
        table.add_section()
        table.add_row("trained in all", f"{moving:,}", f"of {sum(row['parameters'] for row in found.groups):,}")
        console.print(table)


def _grow(node: Any, leaves: dict[str, Leaf], depth: int) -> None:
    """Adds the parameters below ``node``, named from it."""
    below: dict[str, dict[str, Leaf]] = {}
    for path, leaf in leaves.items():
        name, _, rest = path.partition("/")
        below.setdefault(name, {})[rest] = leaf
    for name, inside in below.items():
        if "" in inside:
            leaf = inside[""]
            node.add(f"{name}  \\[{', '.join(map(str, leaf.shape))}]  {leaf.dtype}  {leaf.parameters:,}")
            continue
        branch = node.add(f"{name}: {_words(list(inside.values()))}")
        if depth != 1:
            _grow(branch, inside, depth - 1)


def _words(leaves: list[Leaf]) -> str:
    size = sum(leaf.bytes for leaf in leaves)
    unit, name = next((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes")) if size >= u)
    stored = ", ".join(sorted({leaf.dtype for leaf in leaves}))
    return f"{sum(leaf.parameters for leaf in leaves):,} parameters, {size / unit:.4g} {name} in {stored}"


def _of_config(spec: str, overrides: dict[str, str]) -> Found:
    from pivot_jax import config as configs

    config = configs.load(spec, overrides)
    like, groups = _trained(config)
    leaves = {path: Leaf(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in like.items()}
    return Found(f"{spec} ({config.objective.name})", leaves, groups)


def _trained(config: Any, workdir: Path | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Flat shapes of a config's parameters, and the rows of what it trains; a run in ``workdir`` may hold fewer."""
    from pivot_jax import rules
    from pivot_jax.data.processing.tokenizer import load_tokenizer
    from pivot_jax.objectives.table import batch_kind
    from pivot_jax.optim import partition
    from pivot_jax.train.model import build_model
    from pivot_jax.train.setup import as_started, parameters

    # an MLLM's shapes do not depend on the tokenizer, which then need not be there
    vocabulary = len(load_tokenizer(config.tokenizer.path)) if batch_kind(config) == "contrastive" else 0
    model = build_model(config, vocabulary)
    like, rates, _ = parameters(config, model if workdir is None else as_started(config, model, workdir))
    return rules.flatten(like), partition.table(like, rates)


def _of_place(text: str, step: int | None) -> Found:
    from pivot_jax.config import paths

    kind, _, rest = text.partition(":")
    kind, place = (kind, rest) if kind in paths.WORDS and rest else (paths.kind_of(text), text)
    if step is not None and kind != "run":
        raise UserError(f"--step: only a run has checkpoints, and {place} is none")
    if kind == "run":
        return _of_run(Path(place), step)
    if kind == "pack":
        return _of_pack(Path(place))
    if kind == "hf" or not Path(place).exists():
        return _of_folder(place)
    raise UserError(f"{place} is no run, no pack and no Hugging Face folder; for a config add --config")


def _of_run(workdir: Path, step: int | None) -> Found:
    from pivot_jax.train import checkpoint
    from pivot_jax.train.source import run_config

    config = run_config(workdir)
    step = checkpoint.newest(workdir, step)
    saved = checkpoint.saved_in_run(workdir, step)
    return Found(f"{workdir} step {step} ({config.objective.name})", _stored(saved), _trained(config, workdir)[1])


def _of_pack(folder: Path) -> Found:
    from pivot_jax.train import pack

    return Found(f"{folder} (pack)", _stored(pack.saved(folder)), [])


def _stored(saved: dict[str, Any]) -> dict[str, Leaf]:
    return {path: Leaf(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in saved.items()}


def _of_folder(place: str) -> Found:
    from pivot_jax import hub
    from pivot_jax.hub import load

    folder = hub.folder_of(place)
    model = hub.read_config(folder)
    leaves = {path: Leaf(shape, dtype) for path, (shape, dtype) in load.headers(folder).items()}
    return Found(f"{place} ({model.model_type}: {hub.summary(model)})", leaves, [])
