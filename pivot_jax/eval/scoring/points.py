"""Aggregates that are no mean of right answers: MME's and OCRBench's points, POPE's F1, as statistics of sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.aggregate import Aggregate, Scored, Summary, Sums, of_sums, positions, ratio, units_of
from pivot_jax.eval.scoring.scorers import HANDWRITTEN

MME_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _mme(rows: Sequence[Scored], seed: int) -> Summary:
    """MME (Fu et al. 2023): 100·(acc + acc⁺) per category, summed over ten perception and four cognition categories.

    acc is over questions; acc⁺ is the share of images with all of their questions right. A unit is an image.
    """
    units = list(positions([(row.gold.category, row.unit) for row in rows]).items())
    categories = list(dict.fromkeys(category for (category, _), _ in units))
    sums = np.zeros((len(units), 4, len(categories)))  # right questions, questions, images with all right, images
    for row, ((category, _), own) in zip(sums, units, strict=True):
        right = [float(rows[index].verdict) for index in own]
        row[:, categories.index(category)] = sum(right), len(own), min(right) >= 1, 1

    def points(names: Sequence[str]) -> Sums:
        which = [index for index, name in enumerate(categories) if name in names]
        return lambda s: 100 * (ratio(s[:, 0, which], s[:, 1, which]) + ratio(s[:, 2, which], s[:, 3, which])).sum(-1)

    values = {"perception": points(MME_PERCEPTION), "cognition": points(MME_COGNITION)}
    found = of_sums(sums, values | {name: points([name]) for name in categories}, shares=False, seed=seed)
    return Summary("perception", found.pop("perception"), found, percent=False)


def pope(metric: str = "f1", unread: bool = True) -> Aggregate:
    """POPE (Li et al. 2023): accuracy, precision, recall and F1 of "yes", and the share of "yes" among the answers.

    A row of several categories ("adversarial,popular": VLMEvalKit's file holds each question once) counts in each.

    Args:
      metric: the headline. "f1" or "accuracy" over all rows, or "mean_f1" of the three categories.
      unread: recall and F1 count an answer that is neither yes nor no. lmms-eval leaves it out there.
    """

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        labels = [row.gold.category.split(",") for row in rows]
        names = list(dict.fromkeys(name for own in labels for name in own))
        sums = np.zeros((len(rows), 5, len(names)))  # true positives, said yes, is yes, right, all
        for one, own, row in zip(sums, labels, rows, strict=True):
            said, true = row.verdict.read == "yes", parse.plain(row.gold.answer) == "yes"
            counted = true and (unread or row.verdict.read != "")
            one[:, [names.index(name) for name in own]] = np.array(
                [said and true, said, counted, float(row.verdict), 1], float
            )[:, None]
        units = units_of(rows) if all(row.unit is not None for row in rows) else None
        pooled: dict[str, Sums] = {
            "f1": lambda s: _f1(s.sum(-1)),
            "mean_f1": lambda s: _f1(s).mean(-1),
            "accuracy": lambda s: ratio(s[:, 3].sum(-1), s[:, 4].sum(-1)),
            "precision": lambda s: ratio(s[:, 0].sum(-1), s[:, 1].sum(-1)),
            "recall": lambda s: ratio(s[:, 0].sum(-1), s[:, 2].sum(-1)),
            "yes_share": lambda s: ratio(s[:, 1].sum(-1), s[:, 4].sum(-1)),
        }
        each: dict[str, Sums] = {f"f1/{name}": _f1_of(index) for index, name in enumerate(names)}
        if len(names) > 1:
            each |= {name: _share(3, 4, index) for index, name in enumerate(names)}
        found = of_sums(sums, pooled | each, units, seed=seed)
        return Summary(metric, found.pop(metric), found)

    return Aggregate(summarise, "cluster")


def _ocrbench(rows: Sequence[Scored], seed: int) -> Summary:
    """OCRBench (Liu et al. 2023): right answers, of 1000; per type, and of the six types of text recognition."""
    own = positions([row.gold.category for row in rows])
    sums = np.zeros((len(rows), len(own)))
    for index, members in enumerate(own.values()):
        sums[members, index] = [float(rows[row].verdict) for row in members]
    recognition = [index for index, name in enumerate(own) if name.endswith("Recognition") and name != HANDWRITTEN]
    values: dict[str, Sums] = {"points": lambda s: s.sum(-1), "text_recognition": lambda s: s[:, recognition].sum(-1)}
    values |= {name: _column(index) for index, name in enumerate(own)}
    found = of_sums(sums, values, shares=False, seed=seed)
    return Summary("points", found.pop("points"), found, percent=False)


def _column(index: int) -> Sums:
    return lambda sums: sums[:, index]


def _share(over: int, under: int, index: int) -> Sums:
    return lambda sums: ratio(sums[:, over, index], sums[:, under, index])


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 from sums [draws, 5, ...] of :func:`pope`: 2·TP / (said yes + is yes)."""
    return ratio(2 * sums[:, 0], sums[:, 1] + sums[:, 2])


def _f1_of(index: int) -> Sums:
    return lambda sums: _f1(sums[..., index])


MME = Aggregate(_mme, "cluster", whole=True)
OCRBENCH = Aggregate(_ocrbench)
