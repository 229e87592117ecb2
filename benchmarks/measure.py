"""Measurement for the benchmarks: sides in processes that take turns, medians, and a JSON file that grows with them.

Import it first: it puts the repository on the path, so the benchmarks run where pivot_jax is not installed.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "trl", "tokamax", "triton", "grain")
# Several processes share a GPU here, so none may preallocate most of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class SideError(Exception):
    """A side raised an error, ended, or hung and was stopped; the message is the reason."""


class Side:
    """A worker object in its own process: a crash or a hang ends one side, not the run."""

    def __init__(self, worker: type, *arguments: Any):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(other, worker, arguments), daemon=True)
        self._process.start()
        other.close()

    def send(self, method: str, *arguments: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended; receive() reports it
            self._pipe.send((method, arguments))

    def receive(self, limit: float) -> Any:
        """The answer to the oldest open call.

        Raises:
          SideError: the call failed, the process ended, or there was no answer in ``limit`` seconds.
        """
        try:
            if not self._pipe.poll(max(limit, 0.0)):
                self.close()
                raise SideError(f"no answer in {limit:.0f} s; stopped")
            good, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise SideError(f"its process ended with code {self._process.exitcode}") from error
        if not good:
            raise SideError(value)
        return value

    def ask(self, method: str, *arguments: Any, limit: float = 120.0) -> Any:
        self.send(method, *arguments)
        return self.receive(limit)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _without_folders(argument: str) -> str:
    """An argument of the command without what says where this machine keeps things."""
    inside = argument.replace(f"{ROOT}/", "")
    return f"…/{Path(inside).name}" if Path(inside).is_absolute() else inside


def _serve(pipe: Any, worker: type, arguments: tuple[Any, ...]) -> None:
    """Child process: makes the worker, then answers calls until the parent ends."""
    made, failed = None, ""
    try:
        made = worker(*arguments)
    except Exception as error:  # a missing package, for example
        failed = one_line(error)
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            try:
                pipe.send((False, failed) if failed else (True, getattr(made, method)(*arguments)))
            except Exception as error:
                pipe.send((False, one_line(error)))


def one_line(error: BaseException) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}"


def is_out_of_memory(reason: str) -> bool:
    return any(words in reason.lower() for words in ("resource_exhausted", "out of memory", "outofmemory"))


class Budget:
    """The seconds of a script's time limit."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


class Record:
    """A JSON file, rewritten after every part; it is complete even if a run is interrupted."""

    def __init__(self, path: Path, device: str):
        self.path = path
        self.content: dict[str, Any] = {
            "command": " ".join(["python", *map(_without_folders, sys.argv)]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(device),
            "left_out": {},
            "results": {},
        }

    def leave_out(self, name: str, reason: str) -> None:
        self.content["left_out"][name] = reason
        print(f"left out: {name}: {reason}", flush=True)

    def add(self, name: str, found: Any) -> None:
        self.content["results"][name] = found
        self.write()

    def write(self) -> None:
        write_json(self.path, self.content)


def write_json(path: Path, content: Any) -> None:
    """Writes a file of results, and its folder."""
    from pivot_jax import files  # here: the repository must be on the path

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(content, indent=1) + "\n")


def machine(device: str) -> dict[str, Any]:
    """Device, processor, versions and commit."""
    from pivot_jax.parallel.chips import processor  # here: the repository must be on the path

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: version(name) for name in PACKAGES}
    return {
        "device": device,
        "cpu": processor(),
        "cores": cores,
        "load_at_start": os.getloadavg()[0],  # other processes distort times
        "python": platform.python_version(),
        "versions": {name: found for name, found in versions.items() if found},
        "commit": commit(),
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit, with the suffix "-dirty" where files differ; without git, a digest of the package's files."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    digest = hashlib.sha256()
    for path in sorted((ROOT / "pivot_jax").rglob("*.py")):
        digest.update(path.read_bytes())
    return f"no git; sha256 of pivot_jax/**/*.py {digest.hexdigest()[:16]}"


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def take_turns(sides: dict[str, Any], rounds: int, warmup: int = 0) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds by name, one turn each per round; and by name the reason why a side was dropped.

    Args:
      sides: name → function without arguments that runs one turn and returns its seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    dropped: dict[str, str] = {}
    for turn in range(warmup + rounds):
        for name, run in sides.items():
            if name in dropped:
                continue
            try:
                seconds = run()
            except SideError as error:
                dropped[name] = str(error)
                continue
            if turn >= warmup:
                times[name].append(seconds)
    return {name: found for name, found in times.items() if name not in dropped}, dropped
