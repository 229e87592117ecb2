"""Traffic of a compiled program between devices, read from its optimised HLO."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
OUTER = "between slices"  # TPU slices, or machines with GPUs
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SENT = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_LAYOUT = re.compile(r"\{[^}]*\}")
_ELEMENT = re.compile(r"\([^)]*\)|\w+\[[\d,]*\]")  # of a tuple: itself a tuple, or an array
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CONSTANT = re.compile(r"constant\((\d+)\)")
_OUTER_SEND = re.compile(r"= \((.*?), u32\[\].* send\(.*xla_megascale_runtime")
_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_PARTITIONS = re.compile(r"num_partitions=(\d+)")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


class Traffic(NamedTuple):
    """Operations of one device in one step and the bytes of their results; every iteration of a loop counts.

    For :data:`OUTER`, the bytes that the device sends, not those of a result.
    """

    operations: int
    bytes: int


def traffic(hlo: str, machine: int = 0) -> dict[str, Traffic]:
    """Collectives by kind, of :data:`KINDS`, and traffic that leaves a slice or machine; kinds that occur.

    The TPU compiler emits a separate operation for traffic that leaves a slice. For GPUs it follows from the groups of
    devices.

    Args:
      hlo: text of the optimised module.
      machine: GPUs per machine, which share its outgoing network. 0: TPUs, or a single machine.
    """
    computations, entry = _computations(hlo)
    everyone = _PARTITIONS.search(hlo)
    devices = int(everyone[1]) if everyone else 1
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def count(kind: str, times: int, size: int) -> None:
        found[kind][0] += times
        found[kind][1] += times * size

    for name, times in _runs(computations, entry).items():
        for line in computations[name]:
            if match := _SENT.search(line):
                size = _result_bytes(*match.groups())
                count(match[2], times, size)
                if outer := _leaving(match[2], size, _groups(line, devices), machine) if machine else 0:
                    count(OUTER, times, outer)
            elif match := _OUTER_SEND.search(line):
                count(OUTER, times, sum(_bytes(*array) for array in _ARRAY.findall(_LAYOUT.sub("", match[1]))))
    return {kind: Traffic(*found[kind]) for kind in (*KINDS, OUTER) if kind in found}


def _groups(line: str, devices: int) -> list[list[int]]:
    """Groups of devices that an operation joins, as indices in the mesh."""
    if match := _IOTA.search(line):
        shape, dims, order = ([int(x) for x in part.split(",")] if part else None for part in match.groups())
        assert shape and dims
        indices = np.arange(math.prod(dims)).reshape(dims)
        return (indices if order is None else indices.transpose(order)).reshape(shape).tolist()
    match = _GROUPS.search(line)
    if not match:
        return [[*range(devices)]]
    return [[int(x) for x in group.split(",")] for group in re.findall(r"[\d,]+(?=\})", match[1])]


def _leaving(kind: str, size: int, groups: list[list[int]], machine: int) -> int:
    """The minimum of bytes that a GPU sends to other machines: their part of a result, shared by a machine's GPUs."""
    group = max(groups, key=lambda group: len({device // machine for device in group}))
    machines = len({device // machine for device in group})
    if machines < 2:
        return 0
    if kind == "collective-permute":
        return size
    whole = size * {"reduce-scatter": len(group), "all-reduce": 2}.get(kind, 1)
    sharing = 1 if kind == "all-to-all" else len(group) // machines
    return whole * (machines - 1) // machines // sharing


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return computations, entry


def _runs(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs in one step. Every branch of a conditional counts as taken."""
    runs: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for line in computations[name]:
            if match := _WHILE.search(line):
                known = _TRIPS.search(line)
                visit(match[2], times * (int(known[1]) if known else _trips(computations[match[1]])))
            for called in _CALLED.findall(line):
                visit(called, times)
            if match := _BRANCHES.search(line):
                for branch in match[1].replace("%", "").split(", "):
                    visit(branch, times)

    visit(entry, 1)
    return runs


def _trips(condition: list[str]) -> int:
    """Iterations of a loop that counts up to a constant, as scans do; 1 if its condition has no constant."""
    return max((int(x) for line in condition for x in _CONSTANT.findall(line)), default=1)


def _result_bytes(shape: str, kind: str, start: str | None) -> int:
    """Bytes of a result. Several arrays may share an operation. An asynchronous start, except that of an all-reduce,
    returns (operands, results, ...), each of them an array or a tuple."""
    shape = _LAYOUT.sub("", shape)
    if not start or kind == "all-reduce":
        return sum(_bytes(*array) for array in _ARRAY.findall(shape))
    results = _ELEMENT.findall(shape[1:])[1]
    return sum(_bytes(*array) for array in _ARRAY.findall(results))


def _bytes(kind: str, dims: str) -> int:
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return math.prod(int(x) for x in dims.split(",") if x) * bits // 8
