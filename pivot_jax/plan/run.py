"""`pivot-jax plan`: memory, FLOPs and traffic of a config's step on a topology, without the hardware."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.objectives.table import batch_kind
from pivot_jax.plan import program as programs
from pivot_jax.plan.estimate import estimate_step
from pivot_jax.plan.program import GIB, Program, TooLarge
from pivot_jax.plan.sampling import Sampling, plan_sampling
from pivot_jax.plan.topology import Topology
from pivot_jax.train.model import step_flops
from pivot_jax.train.setup import Setup, rows_of_step

LESS = "set rl.slots or rl.max_tokens lower, or take more devices"
_MOST = 1 << 14  # rows per shard at which the search ends


@dataclass(frozen=True)
class Plan:
    """One bucket of a config on a topology."""

    topology: str
    devices: int
    mesh: dict[str, int]
    bucket: tuple[int, int]  # tokens, scored targets of a sequence
    packing: int  # rows of a sequence
    rows: int  # of a step, on all devices and in all micro-batches
    accumulate: int  # micro-batches
    compiled: bool  # False: the estimate
    program: Program
    model_flops: float  # of all devices, counted from the model, without recomputation and padding
    hbm_gib: float
    largest_rows: int | None = None  # None: not searched
    fix: str = ""  # settings that fit, if the rows do not
    sampling: Sampling | None = None  # of online RL with the embedded sampler

    @property
    def fits(self) -> bool:
        return self.program.peak <= self.hbm_gib * GIB and self.samples

    @property
    def samples(self) -> bool:
        """Whether sampling fits."""
        return self.sampling is None or self.sampling.peak <= self.hbm_gib * GIB


def plan(config: Any, topology: Topology, *, rows: int = 0, search: bool = False) -> Iterator[Plan]:
    """Yields a plan for each bucket of ``config.data.buckets``, for the rows of one optimizer step.

    A row of online RL is a prompt with its responses. Its plan is of the update, and of the sampler beside it.

    Args:
      rows: global rows of a step; 0: those of the config.
      search: find the largest number of rows that fits, by compiling. Where the rows do not fit, this always happens.

    Raises:
      UserError: no buckets; parts of the config that do not fit the topology; or a step that the compiler rejects as
        too large. The last one's message has the memory needed and the rows that would fit.
    """
    buckets = [tuple(bucket) for bucket in config.data.buckets]
    if batch_kind(config) == "contrastive":
        buckets = [(config.model.text.max_length, 1)]
    if not buckets:
        raise UserError(
            "data.buckets is empty, so the shapes depend on the longest row of the data, which plan does not read; "
            "set it, for example --config.data.buckets='((512, 128),)' (tokens, scored targets)"
        )
    rows = rows or rows_of_step(config)
    setup = programs.prepare(config, topology)
    for bucket in buckets:
        try:
            program = _program(setup, topology, bucket, rows)
        except TooLarge as error:
            excess = (
                f"{config.name} does not fit {topology.name}: with {rows} rows of {bucket[0]} tokens a device {error}"
            )
            raise UserError(f"{excess}; {fix(setup, largest_rows(setup, topology, bucket))}") from None
        fits = program.peak <= topology.chip.hbm_gib * GIB
        most = largest_rows(setup, topology, bucket) if search or not fits else None
        yield Plan(
            topology=topology.name,
            devices=topology.count,
            mesh=dict(setup.mesh.shape),
            bucket=bucket,
            packing=config.data.packing,
            rows=rows,
            accumulate=config.train.accumulate,
            compiled=topology.devices is not None,
            program=program,
            model_flops=rows * _model_flops(setup, bucket),
            hbm_gib=topology.chip.hbm_gib,
            largest_rows=most,
            fix="" if most is None or fits else fix(setup, most),
            sampling=_sampling(setup, topology, bucket),
        )


def _sampling(setup: Setup, topology: Topology, bucket: tuple[int, int]) -> Sampling | None:
    if setup.objective.kind != "policy" or setup.config.rl.engine != "jax":
        return None
    try:
        return plan_sampling(setup, topology, bucket)
    except TooLarge as error:
        raise UserError(f"sampling does not fit {topology.name}: a device {error}; {LESS}") from None


def fix(setup: Setup, most: int) -> str:
    """The settings to change where steps of at most ``most`` rows fit."""
    split = "parallel.data=1 with parallel.fsdp=-1, " if setup.mesh.size > 1 else ""
    others = f"more devices, {split}or model.*.remat=full"
    if not most:
        return f"not even one row per shard fits; use {others}"
    batch, at_once = setup.config.data.batch_size, most // setup.config.train.accumulate
    unit = _shards(setup) * setup.config.data.packing
    parts = [k for k in range(1, batch + 1) if batch % (k * unit) == 0 and batch // k <= at_once]
    return f"{most} rows fit; use {f'train.accumulate={parts[0]}, ' if parts else ''}{others}"


def largest_rows(setup: Setup, topology: Topology, bucket: tuple[int, int]) -> int:
    """The largest number of global rows of a step that fits; 0 if one sequence per shard and micro-batch does not.

    Memory is nearly linear in the rows. Two programs determine the line, and programs near it then bracket the result.
    """
    unit = _shards(setup) * setup.config.train.accumulate * setup.config.data.packing
    limit = topology.chip.hbm_gib * GIB

    def need(each: int) -> float:
        try:
            return _program(setup, topology, bucket, each * unit, count=False).peak
        except TooLarge as error:
            return max(error.needed, limit + 1)

    one = need(1)
    if one > limit:
        return 0
    fits, too_many, each = 1, 0, 4
    known = {1: one}
    while fits < _MOST and (not too_many or too_many - fits > max(1, fits // 16)):
        known[each] = need(each)
        if known[each] <= limit:
            fits = each
        else:
            too_many = each
        slope = (known[each] - one) / (each - 1)
        line = int(1 + (limit - one) / slope) if slope > 0 else 2 * each
        low, high = fits + 1, too_many - 1 if too_many else 4 * fits
        if low > high:
            break
        each = min(max(line, low), high)
        if each in known:
            each = (low + high) // 2
    return fits * unit


def _shards(setup: Setup) -> int:
    return setup.mesh.shape["data"] * setup.mesh.shape["fsdp"]


def _program(setup: Setup, topology: Topology, bucket: tuple[int, int], rows: int, *, count: bool = True) -> Program:
    if topology.devices is None:
        return estimate_step(setup, bucket, rows, count=count)
    return programs.compile_step(setup, topology, bucket, rows)


def _model_flops(setup: Setup, bucket: tuple[int, int]) -> float:
    """FLOPs of one row: its share of a full sequence. A row attends only to itself, so sharing a sequence adds none."""
    share = (bucket[0] / setup.config.data.packing, bucket[1] / setup.config.data.packing)
    return step_flops(setup.config, setup.model.module, share, setup.trained_parts, setup.adapted_parts)
