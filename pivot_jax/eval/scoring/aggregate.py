"""Scores of whole benchmarks from the scores of single answers, each with an interval over its independent units."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

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


def accuracy(scores: Sequence[float], units: Sequence[Hashable] | None = None, *, seed: int = 0) -> Interval:
    """Mean score; ``units`` [n] are drawn whole, where scores of one unit are not independent."""
    return statistics.mean(np.asarray(scores, float), units, seed=seed)


def all_correct(scores: Sequence[float], units: Sequence[Hashable]) -> np.ndarray:
    """1 for each unit in which every answer is right, else 0: float64 [u], in order of first appearance.

    MMVP pairs (both of a pair), MMBench circular (all rotations of a question), MME acc⁺ (both questions of an image).
    """
    if len(scores) != len(units):
        raise ValueError(f"{len(units)} unit labels for {len(scores)} scores")
    correct: dict[Hashable, bool] = {}
    for score, unit in zip(scores, units, strict=True):
        correct[unit] = correct.get(unit, True) and score >= 1.0
    return np.array(list(correct.values()), float)


def unit_accuracy(scores: Sequence[float], units: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """Mean of :func:`all_correct`; units are resampled."""
    return statistics.mean(all_correct(scores, units), seed=seed)


def mme(
    answers: Sequence[str], golds: Sequence[str], categories: Sequence[str], images: Sequence[Hashable]
) -> dict[str, float]:
    """MME: per category 100·(acc + acc⁺), and the sums over the ten perception and four cognition categories.

    acc is over questions, acc⁺ is the share of images with both questions right (Fu et al. 2023).

    Returns:
      category → 0..200, and "perception" (0..2000), "cognition" (0..800).
    """
    result: dict[str, float] = {}
    for category in dict.fromkeys(categories):
        rows = [index for index, name in enumerate(categories) if name == category]
        correct = [float(plain(answers[row]) == plain(golds[row])) for row in rows]
        both = all_correct(correct, [images[row] for row in rows])
        result[category] = 100 * (float(np.mean(correct)) + float(np.mean(both)))
    totals = {
        "perception": sum(result.get(category, 0.0) for category in MME_PERCEPTION),
        "cognition": sum(result.get(category, 0.0) for category in MME_COGNITION),
    }
    return result | totals


def pope(answers: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """POPE: accuracy, precision, recall, F1 of "yes", and the share of "yes" answers, all 0..1 (Li et al. 2023)."""
    predicted = np.array([read_yes_no(answer) == "yes" for answer in answers], bool)
    positive = np.array([plain(gold) == "yes" for gold in golds], bool)
    if len(predicted) == 0 or len(predicted) != len(positive):
        raise ValueError(f"pope: {len(predicted)} answers for {len(positive)} golds")
    true_positive = float((predicted & positive).sum())
    precision = true_positive / predicted.sum() if predicted.any() else 0.0
    recall = true_positive / positive.sum() if positive.any() else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "accuracy": float((predicted == positive).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "yes_share": float(predicted.mean()),
    }


def by_category(
    scores: Sequence[float], categories: Sequence[str], units: Sequence[Hashable] | None = None
) -> dict[str, Interval]:
    """:func:`accuracy` per category, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(categories):
        rows.setdefault(name, []).append(row)
    return {
        name: accuracy([scores[row] for row in own], None if units is None else [units[row] for row in own])
        for name, own in rows.items()
    }


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
