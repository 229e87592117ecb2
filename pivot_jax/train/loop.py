"""The training loop of SFT, preference and contrastive runs: the steps only. ``session.py`` does all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pivot_jax.parallel.mesh import place_batch
from pivot_jax.train.program import Program
from pivot_jax.train.session import Hook, Session
from pivot_jax.train.setup import Setup


def train(
    setup: Setup, state: Any, saved: dict[str, Any] | None, reference: Any, workdir: Path, hooks: Sequence[Hook] = ()
) -> tuple[Any, dict[str, float]]:
    """Trains from ``state`` to the last step.

    Args:
      saved: the ``progress`` item of the checkpoint that ``state`` came from, or None at the start.
      reference: reference parameters for a preference step that computes log-probs itself, or None.
      hooks: evaluations (see :class:`~pivot_jax.train.session.Hook`).

    Returns:
      (state, metrics of the last log line and of the last evaluation).

    Raises:
      UserError: loss or gradient not finite, disk full, too many bad rows, or from a hook.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    program = Program(setup.compiled_step(), done=int(state.step))
    with Session(setup, workdir, saved, int(state.step), hooks) as session, jax.set_mesh(setup.mesh):
        session.begin(state)
        while not session.finished:
            taken = session.take(state)
            batch = place_batch(taken.batch, setup.mesh)
            flops = program.flops(state, batch, reference)
            state, metrics = program(state, batch, reference)
            # The device computes this step while the host reads the metrics of the one before.
            session.record(taken, metrics, flops, state)
            session.save_or_stop(state)
    return state, session.metrics
