"""The processes that rewards run in: a launcher, which has everything imported, and workers, which are its forks.

The launcher is a new Python process (never a fork of the trainer, whose JAX threads hold locks), has a session of its
own and no JAX. Forking it takes milliseconds, so a worker that is killed is replaced at once. A worker is the leader of
a process group. What a reward forks is in that group, or at least among the launcher's descendants, and dies with it.

Workers answer in JSON. The trainer never unpickles what comes from a process that read model output.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import pickle
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.function import Reward, call, columns_of, load
from pivot_jax.words import counted

START, KILL = b"S", b"K"  # requests to the launcher
GRACE_S = 0.2  # for processes that a reward started, to end after it returned
LONGEST = 300  # characters of a message
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def launch(descriptor: int) -> None:
    """The launcher: starts and kills workers until the trainer's end of the socket is closed."""
    _handle_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=descriptor)
    size = int.from_bytes(_exactly(control, 8))
    rewards, memory_bytes = pickle.loads(_exactly(control, size))  # from the trainer
    _warm(rewards)
    workers: set[int] = set()
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 9, 1)
        if not request:
            os._exit(0)  # the workers get a signal then
        if request[:1] == START:
            if not (pid := os.fork()):
                control.close()
                _work(descriptors[0], rewards, memory_bytes)
            with suppress(OSError):  # the worker does the same; whoever comes first
                os.setpgid(pid, pid)
            os.close(descriptors[0])
            workers.add(pid)
            control.sendall(pid.to_bytes(8))
        else:
            pid = int.from_bytes(request[1:])
            workers.discard(pid)
            control.sendall(_kill(pid, workers).to_bytes(8, signed=True))


def _kill(pid: int, others: set[int]) -> int:
    """Ends a worker, its process group and what left the group. Returns its exit code, negative for a signal."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    for child in set(children()) - others:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _work(descriptor: int, rewards: Sequence[Reward], memory_bytes: int) -> None:
    """A worker: loads the rewards, then scores what comes until the trainer hangs up. Does not return."""
    with suppress(OSError):
        os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    pipe, pid = Connection(descriptor), os.getpid()
    functions: list[Callable[..., Any]] = []
    reads = []
    for reward in rewards:
        try:
            functions.append(load(reward))
            reads.append(columns_of(reward, functions[-1]))
        except BaseException as error:
            with suppress(OSError):
                _send(pipe, "failed", reward.label, describe(error))
            os._exit(1)
    _limit_memory(memory_bytes)
    started = len(children())
    with suppress(EOFError, OSError):  # the trainer hangs up
        _send(pipe, "ready", resident(pid), reads)
        while True:
            index, items = pickle.loads(pipe.recv_bytes())
            if rewards[index].built_in:
                _one_by_one(pipe, rewards[index], functions[index], items)
            else:
                answer = _whole(rewards[index], functions[index], items)
                if os.getpid() != pid:  # a fork that the reward made, and that returned from it too
                    os._exit(0)
                left = _left_over(started)
                _send(pipe, *(("fault", "error", left) if left else answer))
            _send(pipe, "done")
    os._exit(0)


def _one_by_one(pipe: Connection, reward: Reward, function: Callable[..., Any], items: Sequence[Completion]) -> None:
    """Sends each score as soon as it is known, so that the trainer knows which completion takes too long."""
    for item in items:
        try:
            answer = checked(function(item, **reward.options))
        except BaseException as error:
            answer = _fault(error)
        _send(pipe, "score", *answer)


def _whole(reward: Reward, function: Callable[..., Any], items: Sequence[Completion]) -> tuple[Any, ...]:
    try:
        values = call(reward, function, items)
    except BaseException as error:
        return "fault", *_fault(error)[1:]
    if len(values) != len(items):
        return "fault", "count", f"returned {counted(len(values), 'reward')} for {counted(len(items), 'completion')}"
    return "scores", [checked(value) for value in values]


def checked(value: Any) -> tuple[Any, ...]:
    """A reward's value as (value,), or (None, kind, message) where it is no finite number and not None."""
    if value is None:
        return (None,)
    try:
        number = float(value)
    except BaseException:
        return None, "error", f"returned {type(value).__name__} {repr(value)[:60]}, which is no number"
    return (number,) if math.isfinite(number) else (None, "nan", f"returned {number}")


def _fault(error: BaseException) -> tuple[Any, ...]:
    return None, "memory" if isinstance(error, MemoryError) else "error", describe(error)


def describe(error: BaseException) -> str:
    """Type and message in one line."""
    try:
        said = " ".join(str(error).split())
    except BaseException:
        said = ""
    return f"{type(error).__name__}: {said}"[:LONGEST].rstrip(": ")


def _left_over(started: int) -> str:
    """What to say of processes that a reward leaves running, "" where it leaves none."""
    until = time.monotonic() + GRACE_S
    while len(children()) > started:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        if time.monotonic() > until:
            return f"ended {counted(len(children()) - started, 'process', 'processes')} that it left running"
        time.sleep(0.002)
    return ""


def children() -> list[int]:
    """Ids of this process's children, dead ones that nobody waited for included; empty where there is no /proc."""
    with suppress(OSError):
        return list(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    return []


def resident(pid: int) -> int:
    """Bytes of a process's memory that are in use; 0 where there is no such process, or no /proc."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _limit_memory(memory_bytes: int) -> None:
    """Lets an allocation fail that is half as large again as the limit, beside what is in use now.

    The trainer ends a worker whose memory grows beyond the limit itself (:mod:`.pool`). This one is for a single large
    allocation, which would be there before the trainer looks.
    """
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + memory_bytes * 3 // 2
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _warm(rewards: Sequence[Reward]) -> None:
    """Imports what the built-in rewards need, for all workers."""
    if any(reward.name in ("math", "maye_math", "cosine_length") for reward in rewards):
        equality = importlib.import_module("pivot_jax.eval.scoring.equality")
        for answer, gold in ((r"\frac{1}{2}", "0.5"), (r"2\sqrt{3}", r"\sqrt{12}"), ("x+1", "y+1")):
            equality.equal(answer, gold)


def _handle_signals() -> None:
    """A signal to the whole job does not end rewards while the run saves; programs that they start get the default."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _send(pipe: Connection, *message: Any) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _exactly(control: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = control.recv(size - len(found))
        if not part:
            os._exit(0)
        found += part
    return found
