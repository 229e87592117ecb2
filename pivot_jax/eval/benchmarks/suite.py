"""All benchmarks by name: the union of the ``BENCHMARKS`` of every family's file in this package.

A new family is one new file. Nothing registers itself: a file says what it offers in one dict, and the dicts are read
here.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from pivot_jax.errors import UserError, suggest
from pivot_jax.eval.benchmarks.base import Benchmark

_NO_FAMILIES = ("base", "cells", "image_cells", "suite")


def collect() -> dict[str, Benchmark]:
    """Reads the dict of every family's file.

    Raises:
      ValueError: two files have a benchmark of the same name.
    """
    benchmarks: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name in _NO_FAMILIES:
            continue
        family: dict[str, Benchmark] = importlib.import_module(f"{__package__}.{module.name}").BENCHMARKS
        if twice := sorted(family.keys() & benchmarks.keys()):
            raise ValueError(f"benchmark '{twice[0]}' in {module.name}.py has the name of one in another file")
        benchmarks |= family
    return benchmarks


BENCHMARKS: dict[str, Benchmark] = collect()


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
      UserError: there is none; the message lists the names.
    """
    if name not in BENCHMARKS:
        raise UserError(f"benchmark '{name}' is unknown; there are {', '.join(BENCHMARKS)}{suggest(name, BENCHMARKS)}")
    return BENCHMARKS[name]
