"""Step III, trajectory generation: log-probs of policy and reference, advantages, and the rows to train on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import as_text, group_row
from pivot_jax.data.processing.images import load
from pivot_jax.models import value_head
from pivot_jax.models.logprobs import score_states, target_states, target_states_and_similarity
from pivot_jax.objectives import advantages as estimators
from pivot_jax.objectives import perception
from pivot_jax.objectives.filters import reward_metrics
from pivot_jax.objectives.importance import correction
from pivot_jax.objectives.policy import stored_values
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import place_batch
from pivot_jax.rl.groups import Group
from pivot_jax.rl.parts import Parts
from pivot_jax.shapes import bucket

log = logging.getLogger(__name__)
IN_A_ROW = 3  # rollouts without an advantage, before a warning
# Sequences of an update are padded to these, or twice, four times, ... as many: so small for answers of one word.
TOKEN_STEP, TARGET_STEP = 32, 16


@dataclass(frozen=True)
class Trajectory:
    """This process's part of a policy update.

    Attributes:
      groups: prompts with their responses, at most as many as an update has.
      values: of each response (groups after each other), float32 [t], by the name of the batch's field.
      metrics: of the whole rollout, all processes.
    """

    groups: Sequence[Group]
    values: Mapping[str, Sequence[np.ndarray]]
    metrics: Mapping[str, float]


class Unvaried:
    """Warns once where rollouts in a row have nothing to teach: rewards that are equal, and advantages that are 0."""

    def __init__(self) -> None:
        self._count, self._warned = 0, False

    def note(self, trajectory: Trajectory) -> None:
        """Call it with every rollout."""
        reward = trajectory.metrics
        equal = reward["frac_reward_zero_std"] == 1.0 or reward["reward_std"] <= 1e-8
        taught = not trajectory.groups or not equal or any(map(np.any, trajectory.values["advantages"]))
        self._count = 0 if taught else self._count + 1
        if self._count == IN_A_ROW and not self._warned and is_first():
            self._warned = True
            log.warning(
                "%d rollouts in a row taught nothing: all responses to a prompt had the same reward (mean %.4g), and "
                "every advantage is 0; look at completions/, and at what rl.rewards gives them",
                IN_A_ROW, reward["reward"],
            )  # fmt: skip


def generate_trajectory(parts: Parts, params: Any, version: int, reference: Any, groups: Sequence[Group]) -> Trajectory:
    """Advantages of all responses, and the log-probs that the policy update reads (``policy.stored_values``).

    Args:
      params: of the policy now, after ``version`` optimizer steps. reference: of the reference model, or None.

    Raises:
      UserError: the algorithm's settings do not fit the batch.
    """
    algorithm, n = parts.algorithm, parts.setup.config.rl.responses
    responses = [one for group in groups for one in group.responses]
    values, tokens = _passes(parts, params, version, reference, groups)
    lengths = _all_processes(np.asarray([len(one.tokens) for one in responses], np.int64), parts, n, 0)
    longest = int(lengths.max(initial=1))
    gather = partial(_table, parts, n, longest)
    mask = np.arange(longest) < lengths[:, None]
    total = _all_processes(np.concatenate([np.zeros(0), *(group.total for group in groups)]), parts, n, np.nan)
    labels = list(parts.rewards.labels)
    columns = [
        _all_processes(np.concatenate([np.zeros(0), *(group.rewards[label] for group in groups)]), parts, n, np.nan)
        for label in labels
    ]
    tables = {name: gather(own) for name, own in values.items()}
    scores = estimators.Scores(
        rewards=total,
        groups=np.repeat(np.arange(len(total) // n), n),
        lengths=np.maximum(lengths, 1),
        parts=(np.stack(columns, axis=1), parts.rewards.weights) if labels else None,
        old_logps=tables.get("old_logps"),
        ref_logps=tables.get("ref_logps"),
        values=tables.get("old_values"),
    )
    metrics = reward_metrics(scores)
    for label, column in zip(labels, columns, strict=True):
        known = column[np.isfinite(column)]
        metrics[f"rewards/{label}/mean"] = float(known.mean()) if known.size else float("nan")
        metrics[f"rewards/{label}/std"] = float(known.std(ddof=1)) if known.size > 1 else 0.0
    own = slice(parts.first_prompt * n, None)
    found = estimators.advantages(algorithm, scores)[own]
    if algorithm.token_weights != "none":
        tokens |= {name: values[name] for name in ("old_logps", "masked_logps") if name in values}
        progress = version / parts.setup.loader.total_steps
        gathered = perception.Tokens(mask, progress=progress, **{name: gather(x) for name, x in tokens.items()})
        weights = perception.TOKEN_WEIGHTS[algorithm.token_weights].function(gathered)
        found = (found * weights[own]).astype(np.float32)
    values["advantages"] = [found[i, : len(one.tokens)] for i, one in enumerate(responses)]
    if "old_values" in values:
        returns = estimators.value_targets(scores, algorithm)
        values["returns"] = [returns[own][i, : len(one.tokens)] for i, one in enumerate(responses)]
        metrics |= estimators.value_metrics(scores, returns)
    if "old_logps" in values:
        sampling = [one.sampling_logps for one in responses]
        fix = correction(algorithm, tables["old_logps"], gather(sampling), mask)
        metrics |= fix.metrics
        values["sampling_logps"] = sampling
        if fix.weights is not None:
            weights = fix.weights[own]
            values["importance"] = [weights[i, : len(one.tokens)] for i, one in enumerate(responses)]
    metrics |= _completion_metrics(parts, groups, lengths, n)
    return Trajectory(groups, values, metrics)


def _passes(
    parts: Parts, params: Any, version: int, reference: Any, groups: Sequence[Group]
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """What ``policy.stored_values`` names of the model's own, and what weights of tokens need besides.

    Of each response float32 [t] by name. The policy's come from one pass; the reference, and masked images, cost one
    each.
    """
    names = stored_values(parts.setup.config.rl)
    values: dict[str, list[np.ndarray]] = {}
    tokens: dict[str, list[np.ndarray]] = {}
    if "old_logps" in names:
        more: tuple[str, ...] = ("values",) if "old_values" in names else ()
        more += ("similarity",) if perception.needs_similarity(parts.algorithm) else ()
        tokens = teacher_forced(parts, params, groups, more)
        values["old_logps"] = tokens.pop("logps")
        if "values" in more:
            values["old_values"] = tokens.pop("values")
    if "ref_logps" in names:
        values["ref_logps"] = teacher_forced(parts, reference, groups)["logps"]
    if "masked_logps" in names:
        values["masked_logps"] = teacher_forced(parts, params, _masked(parts, groups, version))["logps"]
    return values, tokens


def teacher_forced(
    parts: Parts, params: Any, groups: Sequence[Group], more: tuple[str, ...] = ()
) -> dict[str, list[np.ndarray]]:
    """``logps`` and ``entropy`` at every token of each response, float32 [t] each, under ``params``.

    In the shapes of the policy update. One pass over the rows.

    Args:
      more: also ``values`` (of the value head, of the state that predicts the token), ``similarity`` (of the token to
        the image).
    """
    module, distribution = parts.setup.model.module, parts.distribution
    rows = response_rows(parts, groups)
    size = common_bucket(rows)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("logps", "entropy", *more)}
    per_update = len_of_update(parts)
    for start in range(0, parts.prompts * rows_per_group(parts), per_update):
        chunk: list[EncodedRow | None] = list(rows[start : start + per_update])
        chunk += [None] * (per_update - len(chunk))
        batch = batch_of(parts, chunk, size, {})
        out = _score(module, distribution, more, params, place_batch(batch, parts.setup.mesh))
        for name, into in found.items():
            values = out[name]
            for row, own in zip(chunk, _own_rows(values, per_update), strict=True):
                if row is not None:
                    into += np.split(own[: len(row.targets)], _ends(row))
    return found


def _masked(parts: Parts, groups: Sequence[Group], version: int) -> list[Group]:
    """The groups with black squares in their images, for the pass without part of the image."""
    share, seed = parts.algorithm.masked_share, parts.setup.config.seed
    found = []
    for group in groups:
        rng = np.random.default_rng([seed, version, group.number])
        images = tuple(perception.masked_image(np.asarray(load(image)), share, rng) for image in group.row.images)
        found.append(replace(group, row=replace(group.row, images=images)))
    return found


def response_rows(parts: Parts, groups: Sequence[Group]) -> list[EncodedRow]:
    """Rows of prompt and responses, ``per_row`` responses each, group after group."""
    rows = []
    for group in groups:
        tokens = [one.tokens.tolist() for one in group.responses]
        for start in range(0, len(tokens), parts.per_row):
            rows.append(group_row(group.row, tokens[start : start + parts.per_row]))
    return [as_text(row) for row in rows] if parts.setup.config.rl.text_positions else rows


def rows_per_group(parts: Parts) -> int:
    return -(-parts.setup.config.rl.responses // parts.per_row)


def len_of_update(parts: Parts) -> int:
    """Rows of this process in one optimizer step."""
    return parts.prompts // parts.setup.config.rl.minibatches * rows_per_group(parts)


def common_bucket(rows: Sequence[EncodedRow]) -> tuple[int, int]:
    """Static (tokens, targets) of a sequence that hold all rows of all processes."""
    sizes = np.asarray([max((len(getattr(row, name)) for row in rows), default=1) for name in ("tokens", "targets")])
    if jax.process_count() > 1:
        sizes = multihost_utils.process_allgather(sizes).max(axis=0)
    return bucket(int(sizes[0]), TOKEN_STEP), bucket(int(sizes[1]), TARGET_STEP)


def batch_of(
    parts: Parts,
    rows: Sequence[EncodedRow | None],
    size: tuple[int, int],
    values: Mapping[str, Sequence[np.ndarray | None]],
    numbers: Sequence[int] | None = None,
) -> Any:
    """This process's rows as a batch, images included. ``numbers``: of their prompts, -1 of a masked row."""
    processor = parts.processor.for_kind("preference")
    images = processor.geometry.empty(len(rows), processor.arrays_per_row)
    for index, row in enumerate(rows):
        if row is not None and len(row.images):
            for whole, own in images.pairs(parts.reader(row.images)):
                whole[index, : len(own)] = own
    row_index = None if numbers is None else np.asarray(numbers)
    batch = processor.batch(rows, images, size, row_index, target_values=values)
    return parts.features.attach(batch, rows) if parts.features else batch


