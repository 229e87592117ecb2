"""Training of the segmentation heads: all seeds and both label kinds in one compiled epoch.

AdamW with weight decay 0.01, learning rate 1e-3 after a warm-up, cosine to 1e-4, batches of 32 images, 5 epochs
(patch-seg's defaults). Letters: n images, p patches, d width, c classes, r seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pivot_jax.errors import UserError

Array = jax.Array
HEADS = ("mlp", "linear")
Split = tuple[np.ndarray, np.ndarray, np.ndarray]  # features [n, p, d], majority [n, p], union [n, p, c]


@dataclass(frozen=True)
class Training:
    """How a head is trained."""

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 500  # at most a tenth of all steps, so that small sets are trained too
    weight_decay: float = 0.01
    hidden: int = 1024
    standardise: bool = True  # features to zero mean and unit variance per channel (statistics of train)


def train(
    data: Mapping[str, Split], classes: int, head: str, seeds: tuple[int, ...], training: Training
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions on ``test`` of heads trained on ``train``, at the best epoch on ``val``.

    All training features are on the device at once (float32).

    Returns:
      int32 [r, n, p] majority classes (epoch chosen by accuracy over patches) and bool [r, n, p, c] union classes
      (epoch chosen by macro recall, as in patch-seg).
    """
    if head not in HEADS:
        raise UserError(f"segmentation probe: head '{head}' is unknown; choose one of {', '.join(HEADS)}")
    data = _standardised(data) if training.standardise else data
    features, majority, union = (jnp.asarray(array) for array in data["train"])
    n = len(features)
    batch = min(training.batch_size, n)
    steps = n // batch
    total = steps * training.epochs
    optimizer = _optimizer(training, total)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    params = _init(head, training.hidden, features.shape[-1], classes, keys)
    state = jax.vmap(jax.vmap(optimizer.init))(params)
    best: list[Any] = [None, None]
    best_score = np.full((2, len(seeds)), -np.inf)
    for epoch in range(training.epochs):
        rows = [np.random.default_rng((seed, epoch)).permutation(n)[: steps * batch] for seed in seeds]
        order = jnp.asarray(np.stack(rows).reshape(len(seeds), steps, batch))
        params, state = _epoch(head, optimizer, params, state, order, features, majority, union)
        scores = _val_scores(head, params, data["val"])
        for kind in range(2):
            kept = jax.tree.map(lambda x, kind=kind: x[kind], params)
            better = scores[kind] > best_score[kind]
            best[kind] = kept if best[kind] is None else _choose(better, kept, best[kind])
            best_score[kind] = np.maximum(best_score[kind], scores[kind])
    test = data["test"][0]
    logits = [_logits_in_batches(head, best[kind], test) for kind in range(2)]
    return logits[0].argmax(-1).astype(np.int32), logits[1] > 0


