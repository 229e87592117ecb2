"""Classification probes of an encoder's features: logistic regression, kNN, a linear probe by SGD, class prototypes.

The paper fits scikit-learn's logistic regression with C ≤ 3.16 on unit-length features and picks C by the accuracy it
reports. Unit-length features with such a small C are heavily regularised, so the grid here extends to 1e4, and what a
method has to choose (C, k, the learning rate) is chosen on a split that is not the reported one. Any departure from
that is flagged in the result. Letters: n images, d width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import linear_probe, logistic, neighbours
from pivot_jax.probe.linear_probe import LinearTraining
from pivot_jax.probe.neighbours import NEIGHBOURS
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.words import counted

PAPER_GRID = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)
GRID = (*PAPER_GRID, 10.0, 31.6, 100.0, 316.0, 1e3, 3.16e3, 1e4)
CHUNK = 8192  # images whose rows are compared at once


@dataclass(frozen=True)
class ProbeSettings:
    """Which classifier reads the features, and what it chooses from.

    Attributes:
      method: a key of :data:`METHODS`.
      grid: C of ``logistic``. neighbours: k of ``knn``. training: of ``sgd``, with its learning rates.
      choose_on_test: choose by the accuracy that is reported, as the paper does; the result is flagged.

    Raises:
      UserError: an unknown method, or nothing to choose from.
    """

    method: str = "logistic"
    grid: tuple[float, ...] = GRID
    neighbours: tuple[int, ...] = NEIGHBOURS
    training: LinearTraining = field(default_factory=LinearTraining)
    choose_on_test: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"probe method '{self.method}' is unknown; choose one of {', '.join(METHODS)}")
        if not self.grid or min(self.grid) <= 0:
            raise UserError(f"grid of C: {self.grid}; name one or more numbers above 0")


@dataclass(frozen=True)
class ProbeResult:
    """One probe's outcome. Shares are 0..1."""

    accuracy: float
    interval: Interval  # of ``accuracy``, over test images
    C: float  # inverse regularisation strength that was chosen; NaN for other methods than logistic regression
    correct: np.ndarray = field(repr=False)  # bool [n_test]; for paired comparisons between encoders
    predictions: np.ndarray = field(repr=False)  # [n_test], in the labels' type
    grid: tuple[tuple[float, float], ...] = field(default=(), repr=False)  # (value, accuracy on the choosing split)
    flags: tuple[str, ...] = ()  # reasons why this is not a clean held-out result
    chosen: str = ""  # such as "C = 1"; "" where a method has nothing to choose


def run(splits: Splits, settings: ProbeSettings, *, seed: int = 0) -> ProbeResult:
    """The probe of the settings: fits on ``train``, chooses on ``val``, reports ``test``.

    Raises:
      UserError: as :func:`probe`.
    """
    splits = replace(splits, val=splits.test) if settings.choose_on_test else splits
    return METHODS[settings.method](splits, settings, seed)


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
    known, numbers, flags = _checked(splits)
    train_x, val_x, test_x = (_unit(part.features) if l2 else part.features for part in splits.named().values())
    fits = logistic.fit_grid(train_x, numbers, grid, max_iter=max_iter)
    # C is 1 / (strength of the penalty); the smallest C of equal accuracy is the most regularised model.
    scored = tuple((fit.C, float((known[fit.predict(val_x)] == splits.val.labels).mean())) for fit in fits)
    best = fits[int(np.argmax([accuracy for _, accuracy in scored]))]
    if max(grid) == best.C and len(grid) > 1:
        flags.append(f"C = {best.C:g} is the end of the grid; a larger C may do better")
    if not best.converged:
        flags.append(f"the solver did not converge in {max_iter} steps at C = {best.C:g}")
    found = _result(known[best.predict(test_x)], splits.test.labels, best.C, scored, flags, seed)
    return replace(found, chosen=f"C = {best.C:g}")


def nearest(splits: Splits, *, among: tuple[int, ...] = NEIGHBOURS, seed: int = 0) -> ProbeResult:
    """Weighted kNN by cosine (see ``neighbours``), k by accuracy on ``val`` (smallest k of equals).

    Raises:
      UserError: as :func:`probe`, or no k that the training images allow.
    """
    known, numbers, flags = _checked(splits)
    train_x, val_x, test_x = (_unit(part.features) for part in splits.named().values())
    found = neighbours.votes(train_x, numbers, np.concatenate([val_x, test_x]), among)
    scored = tuple((float(k), float((known[y[: len(val_x)]] == splits.val.labels).mean())) for k, y in found.items())
    k = int(scored[int(np.argmax([accuracy for _, accuracy in scored]))][0])
    predictions = known[found[k][len(val_x) :]]
    result = _result(predictions, splits.test.labels, float("nan"), scored, flags, seed)
    return replace(result, chosen=f"k = {k}")


