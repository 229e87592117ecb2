"""Shapes at which attention is measured, their inputs, and reference results: independent NumPy code in float64."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

PROMPT, ANSWER = 640, 64  # of the rows with branches: 576 image and 64 text tokens, then answers side by side
# Largest error over largest value, and root mean square of the error over that of the value. bfloat16 rounds to 2**-9
# of a value. A kernel rounds weights and gradients of scores too, so a few of these errors add up.
LIMITS = {"bfloat16": {"out": (2**-6, 2**-7), "gradients": (2**-5, 2**-6)}}
LIMITS["float32"] = {name: (2e-5, 2e-5) for name in ("out", "gradients")}
OUTPUTS = ("out", "dq", "dk", "dv")


class Case(NamedTuple):
    rows: int
    n: int
    h: int
    kv: int
    c: int
    causal: bool
    mask: str  # none | segments | padded | branches

    @property
    def flops(self) -> float:
        """FLOPs of the forward pass: both products over the visible pairs, at the real width."""
        seen = np.ones((self.n, self.n), bool) if self.mask == "none" else visible(self)
        count = self.n * (self.n + 1) / 2 if self.causal and self.mask == "none" else float(seen.sum())
        return 4.0 * self.rows * self.h * self.c * count


# In order of importance: cases that do not fit into the time are dropped from the end.
CASES = {
    "So400m/16 at 576": Case(32, 576, 16, 16, 72, False, "none"),
    "1.5B at 2048": Case(8, 2048, 12, 2, 128, True, "none"),
    "1.5B, a pair of 768": Case(16, PROMPT + 2 * ANSWER, 12, 2, 128, True, "branches"),
    "1.5B at 2048, packed": Case(8, 2048, 12, 2, 128, True, "segments"),
    "0.5B at 2048": Case(8, 2048, 14, 2, 64, True, "none"),
    "7B at 4096": Case(4, 4096, 28, 4, 128, True, "none"),
    "So400m/14 at 729": Case(32, 729, 16, 16, 72, False, "none"),
    "1.5B, a group of 8": Case(8, PROMPT + 8 * ANSWER, 12, 2, 128, True, "branches"),
    "0.5B at 2048, packed": Case(8, 2048, 14, 2, 64, True, "segments"),
    "0.5B, a pair of 768": Case(16, PROMPT + 2 * ANSWER, 14, 2, 64, True, "branches"),
    "7B at 4096, packed": Case(4, 4096, 28, 4, 128, True, "segments"),
    "B/16 at 577": Case(32, 577, 12, 12, 64, False, "none"),
    "giant-opt at 576": Case(32, 576, 16, 16, 96, False, "none"),
}
SMOKE = {
    "tiny, full": Case(1, 40, 2, 2, 8, False, "none"),
    "tiny, branches": Case(2, 48, 4, 2, 16, True, "branches"),
}
# Cases that a CPU runs in seconds.
SMALL = {name: case._replace(rows=1) for name, case in CASES.items() if case.n <= 1024}

_ORDERS = [(False, "none"), (True, "none"), (True, "padded"), (True, "branches"), (False, "padded")]


def numerics_cases(smoke: bool) -> dict[str, Case]:
    """Every head width with every mask, at lengths that are not multiples of a tile; and SigLIP's own lengths."""
    if smoke:
        return {name_of(case): case for case in SMOKE.values()}
    cases = [Case(2, 200, 4, 2, c, *order) for order in _ORDERS for c in (128, 72, 64, 96, 80)]
    cases += [Case(1, 729, 2, 2, 72, False, "none"), Case(1, 577, 2, 2, 64, False, "none")]
    return {name_of(case): case for case in cases}


def name_of(case: Case) -> str:
    return f"{case.n} x {case.h}/{case.kv} x {case.c} {'causal' if case.causal else 'full'} {case.mask}"


