"""All benchmarks by name: the union of the ``BENCHMARKS`` of every family's file in ``families``.

A new family is one new file. Nothing registers itself: a file says what it offers in one dict, and the dicts are read
here.
"""

from __future__ import annotations

import importlib
import pkgutil
import runpy
from pathlib import Path

from pivot_jax.errors import UserError, suggest
from pivot_jax.eval.benchmarks import families
from pivot_jax.eval.benchmarks.base import Benchmark, Worded
from pivot_jax.eval.benchmarks.toolkits import DEFAULT


def collect() -> dict[str, Benchmark]:
    """Reads the dict of every family's file.

    Raises:
      ValueError: two files have a benchmark of the same name.
    """
    benchmarks: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(families.__path__):
        family: dict[str, Benchmark] = importlib.import_module(f"{families.__name__}.{module.name}").BENCHMARKS
        if twice := sorted(family.keys() & benchmarks.keys()):
            raise ValueError(f"benchmark '{twice[0]}' in {module.name}.py has the name of one in another file")
        benchmarks |= family
    return benchmarks


BENCHMARKS: dict[str, Benchmark] = collect()


def find(name: str) -> Benchmark:
    """The benchmark of that name, or that of a Python file: ``FILE.py``, or ``FILE.py:NAME`` where it has several.

    Such a file has a dict ``BENCHMARKS``, as every file in ``families``.

    Raises:
      UserError: there is none; the message lists the names.
    """
    if name.partition(":")[0].endswith(".py"):
        return _of_file(*name.partition(":")[::2])
    if name not in BENCHMARKS:
        raise UserError(
            f"benchmark '{name}' is unknown; there are {', '.join(BENCHMARKS)}{suggest(name, BENCHMARKS)}, and any "
            "FILE.py with a dict BENCHMARKS"
        )
    return BENCHMARKS[name]


def examples(name: str, path: str | Path, toolkit: str = DEFAULT) -> Worded:
    """A benchmark's questions as examples, in the words of a toolkit."""
    benchmark = find(name)
    return Worded(benchmark.read(path), benchmark.variant(toolkit))


def _of_file(file: str, name: str) -> Benchmark:
    try:
        found = runpy.run_path(file).get("BENCHMARKS")
    except Exception as error:  # whatever the user's file raises
        raise UserError(f"benchmark file {file}: {type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, Benchmark) for one in found.values()) or not found:
        raise UserError(f"benchmark file {file}: needs a dict BENCHMARKS of name → pivot_jax.eval.benchmarks.Benchmark")
    if name not in found and (name or len(found) > 1):
        raise UserError(f"benchmark file {file}: it has {', '.join(found)}; name one as {file}:NAME")
    return found[name] if name else next(iter(found.values()))
