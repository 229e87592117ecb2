"""Multinomial logistic regression for a whole grid of C, with scikit-learn's objective.

    minimise over W, b   C Σ_i −log softmax(W x_i + b)[y_i] + ½ ‖W‖²          (two classes: C / 2, see below)

The intercept b is not penalised. With two classes scikit-learn has one weight vector w; a softmax with W = (−w/2, w/2)
is the same model with half its penalty, so C is halved. The optimum is unique, so a solver changes speed only.

What makes it fast, in the order of their effect: the features are rotated to their principal axes, where the Hessian is
nearly diagonal for every C, so its diagonal preconditions L-BFGS (Nocedal and Wright 2006, algorithm 7.4); the solution
for one C starts the next one, after its best scale; logits are linear in the weights, so a line search costs no product
with the features: an iteration has two, of float32. Letters: n images, d width, r principal axes, c classes, m pairs
that L-BFGS remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.errors import UserError

Array = jax.Array
MEMORY = 10
LINE_STEPS = 6  # evaluations of a line search
LINE_SLOPE = 0.1  # of the slope at its start; where a line search stops
TOLERANCE = 1e-6
RANK = 1e-10  # of the largest variance: axes with less hold nothing but rounding
LARGEST = 1 << 30  # images x classes: 4 GiB of logits, three times in memory


@dataclass(frozen=True)
class Fit:
    """The classifier for one C: ``argmax(x @ kernel + bias)``.

    Attributes:
      kernel: float32 [d, c]. bias: float32 [c].
      converged: whether the expected decrease of the objective came below the tolerance.
    """

    C: float
    kernel: np.ndarray
    bias: np.ndarray
    iterations: int
    converged: bool

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Class numbers int [n] of features [n, d]."""
        return np.asarray(_argmax(jnp.asarray(x, jnp.float32), self.kernel, self.bias))


class _State(NamedTuple):
    """An iterate, in the rotated features with a column of ones; the last row of the weights is the intercept."""

    weights: Array  # [r + 1, c]
    logits: Array  # [n, c]
    gradient: Array  # [r + 1, c] of the mean objective
    steps: Array  # [m, r + 1, c] of the weights, oldest first; 0 where there is none yet
    changes: Array  # [m, r + 1, c] of the gradient
    decrease: Array  # expected of the last step, as a share of the objective
    iterations: Array


def fit_grid(
    x: np.ndarray, y: np.ndarray, grid: Sequence[float], *, max_iter: int = 1000, tolerance: float = TOLERANCE
) -> list[Fit]:
    """A fit for every C, in ascending order.

    Args:
      x: features [n, d]. y: class numbers int [n], from 0, every one of them present.
      tolerance: a fit ends where −gᵀd / 2, the decrease of the objective that the quadratic model expects of a step, is
        below this share of the objective.

    Raises:
      UserError: too many images and classes for logits in memory.
    """
    classes = int(y.max()) + 1
    if len(y) * classes > LARGEST:
        raise UserError(
            f"classification probe: {len(y):,} images of {classes:,} classes are too many for logistic regression in "
            "memory; use the SGD probe (--method sgd), or fewer images (--per-class)"
        )
    inputs, mean, axes, variances = _rotated(x)
    labels, weights = jnp.asarray(y, jnp.int32), jnp.zeros((inputs.shape[1], classes), jnp.float32)
    found = []
    for C in sorted(grid):
        strength = 1.0 / (C * (0.5 if classes == 2 else 1.0) * len(y))
        state = _solve(inputs, labels, weights, variances, jnp.float32(strength), jnp.float32(tolerance), max_iter)
        weights = state.weights
        kernel = axes @ np.asarray(weights[:-1], np.float64)
        bias = np.asarray(weights[-1], np.float64) - mean @ kernel
        parts = kernel.astype(np.float32), (bias - bias.mean()).astype(np.float32)
        found.append(Fit(C, *parts, int(state.iterations), bool(state.decrease <= tolerance)))
    return found


def _rotated(x: np.ndarray) -> tuple[Array, np.ndarray, np.ndarray, Array]:
    """Centred features on their axes with a column of ones [n, r + 1], mean, axes [d, r] and variances [r + 1]."""
    x = np.asarray(x)
    mean = x.mean(axis=0, dtype=np.float64)
    centred = (x - mean).astype(np.float32)
    values, vectors = np.linalg.eigh(np.asarray(_gram(centred), np.float64) / len(x))
    kept = values > max(values[-1], 0.0) * RANK
    axes = vectors[:, kept]
    rotated = _with_ones(centred, axes.astype(np.float32))
    return rotated, mean, axes, jnp.asarray(np.append(values[kept], 1.0), jnp.float32)


@jax.jit
def _gram(x: Array) -> Array:
    return x.T @ x


@jax.jit
def _with_ones(x: Array, axes: Array) -> Array:
    return jnp.concatenate([x @ axes, jnp.ones((len(x), 1), x.dtype)], axis=1)


@jax.jit
def _argmax(x: Array, kernel: Any, bias: Any) -> Array:
    return (x @ kernel + bias).argmax(axis=1)


