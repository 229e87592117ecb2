"""The runs of an arm side by side: curves over steps, and what tables print of them, with seeds and questions random.

Letters: r runs (seeds), e steps or epochs, q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.rl.scheme import accuracy, reflection
from pivot_jax.rl.scheme.reflection import Ratios
from pivot_jax.rl.scheme.responses import Responses

Group = tuple[str, str]  # split, setting
Estimate = Interval | float  # a number alone where one run was asked other questions at every step


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only."""

    name: str
    runs: tuple[Responses, ...]

    def groups(self) -> list[Group]:
        """(split, setting) that every run has."""
        return [group for group in self.runs[0].groups if all(group in run.groups for run in self.runs)]


@dataclass(frozen=True)
class Curves:
    """A metric over steps.

    Attributes:
      steps: float [e], those that all runs have.
      values: float [r, e]; NaN where it has no value.
    """

    steps: np.ndarray
    values: np.ndarray


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _ratio(name: str) -> Callable[[Responses, np.ndarray], float]:
    def of(run: Responses, rows: np.ndarray) -> float:
        return getattr(reflection.ratios(run.reflects[rows], run.correct[rows]), name)

    return of


def _majority(run: Responses, rows: np.ndarray) -> float:
    return float(accuracy.majority(run.question[rows], run.answer[rows].tolist(), run.correct[rows]).mean())


# Name → of a run and the indices of its responses at one step.
METRICS: Mapping[str, Callable[[Responses, np.ndarray], float]] = {
    "accuracy": lambda run, rows: _mean(run.correct[rows]),
    "majority vote": _majority,
    "length": lambda run, rows: _mean(run.length[rows]),
    "length, correct": lambda run, rows: _mean(run.length[rows][run.correct[rows]]),
    "length, incorrect": lambda run, rows: _mean(run.length[rows][~run.correct[rows]]),
    "truncated": lambda run, rows: _mean(run.truncated[rows]),
    "repetition loops": lambda run, rows: _mean(run.loops[rows]),
} | {name: _ratio(name) for name in Ratios.__annotations__}


def curves(arm: Arm, group: Group, metric: str) -> Curves:
    """A metric of :data:`METRICS` over the steps of one split and setting."""
    return _curves(arm, group, METRICS[metric])


def pass_curves(arm: Arm, group: Group, k: int) -> Curves:
    """pass@k over steps, unbiased; NaN at a step where a question has fewer responses."""

    def of(run: Responses, rows: np.ndarray) -> float:
        found = accuracy.by_question(run.question[rows], run.correct[rows])
        return float(accuracy.pass_at_k(found, k).mean()) if found.responses.min() >= k else float("nan")

    return _curves(arm, group, of)


def samples(arm: Arm, group: Group) -> int:
    """How many responses every question has, at least, at every step."""
    counts = [
        accuracy.by_question(run.question[rows], run.correct[rows]).responses.min()
        for run in arm.runs
        for rows in _by_step(run, group).values()
    ]
    return int(min(counts))


def _curves(arm: Arm, group: Group, of: Callable[[Responses, np.ndarray], float]) -> Curves:
    found = [_by_step(run, group) for run in arm.runs]
    steps = sorted(set.intersection(*(set(one) for one in found)))
    values = [[of(run, rows[step]) for step in steps] for run, rows in zip(arm.runs, found, strict=True)]
    return Curves(np.asarray(steps), np.asarray(values))


def _by_step(run: Responses, group: Group) -> dict[float, np.ndarray]:
    """Step → indices of its responses."""
    rows = np.flatnonzero(run.group == run.groups.index(group))
    order = rows[np.argsort(run.step[rows], kind="stable")]
    steps, starts = np.unique(run.step[order], return_index=True)
    return dict(zip(steps.tolist(), np.split(order, starts[1:]), strict=True))


def scores(arm: Arm, group: Group) -> np.ndarray | None:
    """avg@k of every question at every step, float [r, e, q]; None where they are not asked the same ones each time."""
    found = [_by_step(run, group) for run in arm.runs]
    steps = sorted(set.intersection(*(set(one) for one in found)))
    out: list[list[np.ndarray]] = []
    asked: list[str] | None = None
    for run, rows in zip(arm.runs, found, strict=True):
        out.append([])
        for step in steps:
            counted = accuracy.by_question(run.question[rows[step]], run.correct[rows[step]])
            names = [run.questions[one] for one in counted.questions]
            order = sorted(range(len(names)), key=names.__getitem__)
            names = [names[index] for index in order]
            if asked is not None and names != asked:
                return None
            asked = names
            out[-1].append(counted.accuracy[order])
    return np.asarray(out)


