"""Classification probes of an encoder's mean patch features: logistic regression and class prototypes.

The paper fits scikit-learn's logistic regression with C ≤ 3.16 on unit-length features and picks C by the accuracy it
reports. Unit-length features with such a small C are heavily regularised, so the grid here extends to 1e4, and C is
chosen on a split that is not the reported one. Any departure from that is flagged in the result.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.words import counted

PAPER_GRID = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)
ONE_THREAD = 50_000_000  # features x images x classes below which extra threads only wait for each other
GRID = (*PAPER_GRID, 10.0, 31.6, 100.0, 316.0, 1e3, 3.16e3, 1e4)


@dataclass(frozen=True)
class ProbeResult:
    """One probe's outcome. Shares are 0..1."""

    accuracy: float
    interval: Interval  # of ``accuracy``, over test images
    C: float  # inverse regularisation strength that was chosen; NaN for prototypes
    correct: np.ndarray = field(repr=False)  # bool [n_test]; for paired comparisons between encoders
    predictions: np.ndarray = field(repr=False)  # [n_test], in the labels' type
    grid: tuple[tuple[float, float], ...] = field(default=(), repr=False)  # (C, accuracy on the choosing split)
    flags: tuple[str, ...] = ()  # reasons why this is not a clean held-out result


def probe(
    splits: Splits, *, grid: tuple[float, ...] = GRID, max_iter: int = 1000, l2: bool = True, seed: int = 0
) -> ProbeResult:
    """Logistic regression on ``train``, C by accuracy on ``val`` (smallest C of equals), accuracy on ``test``.

    Args:
      splits: features [n, d] and labels [n].
      l2: scale features to unit length first, as the paper does.
      seed: of the bootstrap (the fit itself is deterministic).

    Raises:
      UserError: shapes that do not match, a single class, or features that are not finite.
    """
    for name, part in splits.named().items():
        _check(name, part.features, part.labels)
    train_x, val_x, test_x = (part.features for part in splits.named().values())
    train_y, val_y, test_y = (part.labels for part in splits.named().values())
    if len(np.unique(train_y)) < 2:
        raise UserError(f"classification probe: the training split has one class only ({np.unique(train_y)[0]})")
    flags = _overlap_flags(train_x, val_x, test_x)
    if l2:
        train_x, val_x, test_x = (_unit(x) for x in (train_x, val_x, test_x))
    # C is 1 / (strength of the penalty); the smallest C of equal accuracy is the most regularised model.
    scored, best = [], None
    for C in sorted(grid):
        model, converged = fit(train_x, train_y, C, max_iter)
        accuracy = float((model.predict(val_x) == val_y).mean())
        scored.append((C, accuracy))
        if best is None or accuracy > best[1]:
            best = (C, accuracy, model, converged)
    assert best is not None
    C, _, model, converged = best
    if max(grid) == C and len(grid) > 1:
        flags.append(f"C = {C:g} is the end of the grid; a larger C may do better")
    if not converged:
        flags.append(f"the solver did not converge in {max_iter} steps at C = {C:g}")
    predictions = model.predict(test_x)
    return _result(predictions, test_y, C, tuple(scored), flags, seed)


def fit(x: np.ndarray, y: np.ndarray, C: float, max_iter: int = 1000):
    """scikit-learn's multinomial logistic regression (L2, lbfgs, random_state 0) and whether it converged.

    One thread solves small problems: synchronising threads costs more than the products (on two busy cores it made a
    fit a hundred times slower). The result then does not depend on the number of cores either.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    threads = 1 if x.size * len(np.unique(y)) < ONE_THREAD else None
    model = LogisticRegression(C=C, solver="lbfgs", max_iter=max_iter, random_state=0)
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(threads):
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(np.asarray(x, np.float64), y)
    return model, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def prototypes(train: Labelled, test: Labelled, *, seed: int = 0) -> ProbeResult:
    """Nearest class mean by cosine: means of unit features of ``train``, scored on ``test``.

    The paper's fast mode builds the means from the images that it scores. That is allowed here, but it warns and is
    flagged in the result.
    """
    _check("train", train.features, train.labels)
    _check("test", test.features, test.labels)
    train_x, train_y, test_x, test_y = train.features, train.labels, test.features, test.labels
    flags = []
    if _shared_rows(train_x, test_x) > 0:
        share = _shared_rows(train_x, test_x)
        flags.append(f"TRAIN IS TEST: {share:.0%} of the scored images also built the prototypes")
        warnings.warn(f"prototype probe: {flags[0]}; the accuracy is not a held-out one", stacklevel=2)
    classes = np.unique(train_y)
    features = _unit(train_x)
    means = _unit(np.stack([features[train_y == label].mean(axis=0) for label in classes]))
    predictions = classes[(_unit(test_x) @ means.T).argmax(axis=1)]
    return _result(predictions, test_y, float("nan"), (), flags, seed)


def balanced(labels: np.ndarray, per_class: int, *, seed: int = 0) -> np.ndarray:
    """Indices of ``per_class`` examples of every class, drawn without replacement, in random order.

    Raises:
      UserError: a class has fewer than ``per_class`` examples; the message names it.
    """
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    picked = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise UserError(
                f"balanced sample: class {label} has {counted(len(members), 'example')}, not {per_class}; ask for fewer"
            )
        picked.append(generator.choice(members, per_class, replace=False))
    return generator.permutation(np.concatenate(picked))


def _result(predictions, test_y, C, grid, flags, seed) -> ProbeResult:
    correct = np.asarray(predictions == test_y)
    interval = statistics.mean(correct.astype(float), seed=seed)
    return ProbeResult(float(correct.mean()), interval, C, correct, predictions, grid, tuple(flags))


def _overlap_flags(train_x: np.ndarray, val_x: np.ndarray, test_x: np.ndarray) -> list[str]:
    flags = []
    if (share := _shared_rows(val_x, test_x)) > 0:
        flags.append(f"CHOSEN ON TEST: {share:.0%} of the reported images also chose C")
    if (share := _shared_rows(train_x, test_x)) > 0:
        flags.append(f"TRAIN IS TEST: {share:.0%} of the reported images were trained on")
    for flag in flags:
        warnings.warn(f"classification probe: {flag}; the accuracy is not a held-out one", stacklevel=3)
    return flags


def _shared_rows(first: np.ndarray, second: np.ndarray) -> float:
    """Share of ``second``'s rows that are also in ``first``, bit for bit."""
    known = {row.tobytes() for row in np.ascontiguousarray(first)}
    return float(np.mean([row.tobytes() in known for row in np.ascontiguousarray(second)]))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _check(name: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 2 or y.shape != (len(x),) or len(x) == 0:
        raise UserError(
            f"classification probe: {name} split has features {x.shape} and labels {y.shape}; need [n, d] and [n]"
        )
    if not np.isfinite(x).all():
        raise UserError(f"classification probe: {name} features hold NaN or infinity; the encoder is broken")