@partial(jax.jit, static_argnums=6)
def _solve(
    x: Array, y: Array, weights: Array, variances: Array, strength: Array, tolerance: Array, max_iter: int
) -> _State:
    """The minimum of mean loss + ½ strength ‖W‖² from ``weights``."""
    penalty = jnp.full((len(weights), 1), strength).at[-1].set(0.0)  # none for the intercept
    logits = x @ weights
    # the best multiple of the warm start: its logits are known, and a line search costs no product
    scale, _ = _line_search(logits, logits, y, weights, weights, penalty, jnp.float32(0.0))
    weights, logits = (1 + scale) * weights, (1 + scale) * logits
    gradient, curvature, _ = _gradient(x, y, weights, logits, penalty)
    inverse = 1.0 / (variances[:, None] * curvature + penalty)
    memory = jnp.zeros((MEMORY, *weights.shape))
    start = _State(weights, logits, gradient, memory, memory, jnp.float32(jnp.inf), jnp.int32(0))

    def step(state: _State) -> _State:
        direction = _direction(state, inverse)
        slope = (direction * state.gradient).sum()
        along = x @ direction
        size, _ = _line_search(state.logits, along, y, state.weights, direction, penalty, jnp.float32(1.0))
        weights, logits = state.weights + size * direction, state.logits + size * along
        gradient, _, objective = _gradient(x, y, weights, logits, penalty)
        steps = jnp.concatenate([state.steps[1:], (weights - state.weights)[None]])
        changes = jnp.concatenate([state.changes[1:], (gradient - state.gradient)[None]])
        return _State(weights, logits, gradient, steps, changes, -0.5 * slope / objective, state.iterations + 1)

    return jax.lax.while_loop(lambda s: (s.decrease > tolerance) & (s.iterations < max_iter), step, start)


def _gradient(x: Array, y: Array, weights: Array, logits: Array, penalty: Array) -> tuple[Array, Array, Array]:
    """Gradient of the mean objective, the mean of p (1 − p) per class [c], and the objective."""
    logs = jax.nn.log_softmax(logits)
    shares, own = jnp.exp(logs), jnp.arange(logits.shape[1]) == y[:, None]
    gradient = x.T @ (shares - own) / len(y) + penalty * weights
    objective = -jnp.where(own, logs, 0.0).sum() / len(y) + 0.5 * (penalty * weights**2).sum()
    return gradient, (shares * (1 - shares)).mean(axis=0), objective


def _direction(state: _State, inverse: Array) -> Array:
    """The two loops of L-BFGS with a diagonal first matrix; pairs without positive curvature do not count."""
    products = (state.steps * state.changes).sum(axis=(1, 2))
    rho = jnp.where(products > 0, 1.0 / jnp.where(products > 0, products, 1.0), 0.0)
    pairs = state.steps, state.changes, rho

    def backward(q: Array, pair: Any) -> tuple[Array, Array]:
        step, change, weight = pair
        alpha = weight * (step * q).sum()
        return q - alpha * change, alpha

    def forward(r: Array, pair: Any) -> tuple[Array, None]:
        (step, change, weight), alpha = pair
        return r + (alpha - weight * (change * r).sum()) * step, None

    q, alphas = jax.lax.scan(backward, state.gradient, pairs, reverse=True)
    last = (state.changes[-1] ** 2 * inverse).sum()
    scale = jnp.where(products[-1] > 0, products[-1] / jnp.where(last > 0, last, 1.0), 1.0)
    return -jax.lax.scan(forward, scale * inverse * q, (pairs, alphas))[0]


def _line_search(
    logits: Array, along: Array, y: Array, weights: Array, direction: Array, penalty: Array, first: Array
) -> tuple[Array, Array]:
    """A step t at which the slope along the direction is small: Newton's method on the slope, inside a bracket.

    The objective is convex, so its slope rises with t, and each evaluation narrows the bracket.
    """

    def slope_at(t: Array) -> tuple[Array, Array]:
        shares = jax.nn.softmax(logits + t * along)
        mean = (shares * along).sum(axis=1)
        own = jnp.take_along_axis(along, y[:, None], axis=1)[:, 0]
        spread = (shares * (along - mean[:, None]) ** 2).sum(axis=1)
        first = (mean - own).mean() + (penalty * direction * (weights + t * direction)).sum()
        return first, spread.mean() + (penalty * direction**2).sum()

    start, _ = slope_at(jnp.float32(0.0))

    def narrow(carry: Any) -> Any:
        t, _, low, high, count = carry
        slope, bend = slope_at(t)
        low, high = jnp.where(slope < 0, t, low), jnp.where(slope < 0, high, t)
        newton = t - slope / jnp.maximum(bend, 1e-30)
        outside = (newton <= low) | (newton >= high)
        middle = jnp.where(jnp.isinf(high), 2 * jnp.maximum(t, 0.5), 0.5 * (low + high))
        done = jnp.abs(slope) <= LINE_SLOPE * jnp.abs(start)
        return jnp.where(done, t, jnp.where(outside, middle, newton)), done, low, high, count + 1

    begin = (first, jnp.bool_(False), jnp.float32(-1.0), jnp.float32(jnp.inf), jnp.int32(0))
    t, done, *_ = jax.lax.while_loop(lambda c: ~c[1] & (c[4] < LINE_STEPS), narrow, begin)
    return t, done
