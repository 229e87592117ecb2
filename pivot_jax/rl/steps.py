"""The four steps of online RL, called one by one, to look at what flows between them. Training is :mod:`rl.loop`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivot_jax.data.loading.prompts import PromptRows
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import UserError
from pivot_jax.models import lora
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.policy import policy_stats, token_losses
from pivot_jax.objectives.policy_losses import ratios
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.objectives.table import batch_kind
from pivot_jax.optim import partition
from pivot_jax.parallel import runtime
from pivot_jax.parallel.mesh import place_batch
from pivot_jax.rl import collection, update
from pivot_jax.rl import trajectory as trajectories
from pivot_jax.rl.groups import Group
from pivot_jax.rl.parts import build_parts
from pivot_jax.rl.rewards.composition import Scores
from pivot_jax.rl.rewards.function import read_rewards
from pivot_jax.rl.trajectory import Trajectory
from pivot_jax.rollout.engine import Rollouts
from pivot_jax.train import reference
from pivot_jax.train.run import check_loaded
from pivot_jax.train.setup import build_setup, starting_params


@dataclass(frozen=True)
class TokenLosses:
    """The policy loss of each token of a batch's responses, responses after each other: [m] each.

    Attributes:
      tokens: int32, their ids. responses: int, the number of the response in the batch.
      advantages, logps: float32. old_logps: at the start of the update; where the batch stores none they are ``logps``.
      ratios: ρ of the ratio level (``rl.ratio``); 1 in the first optimizer step after a rollout.
      losses: after the clip, before the aggregation over tokens (``rl.aggregation``).
      clip: the clip form's metrics by name: 1 where it takes the gradient away.
    """

    tokens: np.ndarray
    responses: np.ndarray
    advantages: np.ndarray
    logps: np.ndarray
    old_logps: np.ndarray
    ratios: np.ndarray
    losses: np.ndarray
    clip: Mapping[str, np.ndarray]


class OnlineRL:
    """Online RL of a config from its starting weights, a step at a time. Use it in a ``with``; or close it.

    Prompts, responses and updates are those of ``pj.train`` with the same config, whose loop makes the same calls.
    Nothing is logged or saved::

        with pj.OnlineRL(config) as rl:
            prompts = rl.prompts()
            rollouts = rl.responses(prompts)
            groups, scores = rl.rewards(prompts, rollouts)
            trajectory = rl.trajectory(groups)
            for batch in rl.minibatches(trajectory):
                metrics = rl.update(batch)

    Raises:
      UserError: a config of another objective, or anything in it that does not fit together; a filter of groups, for
        which the loop samples further rounds of prompts.
    """

    def __init__(self, config: Any):
        check_loaded(config)
        if batch_kind(config) != "policy":
            raise UserError(f"objective.name: {config.objective.name!r} is not online RL; set it to 'policy'")
        if config.rl.algorithm and (found := algorithm_of(config.rl).filter) != "none":
            raise UserError(f"rl.filter: {found!r} needs the whole loop; set it to 'none', or use pj.train")
        read_rewards(config.rl.rewards, config.rl.reward_timeout_s)  # a typo is found before anything is read or made
        runtime.cache_programs()
        self.config, self._setup = config, build_setup(config, None, check_init=True)
        with jax.set_mesh(self._setup.mesh):
            starting = starting_params(self._setup)
            self._state = self._setup.fresh_state(starting)
            needed = self._setup.objective.reference is not None and not self._setup.keeps_base
            self._reference = reference.copied(starting) if needed else None
        self._program = self._setup.compiled_step()
        self._parts = build_parts(self._setup, Path())
        banned = self._parts.distribution.banned_ids
        self._losses = jax.jit(partial(_token_losses, self._setup.model.module, config.rl, banned))

    def __enter__(self) -> OnlineRL:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the sampler and the processes of the rewards."""
        self._parts.close()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self._state.step)

    @property
    def rollout(self) -> int:
        """Number of the rollout that is next, or whose update is not finished, from 0."""
        return self.step // self._parts.updates

    @property
    def params(self) -> dict[str, Any]:
        """The policy's parameters of now; the next :meth:`update` takes their memory."""
        return partition.merge(self._state.trained, self._state.frozen)

    @property
    def algorithm(self) -> Algorithm:
        """The parts of ``rl.algorithm`` and their settings, the config's own among them."""
        return self._parts.algorithm

    @property
    def processor(self) -> Processor:
        """Of prompts: its ``chat`` has the tokenizer."""
        return self._parts.processor

    def prompts(self) -> PromptRows:
        """Step I, data flow: the ``data.batch_size`` prompts of the rollout, tokenised, with references to images."""
        rows = self._setup.loader.rows_at(self.rollout)
        self._parts.keep_images(rows.rows)
        return rows

    def responses(self, prompts: PromptRows) -> Rollouts:
        """Step II, response collection: ``rl.responses`` to each prompt by the policy of now, with their log-probs."""
        number = self.rollout * self.config.rl.max_rounds
        with jax.set_mesh(self._setup.mesh):
            return collection.collect_responses(
                self._parts, self.params, self.step, prompts, number, lambda count: None
            )

    def texts(self, rollouts: Rollouts) -> list[list[str]]:
        """The responses to each prompt as texts."""
        return collection.texts_of(self._parts.processor, rollouts)

    def rewards(self, prompts: PromptRows, rollouts: Rollouts) -> tuple[list[Group], Scores]:
        """Step III, trajectory generation, first half: each prompt with its responses and rewards, and all scores."""
        return collection.score_responses(self._parts.rewards, prompts, rollouts, self.texts(rollouts))

    def trajectory(self, groups: Sequence[Group]) -> Trajectory:
        """Step III, second half: log-probs of policy and reference, and the advantage of every token."""
        compared = lora.base(self._state.frozen) if self._setup.keeps_base else self._reference
        with jax.set_mesh(self._setup.mesh):
            return trajectories.generate_trajectory(self._parts, self.params, self.step, compared, groups)

    def minibatches(self, trajectory: Trajectory) -> Iterator[Any]:
        """The batches of step IV: ``rl.epochs`` passes over the trajectory in ``rl.minibatches``."""
        return update.minibatches(self._parts, trajectory, self.rollout)

    def token_losses(self, batch: Any) -> TokenLosses:
        """What the loss of a batch is made of, token by token, under the policy of now; changes nothing."""
        with jax.set_mesh(self._setup.mesh):
            mask, own, clip = jax.device_get(self._losses(self.params, place_batch(batch, self._setup.mesh)))
        scored = mask > 0
        numbers = np.arange(len(scored))[:, None] * self._parts.per_row + np.asarray(batch.target_branches) - 1
        own, clip = jax.tree.map(lambda values: values[scored], (own, clip))
        return TokenLosses(np.asarray(batch.targets)[scored], numbers[scored], **own, clip=clip)

    def update(self, batch: Any) -> dict[str, float]:
        """Step IV, policy update: one optimizer step. Returns its metrics, ``loss`` and ``grad_norm`` among them.

        Raises:
          UserError: loss or gradient is not finite; no parameter was changed.
        """
        with jax.set_mesh(self._setup.mesh):
            self._state, found = self._program(self._state, place_batch(batch, self._setup.mesh), None)
        metrics = {name: float(value) for name, value in jax.device_get(found).items()}
        if not metrics.pop("healthy"):
            raise UserError(f"loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; no parameter was changed")
        return metrics


def _token_losses(module: Any, section: Any, banned_ids: tuple[int, ...], params: Any, batch: Any) -> Any:
    """The mask of the responses' tokens, what :class:`TokenLosses` shows of them, and ``clip``: [b, t] each."""
    stats = policy_stats(module, section, banned_ids, params, batch)
    losses, clip = token_losses(algorithm_of(section), stats)
    shown = {
        "advantages": stats.advantages,
        "logps": stats.logps,
        "old_logps": stats.old_logps,
        "ratios": ratios(stats, algorithm_of(section)),
        "losses": losses,
    }
    return stats.mask, shown, clip
