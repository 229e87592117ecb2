"""The training loop of online RL: MAYE's four steps (Ma et al. 2025, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pivot_jax.models import lora
from pivot_jax.optim import partition
from pivot_jax.parallel.mesh import place_batch
from pivot_jax.rl.collection import collect_responses, score_responses, selection_of, texts_of
from pivot_jax.rl.groups import Collected
from pivot_jax.rl.heldout import heldout_hooks
from pivot_jax.rl.parts import build_parts
from pivot_jax.rl.phase import Phase
from pivot_jax.rl.trajectory import Unvaried, generate_trajectory
from pivot_jax.rl.update import minibatches
from pivot_jax.train.program import Program
from pivot_jax.train.session import Hook, Session
from pivot_jax.train.setup import Setup


def train(
    setup: Setup, state: Any, saved: dict[str, Any] | None, reference: Any, workdir: Path, hooks: Sequence[Hook] = ()
) -> tuple[Any, dict[str, float]]:
    """Trains from ``state`` to the last optimizer step. Arguments, results and errors as of ``train.loop.train``."""
    program = Program(setup.compiled_step(), done=int(state.step))
    with (
        build_parts(setup, workdir) as parts,
        Session(setup, workdir, saved, int(state.step), (*hooks, *heldout_hooks(parts))) as session,
        jax.set_mesh(setup.mesh),
    ):
        session.begin(state)
        unvaried = Unvaried()
        while not session.finished:
            phase = Phase(parts, session)
            if phase.resumed:  # the run was stopped between two optimizer steps of one rollout
                trajectory = phase.load(state)
            else:
                params = partition.merge(state.trained, state.frozen)
                collected = Collected(parts.prompts, phase.surplus())
                while phase.needs_more(collected):
                    # Step I: data flow. Prompts and references to their images.
                    prompts = phase.take(state)
                    # Step II: response collection. The policy of now answers each prompt several times.
                    with phase.timed("rollout"):
                        rollouts = collect_responses(parts, params, session.step, prompts, phase.round, phase.progress)
                    # Step III: trajectory generation. First the rewards, and the groups that a filter keeps ...
                    with phase.timed("reward"):
                        texts = texts_of(parts.processor, rollouts)
                        groups, scores = score_responses(parts.rewards, prompts, rollouts, texts)
                        selection = selection_of(parts, groups, scores)
                    collected.add(selection)
                    phase.note(selection, scores, texts)
                # ... then log-probs of policy and reference, and advantages.
                with phase.timed("logprobs"):
                    compared = lora.base(state.frozen) if setup.keeps_base else reference
                    trajectory = generate_trajectory(parts, params, session.step, compared, collected.take()[0])
                del params  # the update donates them
                phase.save(trajectory, collected)
                unvaried.note(trajectory)
            # Step IV: policy update. Optimizer steps on minibatches of the trajectory.
            for batch in minibatches(parts, trajectory, phase.number, phase.done):
                if session.finished:
                    break
                placed = place_batch(batch, setup.mesh)
                flops = program.flops(state, placed, None)
                state, metrics = program(state, placed, None)
                phase.record(trajectory, batch, metrics, flops, state)
                session.save_or_stop(state)
    return state, session.metrics
