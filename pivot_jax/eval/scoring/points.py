"""Aggregates that are no mean of right answers: MME's points, POPE's F1, as statistics of sums over units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.aggregate import Aggregate, Scored, Summary, Sums, of_sums, positions, ratio, units_of

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
    found = of_sums(sums, values | {name: points([name]) for name in categories}, seed=seed)
    return Summary("perception", found.pop("perception"), found, percent=False)


def pope(metric: str = "f1") -> Aggregate:
    """POPE (Li et al. 2023): accuracy, precision, recall and F1 of "yes", and the share of "yes" among the answers.

    Args:
      metric: the headline. "f1" over all rows, or "mean_f1" of the three categories (adversarial, popular, random).
    """

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        labels = [row.gold.category for row in rows]
        names = list(dict.fromkeys(labels))
        sums = np.zeros((len(rows), 5, len(names)))  # true positives, said yes, is yes, right, all
        for one, row in zip(sums, rows, strict=True):
            said, true = row.verdict.read == "yes", parse.plain(row.gold.answer) == "yes"
            one[:, names.index(row.gold.category)] = said and true, said, true, float(row.verdict), 1
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
        found = of_sums(sums, pooled | each, units, seed=seed)
        return Summary(metric, found.pop(metric), found)

    return Aggregate(summarise)


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 from sums [draws, 5, ...] of :func:`pope`: 2·TP / (said yes + is yes)."""
    return ratio(2 * sums[:, 0], sums[:, 1] + sums[:, 2])


def _f1_of(index: int) -> Sums:
    return lambda sums: _f1(sums[..., index])


MME = Aggregate(_mme, "cluster")
