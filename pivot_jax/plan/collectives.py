"""What a compiled program sends between devices, read from its optimised HLO."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
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


class Traffic(NamedTuple):
    """Of one device and step: operations and the bytes of their results, loops counted as often as they run."""

    operations: int
    bytes: int


def traffic(hlo: str) -> dict[str, Traffic]:
    """Collectives by kind, of :data:`KINDS`; kinds that do not occur are left out."""
    computations, entry = _computations(hlo)
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, times in _runs(computations, entry).items():
        for line in computations[name]:
            if match := _SENT.search(line):
                found[match[2]][0] += times
                found[match[2]][1] += times * _result_bytes(*match.groups())
    return {kind: Traffic(*found[kind]) for kind in KINDS if kind in found}


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
    """How often each computation runs in one step. Of a condition's branches each counts as taken."""
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
    """Iterations of a loop that counts up to a constant, as scans do; 1 if its condition names none."""
    return max((int(x) for line in condition for x in _CONSTANT.findall(line)), default=1)


def _result_bytes(shape: str, kind: str, start: str | None) -> int:
    """Bytes of a result. Several arrays may share an operation. An asynchronous start, but for an all-reduce's, gives
    (operands, results, ...), of which each may be an array or a tuple."""
    shape = _LAYOUT.sub("", shape)
    if not start or kind == "all-reduce":
        return sum(_bytes(*array) for array in _ARRAY.findall(shape))
    results = _ELEMENT.findall(shape[1:])[1]
    return sum(_bytes(*array) for array in _ARRAY.findall(results))


def _bytes(kind: str, dims: str) -> int:
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return math.prod(int(x) for x in dims.split(",") if x) * bits // 8
