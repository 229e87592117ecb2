"""Tiny online RL runs on the data set of the training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import make_config, source, world

__all__ = ["make_config", "world"]


def completions(workdir: Path) -> dict[str, str]:
    """Content of all files of sampled responses."""
    return {path.name: path.read_text() for path in sorted((workdir / "completions").glob("*.jsonl"))}


@pytest.fixture
def reward_file(tmp_path) -> Path:
    """A user's reward: 1 for each "e" in the completion."""
    path = tmp_path / "letters.py"
    path.write_text(
        'def count(prompts, completions, **columns):\n    return [float(c.count("e")) for c in completions]\n'
    )
    return path


@pytest.fixture
def rl_config(make_config, world, reward_file):
    """Function (overrides) → a run of rollouts of 4 prompts with 4 responses of up to 8 tokens."""

    def make(**changes: Any) -> Any:
        settings = {
            "objective__name": "policy",
            "rl__algorithm": "trl-grpo",
            "rl__rewards": ({"name": f"{reward_file}:count"},),
            "rl__responses": 4,
            "rl__max_tokens": 8,
            "rl__block": 4,
            "data__batch_size": 4,
            "data__sources": (source(world, "llava"),),
            "train__steps": 4,
        }
        return make_config(**settings | changes)

    return make