@partial(jax.jit, static_argnums=(0, 1, 2))
def _score(module: Any, distribution: Any, more: tuple[str, ...], params: Any, batch: Any) -> dict[str, Any]:
    found = {}
    if "similarity" in more:
        states, found["similarity"] = target_states_and_similarity(module, params, batch)
    else:
        states = target_states(module, params, batch)
    if "values" in more:
        found["values"] = value_head.values(params, states)
    scores = score_states(params, states, batch, distribution)
    return found | {"logps": scores.logps, "entropy": scores.entropy}


def _own_rows(out: Any, count: int) -> np.ndarray:
    """This process's rows of an array over all rows."""
    if jax.process_count() == 1:
        return np.asarray(out)
    whole = np.asarray(multihost_utils.process_allgather(out, tiled=True))
    return whole[jax.process_index() * count :][:count]


def _ends(row: EncodedRow) -> np.ndarray:
    """Where the targets of each response but the last end."""
    counts = np.bincount(row.target_branches)[1:]
    return np.cumsum(counts)[:-1]


def _all_processes(own: np.ndarray, parts: Parts, n: int, fill: float) -> np.ndarray:
    """One value per response of this process, filled up to those of an update, as those of all processes: [N]."""
    padded = np.full(parts.prompts * n, fill, own.dtype)
    padded[: len(own)] = own
    if jax.process_count() == 1:
        return padded
    return np.asarray(multihost_utils.process_allgather(padded)).reshape(-1)


def _table(parts: Parts, n: int, longest: int, own: Sequence[np.ndarray]) -> np.ndarray:
    """Values of each response's tokens as one array of all processes: float32 [N, longest], 0 after the end."""
    out = np.zeros((parts.prompts * n, longest), np.float32)
    for index, values in enumerate(own):
        out[index, : len(values)] = values
    if jax.process_count() == 1:
        return out
    return np.asarray(multihost_utils.process_allgather(out)).reshape(-1, longest)


def _completion_metrics(parts: Parts, groups: Sequence[Group], lengths: np.ndarray, n: int) -> dict[str, float]:
    stopped = np.asarray([one.finish == "stop" for group in groups for one in group.responses], np.float64)
    ended = _all_processes(stopped, parts, n, np.nan)
    real = np.isfinite(ended)
    if not real.any():
        return {}
    used, ended = lengths[real], ended[real] > 0
    metrics = {
        "completions/mean_length": float(used.mean()),
        "completions/min_length": float(used.min()),
        "completions/max_length": float(used.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
    }
    if ended.any():
        metrics["completions/mean_terminated_length"] = float(used[ended].mean())
    return metrics