@lru_cache  # one object per setting, so that probing the next encoder does not recompile
def _optimizer(training: Training, total: int) -> optax.GradientTransformation:
    warmup = max(1, min(training.warmup_steps, total // 10))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, warmup, max(total, warmup + 1), training.final_learning_rate
    )
    return optax.adamw(schedule, weight_decay=training.weight_decay)


def _init(head: str, hidden: int, width: int, classes: int, keys: Array) -> Any:
    """Parameters [2 kinds, r, ...]; uniform ± 1/√fan_in as torch's Linear. Both kinds start from the same values."""

    def linear(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
        bound = inputs**-0.5
        kernel, bias = jax.random.split(key)
        return {
            "kernel": jax.random.uniform(kernel, (inputs, outputs), minval=-bound, maxval=bound),
            "bias": jax.random.uniform(bias, (outputs,), minval=-bound, maxval=bound),
        }

    def one(key: Array) -> Any:
        if head == "linear":
            return {"out": linear(key, width, classes)}
        first, second = jax.random.split(key)
        return {"fc": linear(first, width, hidden), "out": linear(second, hidden, classes)}

    params = jax.vmap(one)(keys)
    return jax.tree.map(lambda x: jnp.stack([x, x]), params)


def _forward(head: str, params: Any, x: Array) -> Array:
    """Logits [..., c] of features [..., d]."""
    if head == "mlp":
        x = jax.nn.gelu(x @ params["fc"]["kernel"] + params["fc"]["bias"], approximate=False)
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def _loss(head: str, kind: Array, params: Any, x: Array, majority: Array, union: Array) -> Array:
    """Cross-entropy over labelled patches (kind 0) or BCE over patches and classes (kind 1)."""
    logits = _forward(head, params, x)
    labelled = majority >= 0
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(majority, 0))
    weight = jnp.maximum(labelled.sum(), 1)
    by_majority = jnp.where(labelled, entropy, 0.0).sum() / weight
    binary = optax.sigmoid_binary_cross_entropy(logits, union.astype(logits.dtype)).mean(-1)
    by_union = jnp.where(labelled, binary, 0.0).sum() / weight
    return jnp.where(kind == 0, by_majority, by_union)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _epoch(
    head: str,
    optimizer: optax.GradientTransformation,
    params: Any,
    state: Any,
    order: Array,
    features: Array,
    majority: Array,
    union: Array,
) -> tuple[Any, Any]:
    """One pass for both kinds and all seeds: order is int [r, steps, batch]."""

    def one(kind: Array, params: Any, state: Any, order: Array) -> tuple[Any, Any]:
        def step(carry: tuple[Any, Any], rows: Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            gradient = jax.grad(partial(_loss, head, kind))(params, features[rows], majority[rows], union[rows])
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), order)[0]

    over_seeds = jax.vmap(one, in_axes=(None, 0, 0, 0))
    return jax.vmap(over_seeds, in_axes=(0, 0, 0, None))(jnp.arange(2), params, state, order)


def _val_scores(head: str, params: Any, split: Split) -> np.ndarray:
    """[2, r]: patch accuracy of the majority heads, macro recall of the union heads."""
    features, majority, union = split
    first = _logits_in_batches(head, jax.tree.map(lambda x: x[0], params), features).argmax(-1)
    labelled = majority >= 0
    accuracy = ((first == majority) & labelled).sum((1, 2)) / max(labelled.sum(), 1)
    second = _logits_in_batches(head, jax.tree.map(lambda x: x[1], params), features) > 0
    there = union.sum((0, 1))
    found = (second & union[None]).sum((1, 2))
    recall = (found[:, there > 0] / there[there > 0]).mean(1) if there.any() else np.zeros(len(found))
    return np.stack([accuracy, recall])


def _logits_in_batches(head: str, params: Any, features: np.ndarray, size: int = 64) -> np.ndarray:
    """Logits [r, n, p, c] of heads [r, ...]; all batches have one shape, and the last one is padded."""
    size = min(size, len(features))
    out = []
    for start in range(0, len(features), size):
        chunk = features[start : start + size]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), 0)])
        out.append(np.asarray(_all_logits(head, params, filled))[:, : len(chunk)])
    return np.concatenate(out, axis=1)


@partial(jax.jit, static_argnums=0)
def _all_logits(head: str, params: Any, x: Array) -> Array:
    return jax.vmap(partial(_forward, head), in_axes=(0, None))(params, x)


def _choose(better: np.ndarray, new: Any, old: Any) -> Any:
    """The new parameters for the seeds where they are better."""
    pick = jnp.asarray(better)
    return jax.tree.map(lambda a, b: jnp.where(pick.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def _standardised(data: Mapping[str, Split]) -> dict[str, Split]:
    features = data["train"][0]
    flat = features[(features != 0).any(axis=-1)]  # padding is 0
    mean, scale = flat.mean(0), flat.std(0) + 1e-6
    return {name: ((x - mean) / scale, majority, union) for name, (x, majority, union) in data.items()}
