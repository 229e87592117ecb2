"""A run as several processes on this machine, each of which a test can signal, stop and look at."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax.train.metrics import last_step
from tests.tiny.kills import ONE_DEVICE

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "from pivot_jax.parallel import pages\npages.start_again()"  # before the imports of a test's own code
START = "from pivot_jax.cli.__main__ import start\nstart()"
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300"  # as in tests/conftest.py
COMMAND = [sys.executable, "-m", "pivot_jax.cli"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Processes:
    """``pivot-jax train`` of a config in ``count`` processes, without a launcher: nobody ends them but themselves.

    Args:
      devices: of each. code: process → Python that runs before the command, in its process.
      more: process → environment variables.
    """

    def __init__(
        self,
        config: Any,
        workdir: Path,
        count: int,
        *,
        devices: int = 1,
        code: Mapping[int, str] | None = None,
        more: Mapping[int, Mapping[str, str]] | None = None,
    ):
        self.workdir, self.count = workdir, count
        file = workdir.with_suffix(".json")
        file.write_text(configs.to_json(config))
        address = f"127.0.0.1:{free_port()}"
        flags = f"{ONE_DEVICE['XLA_FLAGS']} --xla_force_host_platform_device_count={devices} {PATIENCE}"
        train = ["train", "--config", str(file), "--workdir", str(workdir)]
        self.logs = [workdir.parent / f"{workdir.name}-{number}.log" for number in range(count)]
        self.processes = []
        for number, log in enumerate(self.logs):
            own = {"PIVOT_COORDINATOR": address, "PIVOT_NUM_PROCESSES": str(count), "PIVOT_PROCESS_ID": str(number)}
            own |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            command = COMMAND
            if code and number in code:
                command = [sys.executable, "-c", f"{BEGIN}\n{code[number]}\n{START}"]
            with log.open("wb") as file_of_log:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *train],
                        env=ONE_DEVICE | own | dict((more or {}).get(number, {})),
                        stdout=file_of_log,
                        stderr=file_of_log,
                    )
                )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()  # a stopped one too
            process.wait()

    def reach(self, step: int, limit: float = 300) -> None:
        """Waits until ``step`` is logged."""
        end = time.monotonic() + limit
        while last_step(self.workdir / "metrics.jsonl") < step:
            assert time.monotonic() < end, self.said()
            assert all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.005)

    def send(self, number: int, signal: int) -> float:
        """The time of the signal."""
        self.processes[number].send_signal(signal)
        return time.monotonic()

    def ended(self, numbers: Iterable[int] | None = None, limit: float = 300) -> list[int]:
        """Exit codes, of all or of these; fails if one is not over within ``limit`` seconds."""
        end = time.monotonic() + limit
        codes = []
        for number in range(self.count) if numbers is None else numbers:
            try:
                codes.append(self.processes[number].wait(max(0.01, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"process {number} is not over after {limit} s\n{self.said()}") from None
        return codes

    def last_line(self, number: int) -> str:
        """Of a process that is over; another one may write it a moment later (``peers.LastWord``)."""
        time.sleep(1)
        lines = self.logs[number].read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "Gloo" not in line), "")

    def said(self) -> str:
        texts = (f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in self.logs)
        return "\n".join(texts)


def completed(config: Any, workdir: Path, count: int, **options: Any) -> Path:
    """A run that nothing stops: its workdir."""
    with Processes(config, workdir, count, **options) as run:
        assert run.ended(limit=900) == [0] * count, run.said()
    return workdir
