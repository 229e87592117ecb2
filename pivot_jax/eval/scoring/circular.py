"""MMBench's circular evaluation (Liu et al. 2024): a question counts where every rotation of its options is right.

The published rows hold the rotations: the k-th has the question's index plus k · 10⁶.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from pivot_jax.eval.scoring.aggregate import Aggregate, Scored, Summary, accuracy, positions, scores_of, units_of
from pivot_jax.eval.statistics import Interval

ROTATION = 10**6


def circular(group: Callable[[Scored], Hashable]) -> Aggregate:
    """The share of groups in which every answer is right, for all and for each category.

    Beside it: ``plain_accuracy`` of the rows that are not rotated, and ``row_accuracy`` of all rows.

    Args:
      group: rows with the same value are the rotations of a question.
    """

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        found = {"row_accuracy": accuracy(scores_of(rows), units_of(rows), seed=seed)}
        if plain := [row for row in rows if not _rotation(row)]:
            found["plain_accuracy"] = accuracy(scores_of(plain), seed=seed)
        for label in (lambda row: row.gold.fields.get("l2_category"), lambda row: row.gold.category):
            parts = positions([label(row) for row in rows])
            found |= {
                str(name): _circular([rows[at] for at in own], group, seed)
                for name, own in parts.items()
                if name and len(parts) > 1
            }
        return Summary("circular_accuracy", _circular(rows, group, seed), found)

    return Aggregate(summarise, "group")


def _circular(rows: Sequence[Scored], group: Callable[[Scored], Hashable], seed: int) -> Interval:
    groups = positions([group(row) for row in rows])
    right = [min(float(rows[at].verdict) for at in own) >= 1 for own in groups.values()]
    return accuracy(np.asarray(right, float).tolist(), seed=seed)


def _rotation(row: Scored) -> int:
    return int(row.id) // ROTATION if row.id.isdecimal() else 0


CIRCULAR = circular(lambda row: row.unit)
# Cambrian-1 groups by category, question, image and source in place of the index.
CIRCULAR_CAMBRIAN = circular(lambda row: (row.gold.category, row.gold.fields.get("source_id", row.unit)))
