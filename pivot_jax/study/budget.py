"""What runs cost before they have run: steps, sequences, FLOPs and time, and budgets that are equal in one of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.objectives.table import batch_kind
from pivot_jax.optim.partition import FROZEN
from pivot_jax.parallel.chips import CHIPS
from pivot_jax.study.graph import Graph, Rows
from pivot_jax.study.matrix import Study
from pivot_jax.train.model import build_model, step_flops

UNKNOWN_MIN = 1.0  # of a run about which the study says nothing
UNITS = ("steps", "sequences", "flops")
# A kernel of each part that is trained if anything new in the part is: reused layers of a projector are its first.
_PARTS = {
    "vision": "vision/blocks/mlp/fc1/kernel",
    "projector": "projector/new/kernel",
    "decoder": "decoder/blocks/mlp/down/kernel",
}
_ANSWERS = {"preference": 2}  # sequences of a row by the kind of batch; 1 of the others


def steps(config: Any, rows: Rows) -> int:
    """Optimizer steps of a run: ``train.steps``, or those of its epochs."""
    return int(config.train.steps or config.train.epochs * (rows.count // config.data.batch_size))


def flops(config: Any, rows: Rows) -> float:
    """Training FLOPs of a run, without padding, recomputation and sampling; 0: its rows are not declared."""
    if not rows.tokens:
        return 0.0
    # Equal for all runs but those of another architecture, objective or shape of a row.
    without = {"name": "", "seed": 0, "init": {}, "tokenizer": {}, "train": {}}
    content = config.to_dict() | without
    content["data"] = content["data"] | {"sources": ()}
    each = _row_flops(json.dumps(content), (rows.tokens, rows.targets))
    return each * config.data.batch_size * steps(config, rows)


@functools.cache
def _row_flops(config_json: str, row: tuple[float, float]) -> float:
    config = configs.from_json(config_json)
    module = build_model(config, 0).module
    if batch_kind(config) == "contrastive":
        trained = {"vision", "text"}
    else:
        trained = {p for p, path in _PARTS.items() if rules.match(config.optimizer.rules, path) != FROZEN}
    adapted = {p for p in trained if config.lora.rank and rules.match(config.lora.targets, _PARTS[p]) == "lora"}
    return step_flops(config, module, row, trained - adapted, adapted)


def equal_steps(config: Any, rows: Rows, other: Any, other_rows: Rows, unit: str) -> int:
    """Steps with which a run spends what another one does, in ``unit``: steps, sequences (a pair is two) or FLOPs.

    Raises:
      UserError: another unit, or FLOPs of a stage that does not declare its row.
    """
    if unit == "steps":
        return steps(other, other_rows)
    if unit == "sequences":
        each, spent = float(_sequences(config)), float(_sequences(other) * steps(other, other_rows))
    elif unit == "flops":
        each, spent = flops(config, rows) / max(steps(config, rows), 1), flops(other, other_rows)
        if not each or not spent:
            raise UserError("equal: FLOPs need the 'row' of both stages")
    else:
        raise UserError(f"equal: '{unit}' is unknown (allowed: {', '.join(UNITS)})")
    return max(1, round(spent / each))


def _sequences(config: Any) -> int:
    return config.data.batch_size * _ANSWERS.get(batch_kind(config), 1)


def rate(study: Study) -> float:
    """FLOP/s that the study's machine reaches; 0: it does not say.

    Raises:
      UserError: an unknown chip.
    """
    machine: Mapping[str, Any] = study.machine
    if "flops_per_s" in machine or not machine:
        return float(machine.get("flops_per_s", 0.0))
    if machine["chip"] not in CHIPS:
        raise UserError(f"{study.file}: machine.chip: '{machine['chip']}' is unknown (allowed: {', '.join(CHIPS)})")
    return CHIPS[machine["chip"]].flops * machine["chips"] * machine["mfu"]


def minutes(graph: Graph, key: str) -> float:
    """Expected time of a run with its measurements: as its stage declares, else from its FLOPs and the machine."""
    run = graph.runs[key]
    if run.trials:
        return 0.1
    if declared := graph.study.stages[run.stage].minutes:
        return declared
    speed = rate(graph.study)
    return run.flops / speed / 60 if speed else UNKNOWN_MIN
