"""A linear classifier trained in minibatches, for sets whose logits do not fit into memory, such as all of ImageNet.

Features are read batch by batch, so they may stay on disk. Several learning rates are trained side by side in one pass,
as DINOv2 does (Oquab et al. 2023, appendix B.3); which of them counts is chosen on ``val``. Features are standardised
with the mean and deviation of the training set, in place of the batch norm of MAE's linear probe.
Letters: n images, b batch, d width, c classes, g learning rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pivot_jax.errors import UserError
from pivot_jax.progress import progress

Array = jax.Array
OPTIMIZERS = ("sgd", "adamw")
CHUNK = 8192  # images whose statistics or logits are computed at once


@dataclass(frozen=True)
class LinearTraining:
    """How the classifiers are trained.

    Attributes:
      learning_rates: for a batch of 256; scaled with the batch size, cosine to 0.
      optimizer: ``sgd`` with momentum 0.9, or ``adamw``.
    """

    epochs: int = 30
    batch_size: int = 1024
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    optimizer: str = "sgd"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer '{self.optimizer}' is unknown; choose one of {', '.join(OPTIMIZERS)}")


@dataclass(frozen=True)
class LinearFit:
    """Classifiers of g learning rates.

    Attributes:
      kernel: float32 [g, d, c]. bias: float32 [g, c]; both of features as they were given.
    """

    learning_rates: tuple[float, ...]
    kernel: np.ndarray
    bias: np.ndarray

    def predict(self, x: Any) -> np.ndarray:
        """Class numbers int [g, n] of features [n, d], read chunk by chunk."""
        found = [
            np.asarray(_argmax(jnp.asarray(x[start : start + CHUNK], jnp.float32), self.kernel, self.bias))
            for start in range(0, len(x), CHUNK)
        ]
        return np.concatenate(found, axis=1)


def train(x: Any, y: np.ndarray, training: LinearTraining, *, seed: int = 0, show: bool = False) -> LinearFit:
    """Classifiers of features [n, d] with class numbers y int [n], from 0.

    Args:
      x: an array, an array on disk, or anything else with rows by index (``splits.Chosen``).
      seed: of the order of the rows.
    """
    n, classes = len(x), int(np.max(y)) + 1
    batch = min(training.batch_size, n)
    steps = n // batch
    mean, scale = _statistics(x)
    rates = tuple(rate * batch / 256 for rate in training.learning_rates)
    optimizer = _optimizer(training.optimizer, training.weight_decay, steps * training.epochs)
    shape = (len(rates), x.shape[1], classes)
    params = {"kernel": jnp.zeros(shape), "bias": jnp.zeros((shape[0], classes))}
    state = jax.vmap(optimizer.init)(params)
    labels = np.asarray(y, np.int32)
    with progress("linear probe", steps * training.epochs, show=show) as advance:
        for epoch in range(training.epochs):
            order = np.random.default_rng((seed, epoch)).permutation(n)
            for step in range(steps):
                rows = np.sort(order[step * batch : (step + 1) * batch])  # sorted: a disk is read in one direction
                standard = (np.asarray(x[rows], np.float32) - mean) / scale
                params, state = _step(optimizer, params, state, jnp.asarray(rates), standard, labels[rows])
                advance()
    kernel = np.asarray(params["kernel"]) / scale[:, None]
    return LinearFit(training.learning_rates, kernel, np.asarray(params["bias"]) - mean @ kernel)


@lru_cache  # one object per setting, so that probing the next encoder does not recompile
def _optimizer(name: str, decay: float, steps: int) -> optax.GradientTransformation:
    """Updates for a learning rate of 1 at its peak."""
    schedule = optax.cosine_decay_schedule(1.0, steps)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=decay)
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9))


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _step(
    optimizer: optax.GradientTransformation, params: Any, state: Any, rates: Array, x: Array, y: Array
) -> tuple[Any, Any]:
    def loss(params: Any) -> Array:
        logits = jnp.einsum("bd,gdc->gbc", x, params["kernel"]) + params["bias"][:, None]
        labels = jnp.broadcast_to(y, logits.shape[:2])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(axis=1).sum()

    updates, state = jax.vmap(optimizer.update)(jax.grad(loss)(params), state, params)
    scaled = jax.tree.map(lambda u: u * rates.reshape(-1, *[1] * (u.ndim - 1)), updates)
    return optax.apply_updates(params, scaled), state


def _statistics(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32 [d] of all rows, read chunk by chunk."""
    total = squares = np.zeros(x.shape[1], np.float64)
    for start in range(0, len(x), CHUNK):
        chunk = np.asarray(x[start : start + CHUNK], np.float64)
        total, squares = total + chunk.sum(0), squares + (chunk**2).sum(0)
    mean = total / len(x)
    deviation = np.sqrt(np.maximum(squares / len(x) - mean**2, 0.0))
    return mean.astype(np.float32), (deviation + 1e-6).astype(np.float32)


@jax.jit
def _argmax(x: Array, kernel: Any, bias: Any) -> Array:
    return (jnp.einsum("bd,gdc->gbc", x, kernel) + bias[:, None]).argmax(axis=-1)