def ids(case: Case) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Segment and branch ids, int32 [b, n] or None.

    Segments: two packed conversations. "padded": the same, with padding after them, which attends to nothing; the other
    implementations need not return zeros there. Branches: a prompt and answers that do not attend to each other.
    """
    if case.mask == "none":
        return None, None
    at = np.arange(case.n)
    if case.mask in ("segments", "padded"):
        segments = np.where(at < 2 * case.n // 3, 1, 2)
        if case.mask == "padded":
            segments[case.n - case.n // 20 :] = 0
        return np.tile(segments.astype(np.int32), (case.rows, 1)), None
    prompt, answer = (PROMPT, ANSWER) if case.n > PROMPT else (case.n // 2, -(-case.n // 4))
    branches = np.where(at < prompt, 0, 1 + (at - prompt) // answer).astype(np.int32)
    return np.ones((case.rows, case.n), np.int32), np.tile(branches, (case.rows, 1))


def visible(case: Case, row: int = 0) -> np.ndarray:
    """Which keys a query attends to, bool [n, n]; the rule of :mod:`pivot_jax.kernels.mask`, written independently."""
    seen = np.tri(case.n, dtype=bool) if case.causal else np.ones((case.n, case.n), bool)
    segments, branches = ids(case)
    if segments is not None:
        own = segments[row]
        seen &= (own[:, None] == own) & (own[:, None] > 0)
    if branches is not None:
        own = branches[row]
        seen &= (own == 0) | (own[:, None] == own)
    return seen


def draw(case: Case) -> list[np.ndarray]:
    """q, k, v and the output's gradient, float32, the same in every process."""
    rng = np.random.default_rng(0)
    heads = (case.h, case.kv, case.kv, case.h)
    return [rng.standard_normal((case.rows, case.n, h, case.c), dtype=np.float32) for h in heads]


def exact(case: Case, inputs: list[np.ndarray], row: int, head: int) -> dict[str, np.ndarray]:
    """Output [n, g, c] and gradients of one row and key/value head in float64."""
    group = case.h // case.kv
    queries = slice(head * group, (head + 1) * group)
    wide = [np.asarray(x[row], np.float64) for x in inputs]
    q, d_out, k, v = wide[0][:, queries], wide[3][:, queries], wide[1][:, head], wide[2][:, head]
    seen, scale = visible(case, row), case.c**-0.5
    out, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for g in range(group):  # one head's scores at a time: at 4096 tokens they are 134 MB
        scores = np.where(seen, q[:, g] @ k.T * scale, -np.inf)
        top = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        out[:, g] = weights @ v
        d_weights = d_out[:, g] @ v.T
        d_scores = weights * (d_weights - (d_out[:, g] * out[:, g]).sum(axis=1, keepdims=True)) * scale
        dq[:, g] = d_scores @ k
        dk += d_scores.T @ q[:, g]
        dv += weights.T @ d_out[:, g]
    return {"out": out, "dq": dq, "dk": dk, "dv": dv}


def errors(case: Case, dtype: str, found: dict[str, np.ndarray], whole: bool) -> tuple[dict[str, Any], str]:
    """Errors by output, and a description of those above the limits ("" if none).

    Args:
      found: outputs of all rows and heads (``whole``), else of the last row and last key/value head only.
    """
    parts = [(r, h) for r in range(case.rows) for h in range(case.kv)] if whole else [(case.rows - 1, case.kv - 1)]
    report, wrong = {}, []
    for name in [name for name in OUTPUTS if name in found]:
        limits = LIMITS[dtype]["out" if name == "out" else "gradients"]
        worst = {"max_abs": 0.0, "max_relative": 0.0, "rms_relative": 0.0}
        for row, head in parts:
            want = _expected(case, dtype, row, head)[name]
            got = _part(found[name], case, row if whole else 0, head if whole else 0, name)
            error, size = np.abs(got.astype(np.float64) - want), np.abs(want).max()
            rms = np.sqrt(np.mean(error**2) / np.mean(want**2))
            for key, value in zip(worst, (error.max(), error.max() / size, rms), strict=True):
                worst[key] = float(np.maximum(worst[key], value))  # propagates NaN
        report[name] = worst
        if not (worst["max_relative"] <= limits[0] and worst["rms_relative"] <= limits[1]):
            wrong.append(f"{name} off by {worst['max_relative']:.1e} (rms {worst['rms_relative']:.1e})")
    return report, ", ".join(wrong)


@functools.lru_cache(256)
def _expected(case: Case, dtype: str, row: int, head: int) -> dict[str, np.ndarray]:
    """:func:`exact` for inputs as ``dtype`` holds them, once for all backends."""
    return exact(case, [rounded(x, dtype) for x in draw(case)], row, head)


def _part(array: np.ndarray, case: Case, row: int, head: int, name: str) -> np.ndarray:
    group = case.h // case.kv
    return array[row][:, head * group : (head + 1) * group] if name in ("out", "dq") else array[row][:, head]


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as ``dtype`` holds them."""
    if dtype == "float32":
        return x
    import ml_dtypes

    return x.astype(ml_dtypes.bfloat16).astype(np.float32)
