#!/usr/bin/env python3
"""Start one command as several JAX processes on this machine.

    python launch/local.py --processes 2 -- pivot-jax train --config FILE --workdir DIR

Each process gets PIVOT_COORDINATOR, PIVOT_NUM_PROCESSES and PIVOT_PROCESS_ID, from which pivot-jax starts
jax.distributed; on CPU the collectives are gloo's. Each line of output starts with the process number. When one process
fails, the launcher stops the others. It forwards Ctrl-C and SIGTERM to all of them, so a run saves before it ends.
The exit code is that of the process that failed first, or 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

STOPPED = (129, 130, 143)  # exit codes of pivot-jax after a signal
GRACE_S = 60.0  # from SIGTERM to SIGKILL: time to save a checkpoint


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def forward(signum: int, _frame: object) -> None:
        received.append(signum)
        send(processes, signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, forward)
    for index in range(args.processes):
        processes.append(start(args, index))
    printers = [threading.Thread(target=echo, args=(p, i), daemon=True) for i, p in enumerate(processes)]
    for printer in printers:
        printer.start()
    code = wait(processes, stopping=received)
    for printer in printers:
        printer.join(timeout=5)
    return code


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/local.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes (default 2)")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process (default 1)")
    parser.add_argument("--port", type=int, default=0, help="port of the coordinator (default: a free one)")
    parser.add_argument("--platform", default="cpu", help="JAX_PLATFORMS of the processes (default cpu)")
    parser.add_argument("command", nargs="+", help="the command, after --, such as pivot-jax train ...")
    args = parser.parse_args(argv)
    if args.processes < 1 or args.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    args.port = args.port or free_port()
    return args


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(args: argparse.Namespace, index: int) -> subprocess.Popen[bytes]:
    """One process in its own session: a Ctrl-C in the terminal reaches it once, through the launcher."""
    env = dict(
        os.environ,
        PIVOT_COORDINATOR=f"127.0.0.1:{args.port}",
        PIVOT_NUM_PROCESSES=str(args.processes),
        PIVOT_PROCESS_ID=str(index),
        JAX_PLATFORMS=args.platform,
        PYTHONUNBUFFERED="1",
    )
    if args.platform == "cpu":
        env["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
        kept = [f for f in env.get("XLA_FLAGS", "").split() if "xla_force_host_platform_device_count" not in f]
        env["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={args.devices}"])
    try:
        return subprocess.Popen(
            args.command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        sys.exit(f"launch/local.py: cannot run {args.command[0]}: {error.strerror}")


def echo(process: subprocess.Popen[bytes], index: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(f"[{index}] {line.decode(errors='replace')}")
        sys.stdout.flush()


def send(processes: list[subprocess.Popen[bytes]], signum: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signum)


def wait(processes: list[subprocess.Popen[bytes]], stopping: list[int]) -> int:
    """Waits for all; stops the others after the first failure. ``stopping`` lists the forwarded signals."""
    first_failure, deadline = 0, None
    while any(p.poll() is None for p in processes):
        failed = [(index, p.returncode) for index, p in enumerate(processes) if p.poll() not in (None, 0)]
        if failed and not first_failure:
            index, first_failure = failed[0]
            if not stopping:
                how = ending(first_failure)
                print(f"launch/local.py: process {index} {how}; stopping the others", file=sys.stderr, flush=True)
                send(processes, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            send(processes, signal.SIGKILL)
        time.sleep(0.05)
    codes = [first_failure, *(p.returncode for p in processes)]
    code = next((c for c in codes if c), 0)
    return 128 - code if code < 0 else code


def ending(code: int) -> str:
    """How a process ended that returned ``code``."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return "saved and stopped" if code in STOPPED else f"failed with exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
