"""The inputs of a probe: features and labels of three splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labelled:
    """Features of n images, [n, d] or [n, p, d], and their labels: classes [n] or masks [n, H, W]."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Splits:
    """``train`` fits, ``val`` chooses, ``test`` is reported."""

    train: Labelled
    val: Labelled
    test: Labelled

    def named(self) -> dict[str, Labelled]:
        return {"train": self.train, "val": self.val, "test": self.test}
