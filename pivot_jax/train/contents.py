"""The parameters of a config's model, a run, a pack or a Hugging Face folder, with shapes. No weights are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from jax.numpy import dtype as dtype_of

from pivot_jax import config as configs
from pivot_jax import hub, rules
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.hub import load
from pivot_jax.objectives.table import batch_kind
from pivot_jax.optim import partition
from pivot_jax.train import checkpoint, pack
from pivot_jax.train.model import build_model
from pivot_jax.train.setup import as_started, parameters
from pivot_jax.train.source import config_tokenizer, run_config


class Leaf(NamedTuple):
    """One parameter."""

    shape: tuple[int, ...]
    dtype: str  # as stored

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.parameters * dtype_of(self.dtype).itemsize


class Contents(NamedTuple):
    """The parameters, and which of them are trained."""

    title: str
    leaves: dict[str, Leaf]  # path → parameter
    groups: list[dict[str, Any]]  # rows of ``partition.table``; empty for a pack and a folder

    def as_json(self) -> dict[str, Any]:
        leaves: dict[str, dict[str, Any]] = {
            path: {"shape": list(leaf.shape), "dtype": leaf.dtype, "parameters": leaf.parameters, "bytes": leaf.bytes}
            for path, leaf in self.leaves.items()
        }
        total = {key: sum(leaf[key] for leaf in leaves.values()) for key in ("parameters", "bytes")}
        return {"title": self.title, **total, "leaves": leaves, "trained": self.groups}


def of_config(spec: str, overrides: dict[str, str]) -> Contents:
    """The model of a config, and the parameters that it trains. Raises UserError as ``config.load``."""
    config = configs.load(spec, overrides)
    like, groups = _trained(config)
    leaves = {path: Leaf(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in like.items()}
    return Contents(f"{spec} ({config.objective.name})", leaves, groups)


def of_weights(text: str, step: int | None = None) -> Contents:
    """A run, pack or Hugging Face folder, as a path or with its kind (``run:DIR``), and what a run trains.

    Args:
      step: of a run's checkpoint; None is the newest.

    Raises:
      UserError: nothing of these kinds is there, or ``step`` is given for something other than a run.
    """
    kind, _, rest = text.partition(":")
    kind, path = (kind, rest) if kind in paths.WORDS and rest else (paths.kind_of(text), text)
    if step is not None and kind != "run":
        raise UserError(f"--step: only a run has checkpoints, and {path} is not a run")
    if kind == "run":
        return _of_run(Path(path), step)
    if kind == "pack":
        return Contents(f"{path} (pack)", _stored(pack.saved(Path(path))), [])
    if kind == "hf" or not Path(path).exists():
        return _of_folder(path)
    raise UserError(f"{path} is not a run, a pack or a Hugging Face folder; for a config add --config")


def _of_run(workdir: Path, step: int | None) -> Contents:
    config = run_config(workdir)
    step = checkpoint.newest(workdir, step)
    saved = checkpoint.saved_in_run(workdir, step)
    return Contents(f"{workdir} step {step} ({config.objective.name})", _stored(saved), _trained(config, workdir)[1])


def _of_folder(path: str) -> Contents:
    folder = hub.folder_of(path)
    model = hub.read_config(folder)
    leaves = {name: Leaf(shape, dtype) for name, (shape, dtype) in load.headers(folder).items()}
    return Contents(f"{path} ({model.model_type}: {hub.summary(model)})", leaves, [])


def _trained(config: Any, workdir: Path | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Flat shapes of a config's parameters, and the groups that it trains. A run in ``workdir`` may have fewer."""
    # an MLLM's shapes do not depend on the tokenizer, which may then be missing
    vocabulary = len(config_tokenizer(config.tokenizer)) if batch_kind(config) == "contrastive" else 0
    model = build_model(config, vocabulary)
    like, rates, _ = parameters(config, model if workdir is None else as_started(config, model, workdir))
    return rules.flatten(like), partition.table(like, rates)


def _stored(saved: dict[str, Any]) -> dict[str, Leaf]:
    return {path: Leaf(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in saved.items()}
