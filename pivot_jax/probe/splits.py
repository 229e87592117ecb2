"""The inputs of a probe: features and labels of three splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Labelled:
    """Features of n images and their labels.

    Attributes:
      features: [n, d], or [n, p, d] per patch; may be :class:`Chosen` rows of an array on disk.
      labels: classes [n]; or masks, integer [n, H, W], or a sequence of n masks [H, W] of their own sizes.
      positions: int [n, p, 2], (row, column) of each patch in its image's grid, -1 at padding; None: one square grid,
        row by row.
    """

    features: Any
    labels: Any
    positions: np.ndarray | None = None


@dataclass(frozen=True)
class Splits:
    """``train`` fits, ``val`` chooses, ``test`` is reported."""

    train: Labelled
    val: Labelled
    test: Labelled

    def named(self) -> dict[str, Labelled]:
        return {"train": self.train, "val": self.val, "test": self.test}


class Chosen:
    """Some rows of an array, which may be on disk: they are read when they are indexed."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self.array, self.rows = array, np.asarray(rows)
        self.shape, self.ndim, self.dtype = (len(self.rows), *array.shape[1:]), array.ndim, array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self.array[self.rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)


@dataclass(frozen=True)
class LabelledImages:
    """Images of one split with a label each: a class index, or a path to a mask.

    Attributes:
      images: references (see ``image_sets.ImageSet``).
      fingerprint: of ``images``, where their source knows one.
      whole: the split that these are ``rows`` of, so that features of all of it can be shared; None: these are it.
    """

    images: Sequence[Any]
    labels: Sequence[Any]
    fingerprint: str = ""
    whole: LabelledImages | None = None
    rows: np.ndarray | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> LabelledImages:
        """Some of the images, which know what they are taken from."""
        rows = np.asarray(rows)
        own = rows if self.rows is None else self.rows[rows]
        return LabelledImages(
            _pick(self.images, rows), tuple(self.labels[i] for i in rows), "", self.whole or self, own
        )

    def alone(self) -> LabelledImages:
        """The same images as a set of their own: features of nothing else are computed for them."""
        return LabelledImages(self.images, self.labels, self.fingerprint if self.rows is None else "")


def _pick(images: Sequence[Any], rows: np.ndarray) -> Sequence[Any]:
    return tuple(images[i] for i in rows) if isinstance(images, (tuple, list)) else Picked(images, rows)


class Picked(Sequence[Any]):
    """Some items of a sequence that is read item by item."""

    def __init__(self, items: Sequence[Any], rows: np.ndarray):
        self._items, self._rows = items, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._items[int(self._rows[index])]


def with_val(splits: dict[str, LabelledImages], seed: int, share: float = 0.2) -> dict[str, LabelledImages]:
    """``train``, ``val``, ``test``; without ``val``, a ``share`` of ``train`` is set aside for it."""
    if "val" in splits:
        return splits
    train = splits["train"]
    order = np.random.default_rng(seed).permutation(len(train))
    count = max(1, round(share * len(order)))
    return splits | {"train": train.take(np.sort(order[count:])), "val": train.take(np.sort(order[:count]))}
