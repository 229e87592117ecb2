"""Scores of whole benchmarks from the scores of single answers, each with an interval over its independent units."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from pivot_jax.eval import statistics
from pivot_jax.eval.scoring.parse import plain
from pivot_jax.eval.scoring.scorers import read_yes_no
from pivot_jax.eval.statistics import Interval

MME_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def accuracy(scores: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean score."""
    return statistics.mean(np.asarray(scores, float), seed=seed)


def all_right(scores: Sequence[float], groups: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """Share of groups of which every answer is right; the group is the unit that is resampled.

    MMVP pairs (both of a pair), MMBench circular (all rotations of a question), MME acc⁺ (both questions of an image).
    """
    if len(scores) != len(groups):
        raise ValueError(f"{len(groups)} group labels for {len(scores)} scores")
    right: dict[Hashable, bool] = {}
    for score, group in zip(scores, groups, strict=True):
        right[group] = right.get(group, True) and score >= 1.0
    return statistics.mean(np.array(list(right.values()), float), seed=seed)


def mme(
    answers_given: Sequence[str], golds: Sequence[str], categories: Sequence[str], images: Sequence[Hashable]
) -> dict[str, float]:
    """MME: per category 100·(acc + acc⁺), and the sums over the ten perception and four cognition categories.

    acc is over questions, acc⁺ over images of which both questions are right (Fu et al. 2023).

    Returns:
      category → 0..200, and "perception" (0..2000), "cognition" (0..800).
    """
    result: dict[str, float] = {}
    for category in dict.fromkeys(categories):
        rows = [index for index, name in enumerate(categories) if name == category]
        right = [float(plain(answers_given[row]) == plain(golds[row])) for row in rows]
        both = all_right(right, [images[row] for row in rows]).value
        result[category] = 100 * (float(np.mean(right)) + both)
    totals = {
        "perception": sum(result.get(category, 0.0) for category in MME_PERCEPTION),
        "cognition": sum(result.get(category, 0.0) for category in MME_COGNITION),
    }
    return result | totals


def pope(answers_given: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """POPE: accuracy, precision, recall, F1 of "yes", and the share of "yes" answers, all 0..1 (Li et al. 2023)."""
    given = np.array([read_yes_no(answer) == "yes" for answer in answers_given], bool)
    right = np.array([plain(gold) == "yes" for gold in golds], bool)
    if len(given) == 0 or len(given) != len(right):
        raise ValueError(f"pope: {len(given)} answers for {len(right)} golds")
    true_positive = float((given & right).sum())
    precision = true_positive / given.sum() if given.any() else 0.0
    recall = true_positive / right.sum() if right.any() else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "accuracy": float((given == right).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "yes_share": float(given.mean()),
    }


def by_category(
    scores: Sequence[float],
    categories: Sequence[str],
    combine: Callable[[np.ndarray], Interval] = lambda values: statistics.mean(values),
) -> dict[str, Interval]:
    """One interval per category, in order of first appearance."""
    values = np.asarray(scores, float)
    names = np.asarray(categories)
    return {name: combine(values[names == name]) for name in dict.fromkeys(categories)}


def cambrian_average(results: Mapping[str, float], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The paper's averages: plain mean per group (MME-Perception ÷ 20), and the mean over groups as "average".

    Args:
      results: benchmark → score in percent, "mme_perception" as the 0..2000 sum.
      groups: group → its benchmarks.
    """
    missing = [name for members in groups.values() for name in members if name not in results]
    if missing:
        raise ValueError(f"no result for {', '.join(missing)}; an average over the others would not compare")
    percent = {name: value / 20 if name == "mme_perception" else value for name, value in results.items()}
    means = {group: float(np.mean([percent[name] for name in members])) for group, members in groups.items()}
    return means | {"average": float(np.mean(list(means.values())))}
