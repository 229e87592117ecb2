"""Small runs of every kind, and the lines of docs/torture.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.rl.conftest import reward_file, rl_config
from tests.train.conftest import LORA, lora_runs, make_config, source, world

__all__ = ["lora_runs", "make_config", "reward_file", "rl_config", "world"]
KINDS = ("contrastive", "sft", "dpo", "packed", "lora", "grpo")


@pytest.fixture
def config_of(make_config, rl_config, lora_runs, world):
    """Function (kind, overrides) → a config."""
    pairs = (source(world, "next_dpo"),)
    own: dict[str, dict[str, Any]] = {
        "contrastive": dict(objective__name="contrastive"),
        "sft": {},
        "dpo": dict(objective__name="dpo", data__sources=pairs),
        "packed": dict(data__packing=2),
        "lora": dict(init={"": f"run:{lora_runs / 'base'}"}, **LORA),
        "grpo": dict(rl__minibatches=2, rl__kl_coefficient=0.01),
    }

    def make(kind: str, **changes: Any) -> Any:
        return (rl_config if kind == "grpo" else make_config)(**own[kind] | changes)

    return make


@pytest.fixture
def note():
    """Function (what was done, to which run, times, what happened, longest delay in seconds) → a line of the table."""

    def write(what: str, kind: str, times: int, outcome: str, delay: float | None = None) -> None:
        if path := os.environ.get("PIVOT_TORTURE"):
            line = dict(what=what, kind=kind, times=times, outcome=outcome, delay=delay)
            with Path(path).open("a") as file:
                file.write(json.dumps(line) + "\n")

    return write
