"""One rollout and the policy update after it: numbers, clocks, records, and the position to resume from."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pivot_jax.data.loading.prompts import PromptRows
from pivot_jax.errors import UserError
from pivot_jax.parallel.hosts import is_first
from pivot_jax.rl.completions import Answered, table, with_values
from pivot_jax.rl.groups import Collected, Group, Selection
from pivot_jax.rl.parts import Parts
from pivot_jax.rl.records import Stored
from pivot_jax.rl.rewards.composition import Scores
from pivot_jax.rl.trajectory import Trajectory
from pivot_jax.train.session import Session, Taken

log = logging.getLogger(__name__)


class Phase:
    """A rollout and its update.

    Attributes:
      number: of the rollout, from 0.
      done: optimizer steps of its update that are done; above 0 at the start where the run was stopped inside.
    """

    def __init__(self, parts: Parts, session: Session):
        self.parts, self.session = parts, session
        self.number, self.done = divmod(session.step, parts.updates)
        self._rounds, self._waited = 0, 0.0
        self._state: Any = None
        self._first: Taken | None = None  # prompts of the first round
        self._answered: list[Answered] = []
        self._failures: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._collected: Collected | None = None
        parts.reader.listen = self.listen

    @property
    def resumed(self) -> bool:
        """Whether the run was stopped between two optimizer steps of this rollout."""
        return self.done > 0

    def load(self, state: Any) -> Trajectory:
        """The trajectory that the stopped run had stored."""
        if self.parts.features is not None:
            self.parts.features.update(state.frozen)
        stored = self.parts.records.load(self.number, self.parts.setup.loader.data.prompt)
        return Trajectory(stored.groups, stored.values, {})

    def surplus(self) -> Sequence[Group]:
        """Groups that the update before did not need."""
        if self.parts.algorithm.filter == "none" or self.number == 0:
            return ()
        return self.parts.records.load(self.number - 1, self.parts.setup.loader.data.prompt).surplus

    def needs_more(self, collected: Collected) -> bool:
        """Whether to sample another round of prompts; every process gets the same answer."""
        missing, limit = collected.missing, self.parts.setup.config.rl.max_rounds
        if jax.process_count() > 1:
            missing = int(multihost_utils.process_allgather(np.asarray(missing)).max())
        if missing and self._rounds == limit and is_first():
            log.warning(
                "rollout %d: %d of %d groups are missing after %d rounds of prompts (rl.max_rounds); the update has "
                "fewer", self.number, missing, collected.size, limit,
            )  # fmt: skip
        return bool(missing) and self._rounds < limit

    def take(self, state: Any) -> PromptRows:
        """The next prompts."""
        self._state = state
        taken = self.session.take(state)
        self._first = self._first or taken
        self._waited += taken.waited
        self._rounds += 1
        prompts: PromptRows = taken.batch
        if self._rounds == 1:  # those of further rounds are kept beside them: the update may have groups of all rounds
            self.parts.keep_images(prompts.rows)
        return prompts

    @property
    def round(self) -> int:
        """Number of this round of prompts among those of the run, for its random numbers."""
        return self.number * self.parts.setup.config.rl.max_rounds + self._rounds - 1

    def progress(self, count: int) -> None:
        """Called during a rollout with how many responses are new."""
        self.listen()

    def listen(self) -> None:
        """A signal stops the run here while it makes a trajectory, with the state before the rollout saved."""
        if self._state is not None and self._first is not None:
            self.session.stop_between_steps(self._state, self._first.position)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the block's time to ``perf/NAME_s``. If it fails, the state before the rollout is saved."""
        started = time.perf_counter()
        try:
            yield
        except UserError:
            if self._first is not None:
                self.session.save_before_error(self._state, self._first.position)
            raise
        self._seconds[name] += time.perf_counter() - started

    def note(self, selection: Selection, scores: Scores, texts: Sequence[Sequence[str]]) -> None:
        """Keeps what a round leaves: its completions, and the rewards that failed."""
        self._answered += [Answered(*pair) for pair in zip(selection.groups, texts, strict=True)]
        self._failures.update(scores.counts)
        for failure in scores.failures[:3]:
            log.warning("row '%s': reward '%s' failed (%s): %s", *failure)
        failed = Counter(failure.reward for failure in scores.failures)
        for label, count in failed.items():
            if count == len(scores.total):
                log.warning("reward '%s' failed for every completion of rollout %d", label, self.number)

    def save(self, trajectory: Trajectory, collected: Collected) -> None:
        """Stores the update, which a stopped run resumes, and the completions of the rollout; shows some of them."""
        groups, surplus = collected.take()
        self._collected = collected
        kept_from = min(self.session.saved_steps, default=0) // self.parts.updates
        self.parts.records.save(self.number, Stored(groups, trajectory.values, surplus))
        answered = with_values([*self._earlier(groups), *self._answered], groups, trajectory.values)
        every = self.parts.setup.config.rl.show_every
        shows = bool(every) and self.number % every == 0
        self.parts.records.write_completions(self.number, answered, thumbnails=shows)
        if shows:
            self.session.show(table(answered))
        self._state = None  # the update donates it
        self.parts.records.forget(kept_from - 1)  # the surplus of the rollout before is needed too

    def _earlier(self, groups: Sequence[Group]) -> list[Answered]:
        """The groups of an update that were sampled in an earlier rollout."""
        own = {id(one.group) for one in self._answered}
        decode = self.parts.processor.chat.decode
        return [Answered(g, [decode(one.tokens) for one in g.responses]) for g in groups if id(g) not in own]

    def record(self, trajectory: Trajectory, batch: Any, metrics: Mapping[str, Any], flops: float, state: Any) -> None:
        """Records an optimizer step; the first one of the update also logs what the rollout was like."""
        taken, metrics = Taken(batch, self.session.position(), 0.0), dict(metrics)
        if self.done == 0:
            metrics |= {**trajectory.metrics, **self._own_metrics()}
            # A step that is rejected is done again from its rollout on.
            taken = Taken(batch, self._first.position if self._first else taken.position, self._waited)
        self.session.record(taken, metrics, flops, state)
        self.done += 1

    def _own_metrics(self) -> dict[str, float]:
        found = {f"perf/{name}_s": seconds for name, seconds in self._seconds.items()}
        found |= {f"rewards/{name}/failures": float(count) for name, count in self._failures.items()}
        if self._collected is not None and self.parts.algorithm.filter != "none":
            found["sampling/rounds"] = float(self._rounds)
            found["sampling/filtered_ratio"] = self._collected.dropped / max(self._collected.sampled, 1)
        return found
