"""Tiny runs on the data set of the training tests."""

from tests.rl.conftest import reward_file, rl_config
from tests.train.conftest import make_config, qwen_sources, world

__all__ = ["make_config", "qwen_sources", "reward_file", "rl_config", "world"]