@dataclass(frozen=True)
class Summary:
    """A line of the paper's table: accuracy of a split and setting, shares.

    Attributes:
      first, last: at the first and the last step; the first is the model before training only where that is step 0.
      mean: over steps. chosen: at each run's best step on validation; None: there is no validation, or it is this.
      maximum: mean of each run's best step on the reported questions themselves, which is too high.
      runs, questions, steps: how many. steps_from: the first step.
    """

    first: Estimate
    last: Estimate
    mean: Estimate
    chosen: Estimate | None
    maximum: float
    runs: int
    questions: int
    steps: int
    steps_from: float


def summary(arm: Arm, group: Group, validation: Group | None = None) -> Summary:
    """Accuracy of an arm on one split and setting.

    Where every run answers the same questions at every step, seeds and questions are random; otherwise (on the training
    prompts) only seeds are, and of one run there is no interval.

    Args:
      validation: the split and setting by which each run's best step is chosen.

    Raises:
      UserError: the runs have no step in common.
    """
    found = curves(arm, group, "accuracy")
    if not len(found.steps):
        raise UserError(f"{arm.name}: its runs have no step in common; leave one out")
    asked = scores(arm, group)
    by_question = found.values[:, :, None] if asked is None else asked  # [r, e, q]
    chosen = None
    if validation is not None and validation != group:
        other = curves(arm, validation, "accuracy")
        shared = np.isin(found.steps, other.steps)
        steps = accuracy.chosen_epochs(other.values[:, np.isin(other.steps, found.steps)])
        chosen = _estimate(np.stack([by_question[run][shared][step] for run, step in enumerate(steps)]))
    return Summary(
        first=_estimate(by_question[:, 0]),
        last=_estimate(by_question[:, -1]),
        mean=_estimate(by_question.mean(axis=1)),
        chosen=chosen,
        maximum=accuracy.over_epochs(found.values).maximum,
        runs=len(arm.runs),
        questions=0 if asked is None else asked.shape[2],
        steps=len(found.steps),
        steps_from=float(found.steps[0]),
    )


def _estimate(values: np.ndarray) -> Estimate:
    """Mean of values [r, q]."""
    return float(values.mean()) if values.size == 1 else statistics.over_seeds(values)


def differences(arms: Sequence[Arm], group: Group) -> dict[str, Interval]:
    """Each arm's mean over steps minus the first arm's, on the same questions and seeds paired by their order.

    Arms with other questions, steps or another number of runs are left out.
    """
    having = [arm for arm in arms if group in arm.groups()]
    if arms[0] not in having:
        return {}
    reference, design = scores(arms[0], group), _design(arms[0], group)
    found = {}
    for arm in having[1:]:
        own = scores(arm, group)
        if reference is not None and own is not None and _design(arm, group) == design:
            found[arm.name] = statistics.difference(own.mean(axis=1), reference.mean(axis=1))
    return found


def _design(arm: Arm, group: Group) -> tuple[int, list[float], list[str]]:
    """Number of runs, steps and questions: what a comparison needs to be the same."""
    run = arm.runs[0]
    asked = {run.questions[one] for one in run.question[run.group == run.groups.index(group)]}
    return len(arm.runs), curves(arm, group, "accuracy").steps.tolist(), sorted(asked)


def ratios_over_ranks(arm: Arm, group: Group, ranks: int) -> Ratios:
    """The reflection ratios as MAYE logs them, of substrings, averaged over steps and runs.

    Args:
      ranks: processes that sampled the responses of a step, as many consecutive ones each.
    """
    found = []
    for run in arm.runs:
        for rows in _by_step(run, group).values():
            of_rank = np.arange(len(rows)) * ranks // len(rows)
            reflects = run.substrings[rows].any(axis=1)
            found.append(reflection.ratios_over_ranks(reflects, run.correct[rows], of_rank))
    return Ratios(*np.mean([list(vars(one).values()) for one in found], axis=0).tolist())


@dataclass(frozen=True)
class Pooled:
    """All responses of a split and setting, of all runs and steps, arrays [n]; ``question`` is the same in all runs."""

    correct: np.ndarray
    reflects: np.ndarray
    length: np.ndarray
    question: np.ndarray
    loops: np.ndarray
    truncated: np.ndarray
    substrings: np.ndarray  # [n, w]
    whole: np.ndarray  # [n, w]
    position: np.ndarray
    change: np.ndarray


def pooled(arm: Arm, group: Group) -> Pooled:
    """All responses of an arm in one split and setting."""
    numbers: dict[str, int] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    for run in arm.runs:
        rows = np.flatnonzero(run.group == run.groups.index(group))
        names = np.asarray([numbers.setdefault(name, len(numbers)) for name in run.questions])
        own = (run.correct, run.reflects, run.length, names[run.question], run.loops, run.truncated)
        parts.append(tuple(one[rows] for one in (*own, run.substrings, run.whole, run.position, run.change)))
    return Pooled(*(np.concatenate(one) for one in zip(*parts, strict=True)))
