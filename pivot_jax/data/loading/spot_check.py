"""A look at some rows, spread evenly, where not all of them are tokenised before training.

It finds what is wrong with a whole data set (another format, another folder of images) before the first step, and the
rows' content tells a resumed run whether these are still the same data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.loading.workers import Workers
from pivot_jax.data.sources import Source
from pivot_jax.errors import RowError, UserError
from pivot_jax.words import counted

ROWS = 1024
DOUBT = math.log(1e6)  # a data set within the limit of bad rows is rejected once in more than a million


class SpotCheck(NamedTuple):
    """``bad``: position in the source, row id, reason. ``content``: digest of the texts of the rows looked at."""

    bad: tuple[tuple[int, str, str], ...]
    content: str


def spot_check(source: Source, workers: Workers, limit: float) -> SpotCheck:
    """Encodes :data:`ROWS` rows, or all if there are no more.

    Args:
      limit: the largest tolerated share of bad rows.

    Raises:
      UserError: none of the rows is usable, or so many are bad that a larger share than the limit of all rows is.
    """
    positions = np.unique(np.linspace(0, len(source) - 1, min(ROWS, len(source))).astype(np.int64))
    digest, bad = hashlib.sha256(), []
    for position, row in zip(positions, workers.encode(_examples(source, positions, digest)), strict=True):
        if isinstance(row, RowError):
            bad.append((int(position), row.row_id, row.reason))
    count = len(positions)
    if bad and (len(bad) == count or beyond_doubt(len(bad), count, limit)):
        _, row_id, reason = bad[-1]
        rule = f"more than data.max_bad_share={limit} allows; fix or remove such rows, or raise the limit"
        found = "none is usable" if len(bad) == count else f"{len(bad)} are bad, {rule}"
        raise UserError(
            f"{source.name}: of {counted(count, 'row')} looked at, {found}. The last is row '{row_id}': {reason}"
        )
    return SpotCheck(tuple(bad), digest.hexdigest()[:16])


def _examples(source: Source, positions: np.ndarray, digest: hashlib._Hash) -> Iterator[Example | RowError]:
    """The rows; their texts are added to ``digest``. Paths are not, so that data may be moved."""
    for position in positions:
        found: Example | RowError
        content: list[Any]
        try:
            found = example = source[int(position)]
            content = [example.id, [(turn.role, turn.content) for turn in example.messages]]
            content += [example.chosen, example.rejected]
        except RowError as error:
            found, content = error, [None]
        digest.update(json.dumps(content).encode())
        yield found


def beyond_doubt(bad: int, rows: int, limit: float) -> bool:
    """Whether ``bad`` of ``rows`` rows drawn at random rule out a share of at most ``limit`` in all.

    Chernoff: with a share p, the chance of k or more bad rows of n is at most exp(-n·D(k/n‖p)), with the divergence
    D(q‖p) = q·log(q/p) + (1-q)·log((1-q)/(1-p)).
    """
    share = bad / rows
    if share <= limit:
        return False
    if limit == 0:
        return True
    rest = (1 - share) * math.log((1 - share) / (1 - limit)) if share < 1 else 0.0
    return rows * (share * math.log(share / limit) + rest) > DOUBT
