"""Plans as text and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from pivot_jax import rules
from pivot_jax.plan.collectives import OUTER
from pivot_jax.plan.program import GIB
from pivot_jax.plan.run import LESS, Plan
from pivot_jax.plan.topology import Topology
from pivot_jax.train.setup import Setup
from pivot_jax.words import counted

_PREALLOCATED = 0.75  # of a GPU's memory, by JAX's default


def text(plan: Plan, topology: Topology) -> str:
    """One bucket's table: memory of a device, work, traffic, bounds of the step's time."""
    program, (tokens, targets) = plan.program, plan.bucket
    how = f"estimated, to within about a third; pip install 'pivot-jax[{topology.missing}]' to compile"
    how = "compiled" if plan.compiled else how
    shape = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    rows = f"{counted(plan.rows, 'row')}" + (f", {plan.packing} per sequence," if plan.packing > 1 else "")
    rows += f" in {plan.accumulate} micro-batches" if plan.accumulate > 1 else ""
    lines = [f"{rows} of {tokens} tokens, {targets} scored, on {plan.topology} ({shape}), {how}"]
    parts = {
        "parameters": program.parameters,
        "optimizer state": program.optimizer,
        "reference model": program.reference,
        "batch and others": program.arguments - program.parameters - program.optimizer - program.reference,
        "temporaries": program.temporaries,
    }
    lines += [f"  {name:26}{size / GIB:10.2f} GiB" for name, size in parts.items() if size]
    verdict = "fits" if plan.fits else f"too large by {program.peak / GIB - plan.hbm_gib:.2f} GiB"
    lines.append(f"  {'total, of ' + format(plan.hbm_gib, 'g'):26}{program.peak / GIB:10.2f} GiB  {verdict}")
    if not topology.chip.dims and plan.fits and program.peak > _PREALLOCATED * plan.hbm_gib * GIB:
        lines.append(
            "  JAX allocates three quarters of a GPU's memory; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 for more"
        )
    if plan.fix:
        lines.append(f"  {plan.fix}")
    elif plan.largest_rows is not None:
        lines.append(f"  {'largest rows that fit':26}{plan.largest_rows:10d}")
    lines.append(f"  {'FLOPs per row, needed':26}{plan.model_flops / plan.rows / 1e12:10.2f} T")
    lines.append(f"  {'FLOPs per row, traced':26}{program.flops / plan.rows / 1e12:10.2f} T (recomputation, padding)")
    for kind, (operations, size) in program.traffic.items():
        lines.append(f"  {kind:26}{size / GIB:10.2f} GiB in {operations} operations")
    lines.append(
        "  lower bounds of the step time: "
        + ", ".join(f"{k} {v * 1e3:.1f} ms" for k, v in bounds(plan, topology).items())
    )
    return "\n".join([*lines, *_sampling(plan)])


def _sampling(plan: Plan) -> list[str]:
    """Lines on the sampler of online RL."""
    found = plan.sampling
    if found is None:
        return []
    parts = {
        "train state": found.state,
        "weights to decode with": found.weights,
        "cache": found.cache,
        "temporaries": found.temporaries,
    }
    verdict = "fits" if plan.samples else f"too large by {found.peak / GIB - plan.hbm_gib:.2f} GiB; {LESS}"
    per_s = found.slots / found.token_s
    return [
        f"sampling, {found.slots} responses at a time of up to {found.tokens} tokens, prompt included",
        *(f"  {name:26}{size / GIB:10.2f} GiB" for name, size in parts.items() if size),
        f"  {'total, of ' + format(plan.hbm_gib, 'g'):26}{found.peak / GIB:10.2f} GiB  {verdict}",
        f"  lower bound of a step: {1e3 * found.token_s:.2f} ms, to read weights and cache ({per_s:.0f} tokens/s)",
    ]


def bounds(plan: Plan, topology: Topology) -> dict[str, float]:
    """Lower bounds of a step's seconds: its FLOPs at peak, one read and write of its state, its traffic."""
    chip, program = topology.chip, plan.program
    found = {
        "compute": program.flops / plan.devices / chip.flops,
        "memory": 2 * (program.parameters + program.optimizer) / chip.hbm_bytes,
    }
    if plan.compiled:
        found["network"] = sum(x.bytes for kind, x in program.traffic.items() if kind != OUTER) / chip.link_bytes
    if OUTER in program.traffic and chip.outer_bytes:
        found[OUTER] = program.traffic[OUTER].bytes / chip.outer_bytes
    return found


def sharding_rows(setup: Setup) -> list[tuple[str, str, str]]:
    """Path, shape and mesh axes of each parameter."""
    shapes, shardings = rules.flatten(setup.like), rules.flatten(setup.shardings)
    rows = []
    for path, leaf in shapes.items():
        axes = ", ".join(str(axis) if axis else "-" for axis in shardings[path].spec) or "not split"
        rows.append((path, "x".join(map(str, leaf.shape)), axes))
    return rows


def as_json(plan: Plan, topology: Topology) -> dict[str, Any]:
    """All figures; bytes are of one device, FLOPs of all."""
    return dataclasses.asdict(plan) | {"bounds_s": bounds(plan, topology), "fits": plan.fits}
