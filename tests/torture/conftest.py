"""Small runs of every kind, and the lines of docs/torture.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pivot_jax import config as configs
from tests.rl.conftest import completions, reward_file, rl_config
from tests.tiny.kills import ONE_DEVICE, same_bits, trace
from tests.train.conftest import LORA, lora_runs, make_config, source, world

__all__ = ["lora_runs", "make_config", "reward_file", "rl_config", "world"]
ENVIRONMENT = ONE_DEVICE | {"PYTHONPATH": str(Path(__file__).parents[2])}
KINDS = ("contrastive", "sft", "dpo", "packed", "lora", "grpo")


def command(config: object, folder: Path, name: str = "run") -> list[str]:
    file = folder / f"{name}.json"
    file.write_text(configs.to_json(config))
    return [sys.executable, "-m", "pivot_jax.cli", "train", "--config", str(file), "--workdir", str(folder / name)]


def whole_of(config: object, folder: Path) -> Path:
    """The reference, trained in a process of the same kind."""
    subprocess.run(command(config, folder, "whole"), check=True, env=ENVIRONMENT, capture_output=True, timeout=1200)
    return folder / "whole"


def same(ours: Path, theirs: Path) -> None:
    same_bits(ours, theirs)
    assert trace(ours) == trace(theirs)
    assert completions(ours) == completions(theirs)


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