def linear(splits: Splits, training: LinearTraining, *, seed: int = 0, show: bool = False) -> ProbeResult:
    """Minibatch linear probe (see ``linear_probe``), the learning rate by accuracy on ``val``.

    Features are read in minibatches, so they may stay on disk. Raises as :func:`probe`.
    """
    known, numbers, flags = _checked(splits)
    fit = linear_probe.train(splits.train.features, numbers, training, seed=seed, show=show)
    accuracies = (known[fit.predict(splits.val.features)] == splits.val.labels).mean(axis=1)
    scored = tuple(zip(fit.learning_rates, map(float, accuracies), strict=True))
    best = int(np.argmax(accuracies))
    if len(scored) > 1 and best in (int(np.argmin(fit.learning_rates)), int(np.argmax(fit.learning_rates))):
        flags.append(f"learning rate {fit.learning_rates[best]:g} is an end of the grid; one beyond may do better")
    predictions = known[fit.predict(splits.test.features)[best]]
    result = _result(predictions, splits.test.labels, float("nan"), scored, flags, seed)
    return replace(result, chosen=f"learning rate {fit.learning_rates[best]:g}")


def prototypes(train: Labelled, test: Labelled, *, seed: int = 0) -> ProbeResult:
    """Nearest class mean by cosine: means of unit features of ``train``, scored on ``test``.

    The paper's fast mode builds the means from the images that it scores. That is allowed here, but it warns and is
    flagged in the result.
    """
    _check("train", train.features, train.labels)
    _check("test", test.features, test.labels)
    train_x, train_y, test_x, test_y = train.features, train.labels, test.features, test.labels
    flags = []
    if (share := _shared_rows(train_x, test_x)) > 0:
        flags.append(f"TRAIN IS TEST: {share:.0%} of the scored images also built the prototypes")
        warnings.warn(f"prototype probe: {flags[0]}; the accuracy is not a held-out one", stacklevel=2)
    classes, features = np.unique(train_y), _unit(train_x)
    means = _unit(np.stack([features[train_y == label].mean(axis=0) for label in classes]))
    predictions = classes[(_unit(test_x) @ means.T).argmax(axis=1)]
    return _result(predictions, test_y, float("nan"), (), flags, seed)


def _prototypes(splits: Splits, settings: ProbeSettings, seed: int) -> ProbeResult:
    """Of the scored images themselves with ``choose_on_test``, as in the paper's fast mode."""
    return prototypes(splits.test if settings.choose_on_test else splits.train, splits.test, seed=seed)


METHODS: dict[str, Callable[[Splits, ProbeSettings, int], ProbeResult]] = {
    "logistic": lambda splits, settings, seed: probe(splits, grid=settings.grid, seed=seed),
    "knn": lambda splits, settings, seed: nearest(splits, among=settings.neighbours, seed=seed),
    "sgd": lambda splits, settings, seed: linear(splits, settings.training, seed=seed, show=True),
    "prototypes": _prototypes,
}


def balanced(labels: np.ndarray, per_class: int, *, seed: int = 0, at_most: bool = False) -> np.ndarray:
    """Indices of ``per_class`` examples of every class, drawn without replacement, in random order.

    Args:
      at_most: of a class with fewer, all.

    Raises:
      UserError: a class has fewer than ``per_class`` examples; the message names it.
    """
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    picked = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class and not at_most:
            raise UserError(
                f"balanced sample: class {label} has {counted(len(members), 'example')}, not {per_class}; ask for fewer"
            )
        picked.append(generator.choice(members, min(per_class, len(members)), replace=False))
    return generator.permutation(np.concatenate(picked))


def _result(predictions, test_y, C, grid, flags, seed) -> ProbeResult:
    correct = np.asarray(predictions == test_y)
    interval = statistics.mean(correct.astype(float), seed=seed)
    return ProbeResult(float(correct.mean()), interval, C, correct, predictions, grid, tuple(flags))


def _checked(splits: Splits) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Classes of ``train``, the number of each training image's class among them, and flags of splits that overlap."""
    for name, part in splits.named().items():
        _check(name, part.features, part.labels)
    known, numbers = np.unique(splits.train.labels, return_inverse=True)
    if len(known) < 2:
        raise UserError(f"classification probe: the training split has one class only ({known[0]})")
    flags = []
    if (share := _shared_rows(splits.val.features, splits.test.features)) > 0:
        flags.append(f"CHOSEN ON TEST: {share:.0%} of the reported images also made the choice")
    if (share := _shared_rows(splits.train.features, splits.test.features)) > 0:
        flags.append(f"TRAIN IS TEST: {share:.0%} of the reported images were trained on")
    for flag in flags:
        warnings.warn(f"classification probe: {flag}; the accuracy is not a held-out one", stacklevel=3)
    return known, numbers, flags


def _shared_rows(first: Any, second: Any) -> float:
    """Share of ``second``'s rows that are also in ``first``, bit for bit."""
    if first is second:
        return 1.0
    known = {hash(row) for chunk in _chunks(first) for row in map(bytes, chunk)}
    return float(np.mean([hash(row) in known for chunk in _chunks(second) for row in map(bytes, chunk)]))


def _chunks(x: Any) -> Any:
    """Rows of an array that may be on disk."""
    return (np.ascontiguousarray(x[start : start + CHUNK]) for start in range(0, len(x), CHUNK))


def _unit(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _check(name: str, x: Any, y: Any) -> None:
    if x.ndim != 2 or np.shape(y) != (len(x),) or len(x) == 0:
        raise UserError(
            f"classification probe: {name} split has features {x.shape} and labels {np.shape(y)}; need [n, d] and [n]"
        )
    if not all(np.isfinite(chunk).all() for chunk in _chunks(x)):
        raise UserError(f"classification probe: {name} features hold NaN or infinity; the encoder is broken")
