"""One optimizer step, the same for every objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from pivot_jax.models import lora
from pivot_jax.objectives.base import Objective, Term
from pivot_jax.optim.accumulate import loss_and_gradients


@struct.dataclass
class TrainState:
    """Everything that a step changes, and the frozen parameters."""

    step: Any  # int32 []; optimizer steps done
    trained: Any  # float32 parameters with gradients
    frozen: Any  # float32 parameters without
    opt_state: Any
    memory: Any  # the objective's own state, or None
    healthy: Any  # bool []; False from the first step with a loss or gradient that is not finite


def init_state(trained: Any, frozen: Any, opt_state: Any, objective: Objective) -> TrainState:
    """State of step 0."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trained=trained,
        frozen=frozen,
        opt_state=opt_state,
        memory=objective.memory,
        healthy=jnp.ones((), jnp.bool_),
    )


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm of all values of a tree: float32 [].

    Summed over the last axis and then over the rest, with a barrier that keeps XLA from joining the two sums: on CPUs
    YNNPACK sums a large array (an embedding's gradient) in parts that depend on which threads are free. The norm then
    differed from run to run in its fourth digit, and with it, through clipping, the parameters.
    """
    squares = [jnp.square(x).sum(-1) if x.ndim else jnp.square(x) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(x.sum() for x in jax.lax.optimization_barrier(squares)))


def kept_in(tree: Any, dtype: str) -> Any:
    """The values that are left of a tree's float32 values where they are kept in another type: float32."""
    if dtype == "float32":
        return tree
    return jax.tree.map(lambda x: x.astype(dtype).astype(x.dtype) if x.dtype == jnp.float32 else x, tree)


def build_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    clip: float,
    accumulate: int,
    keeps_base: bool = False,
    master_dtype: str = "float32",
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]:
    """(state, batch, reference parameters or None) → (state, scalar metrics).

    Gradients are clipped to the global norm ``clip`` as PyTorch does (0: no clipping). A step with a loss or gradient
    that is not finite changes no parameters, and neither does any step after it: the loop stops and nothing is lost.

    Args:
      master_dtype: type that the trained parameters and the optimizer's moments are rounded to after every step.
      keeps_base: only LoRA adapters are trained; the frozen parameters are then also those of the reference.
    """

    def step(state: TrainState, batch: Any, reference: Any) -> tuple[TrainState, dict[str, Any]]:
        if keeps_base:
            reference = lora.base(state.frozen)
        loss, grads, metrics = loss_and_gradients(
            objective, state.trained, state.frozen, batch, accumulate, state.memory, reference
        )
        norm = global_norm(grads)
        healthy = state.healthy & jnp.isfinite(loss) & jnp.isfinite(norm)
        if clip:
            factor = jnp.minimum(1.0, clip / (norm + 1e-6))
            grads = jax.tree.map(lambda g: g * factor, grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.trained)
        trained = kept_in(optax.apply_updates(state.trained, updates), master_dtype)
        opt_state = kept_in(opt_state, master_dtype)
        memory = objective.remember(state.memory, metrics)
        kept = jax.tree.map(
            lambda new, old: jnp.where(healthy, new, old),
            (state.step + 1, trained, opt_state, memory),
            (state.step, state.trained, state.opt_state, state.memory),
        )
        scalars = {name: term.mean() if isinstance(term, Term) else term for name, term in metrics.items()}
        scalars |= {"loss": loss, "grad_norm": norm, "healthy": healthy}
        return TrainState(kept[0], kept[1], state.frozen, kept[2], kept[3], healthy), scalars

    return step
