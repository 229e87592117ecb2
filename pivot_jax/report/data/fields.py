"""Which fields of the rows the rewards of online RL read, without running a user's code."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pivot_jax.rl.rewards.function import TEXTS, Reward, columns_of, read_rewards
from pivot_jax.rl.rewards.table import REWARDS


class Read(NamedTuple):
    """A column and what reads it. ``required``: the reward cannot do without it."""

    column: str
    reward: str
    required: bool


def read_columns(config: Any) -> list[Read]:
    """The columns that each entry of ``rl.rewards`` reads, as far as that can be known without running its code.

    Raises:
      UserError: as ``read_rewards``.
    """
    out = []
    for reward in read_rewards(config.rl.rewards, config.rl.reward_timeout_s):
        if reward.built_in:
            found = columns_of(reward, REWARDS[reward.name])
            out += [Read(name, reward.label, True) for name in found.required]
            out += [Read(name, reward.label, False) for name in found.optional]
        else:
            out += [Read(name, reward.label, required) for name, required in _parameters(reward).items()]
    return [one for one in out if one.column]


def _parameters(reward: Reward) -> Mapping[str, bool]:
    """Parameter → whether it has no default, of a function of the user in a file, which is not run."""
    where, _, name = reward.name.rpartition(":")
    if not where.endswith(".py"):
        return {}
    for node in ast.parse(Path(where).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            own = node.args
            given = [*own.posonlyargs, *own.args]
            without = len(given) - len(own.defaults)
            found = {one.arg: index < without for index, one in enumerate(given)}
            found |= {one.arg: default is None for one, default in zip(own.kwonlyargs, own.kw_defaults, strict=True)}
            return {key: need for key, need in found.items() if key not in TEXTS and key not in reward.options}
    return {}
