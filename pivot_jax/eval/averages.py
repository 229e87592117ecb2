"""Averages over benchmarks, as Cambrian-1 and the PIVOT paper compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# The paper's sixteen benchmarks by their names here.
GROUPS: dict[str, tuple[str, ...]] = {
    "General": ("mme", "mmbench", "seed", "gqa"),
    "Knowledge": ("scienceqa", "mmmu", "mathvista", "ai2d"),
    "OCR & Chart": ("chartqa", "ocrbench", "textvqa", "docvqa"),
    "Vision-Centric": ("mmvp", "realworldqa", "cv-bench-2d", "cv-bench-3d"),
}
MME_SCALE = 20  # MME's perception points, 0..2000, become 0..100


def missing(results: Mapping[str, float]) -> list[str]:
    """Benchmarks of :data:`GROUPS` without a result."""
    return [name for members in GROUPS.values() for name in members if name not in results]


def averages(results: Mapping[str, float], groups: Mapping[str, Sequence[str]] = GROUPS) -> dict[str, float]:
    """Plain mean per group (MME's perception ÷ 20), and the mean over groups as "average" (Tong et al. 2024).

    Args:
      results: benchmark → score in percent; "mme" → perception points.

    Raises:
      ValueError: a benchmark has no result.
    """
    if absent := [name for members in groups.values() for name in members if name not in results]:
        raise ValueError(f"no result for {', '.join(absent)}; an average over the others would not compare")
    percent = {name: value / MME_SCALE if name == "mme" else value for name, value in results.items()}
    means = {group: float(np.mean([percent[name] for name in members])) for group, members in groups.items()}
    return means | {"average": float(np.mean(list(means.values())))}
