"""Aggregates that count groups of answers that are all right: figures and question pairs, images and questions.

The groups of one benchmark overlap (HallusionBench: a figure has several questions, and a question several figures), so
an interval draws whole units that hold them all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from pivot_jax.eval.scoring.aggregate import Aggregate, Scored, Summary, Sums, of_sums, positions, ratio, units_of

Key = Callable[[Scored], Hashable]  # rows of one unit with the same key are a group; None: the row is in no group


def consistent(metric: str, groups: Mapping[str, Key], mean: str = "", units: str = "cluster") -> Aggregate:
    """Shares of the groups in which every answer is right.

    Args:
      metric: the headline, one of ``groups``.
      groups: name of a share → the group of a row.
      mean: name of the mean of all shares; "": it is left out.
      units: as :class:`Aggregate`; each group lies within a unit.
    """

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        own = positions(units_of(rows))
        sums = np.zeros((len(own), 2, len(groups)))
        for one, members in zip(sums, own.values(), strict=True):
            for index, key in enumerate(groups.values()):
                right: dict[Hashable, bool] = {}
                for row in (rows[member] for member in members):
                    if (group := key(row)) is not None:
                        right[group] = right.get(group, True) and row.verdict >= 1
                one[:, index] = sum(right.values()), len(right)
        values: dict[str, Sums] = {name: _share(index) for index, name in enumerate(groups)}
        if mean:
            values[mean] = lambda s: ratio(s[:, 0], s[:, 1]).mean(-1)
        found = of_sums(sums, values, seed=seed)
        return Summary(metric, found.pop(metric), found)

    return Aggregate(summarise, units)


def _share(index: int) -> Sums:
    return lambda sums: ratio(sums[:, 0, index], sums[:, 1, index])


def _fields(*names: str) -> Key:
    return lambda row: tuple(str(row.gold.fields.get(name)) for name in names)


def _hallusion(*names: str) -> Key:
    own = _fields("subcategory", "set_id", *names)
    return lambda row: (row.gold.category, own(row))


def _figure(row: Scored) -> Hashable:
    """A question of the category VS without its figure (0) belongs to no figure."""
    lacking = row.gold.category == "VS" and str(row.gold.fields.get("figure_id")) == "0"
    return None if lacking else _hallusion("figure_id")(row)


# HallusionBench (Guan et al. 2024): answers, figures and question pairs; their mean is the score of VLMEvalKit's
# leaderboard.
HALLUSION = consistent(
    "aAcc", {"aAcc": lambda row: row.id, "fAcc": _figure, "qAcc": _hallusion("question_id")}, mean="mean"
)
# VLMEvalKit leaves the category out of a group's name, so the figures of the two subcategories "ocr" become one where
# their numbers are equal: of the 951 questions with an image, 332 figures and 429 pairs in place of 346 and 455.
HALLUSION_VLMEVALKIT = consistent(
    "aAcc",
    {
        "aAcc": lambda row: row.id,
        "fAcc": _fields("subcategory", "set_id", "figure_id"),
        "qAcc": _fields("subcategory", "set_id", "question_id"),
    },
    mean="mean",
)
# NaturalBench (Li et al. 2024): answers, questions with both images, images with both questions, and all four.
NATURALBENCH = consistent(
    "group_accuracy",
    {
        "accuracy": lambda row: row.id,
        "question_accuracy": _fields("question"),
        "image_accuracy": _fields("image"),
        "group_accuracy": lambda row: 0,
    },
    units="group",
)
