"""Rewards in worker processes, with limits of time and memory for each call.

A completion whose reward fails costs no other completion anything. A worker that exceeds a limit, or dies, is killed
with everything it started, and the rest of its work goes to another worker. When the call of a user's function with the
whole batch fails, it is called again with each completion alone.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.function import Columns, Reward
from pivot_jax.rl.rewards.worker import KILL, START, resident

CHUNK = 32  # completions that a worker is sent at a time
LOAD_S = 300.0  # seconds to import the modules of rewards
WATCH_S = 0.05  # seconds between looks at the memory of workers
STUCK_S = 0.5  # a worker that takes longer over one call gets a substitute, so that the others' work continues
SUBSTITUTES = 8  # at most
RECYCLE = 20_000  # completions that a worker scores before a fresh one replaces it
PROCESSES = 64  # that one call may have at a time


class Problem(NamedTuple):
    """Why a completion has no score: timeout | memory | error | nan | count, and a message."""

    kind: str
    message: str


class Job(NamedTuple):
    """Completions, by index, to score with one reward. ``last``: a failure is final."""

    reward: int
    items: tuple[int, ...]
    last: bool


@dataclass
class _Worker:
    pid: int
    pipe: Connection
    base: int = 0  # bytes of memory after loading
    ready: bool = False
    scored: int = 0
    job: Job | None = None
    position: int = 0  # in the job
    since: float = field(default_factory=time.monotonic)  # when the current call began, or the process started
    relieved: bool = False  # the rest of its job went to others, because its current completion takes long


@dataclass
class _Batch:
    """The scores of one call of :meth:`Pool.score`."""

    items: Sequence[Completion]
    waiting: deque[Job]
    values: np.ndarray
    problems: dict[tuple[int, int], Problem] = field(default_factory=dict)
    miscounted: dict[int, Problem] = field(default_factory=dict)  # by reward: the wrong number for several completions


class Pool:
    """``count`` processes for these rewards. They end with this object, or with this process, however it ends.

    Args:
      memory_mib: memory that one call may use beside what its worker uses after loading.

    Raises:
      UserError: a user's module or function cannot be loaded.
    """

    def __init__(self, rewards: Sequence[Reward], count: int, memory_mib: int):
        self.rewards, self.count, self.memory = tuple(rewards), count, memory_mib << 20
        self.columns: tuple[Columns, ...] = ()
        self._workers: list[_Worker] = []
        self._control, process = _launch(self.rewards, self.memory)
        self._end = Finalize(self, _hang_up, (self._control, self._workers, process), exitpriority=10)
        try:
            for _ in range(count):
                self._start()
            while not all(worker.ready for worker in self._workers):
                self._listen(None)
                self._enforce(None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes."""
        self._end()

    def score(self, items: Sequence[Completion]) -> tuple[np.ndarray, dict[tuple[int, int], Problem]]:
        """Scores of all rewards.

        Returns:
          float64 [rewards, n], NaN where there is no score; and why, of those that failed, by (reward, completion).
        """
        if not self._end.still_active():
            raise ValueError("this pool is closed")
        jobs: deque[Job] = deque()
        for index, reward in enumerate(self.rewards):
            size = min(CHUNK, -(-len(items) // self.count)) if reward.built_in else len(items)
            for start in range(0, len(items), size or 1):
                jobs.append(Job(index, tuple(range(start, min(start + size, len(items)))), last=False))
        batch = _Batch(items, jobs, np.full((len(self.rewards), len(items)), np.nan))
        try:
            while batch.waiting or any(worker.job for worker in self._workers):
                self._hand_out(batch)
                self._listen(batch)
                self._enforce(batch)
            for worker in self._workers[self.count :]:
                self._kill(worker)
        except BaseException:  # such as an interrupt: workers are in the middle of a job
            self.close()
            raise
        for index, problem in batch.miscounted.items():
            if not any(reward == index and one.kind == "count" for (reward, _), one in batch.problems.items()):
                # The right number for each alone, but not for all: the function does not score what it is given.
                batch.problems |= {(index, at): problem for at in range(len(items))}
                batch.values[index] = np.nan
        return batch.values, batch.problems

    def _hand_out(self, batch: _Batch) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.ready and not worker.job and batch.waiting:
                job = batch.waiting.popleft()
                reads = self.columns[job.reward]
                sent = pickle.dumps((job.reward, [_reduced(batch.items[at], reads) for at in job.items]), protocol=5)
                worker.job, worker.position, worker.since = job, 0, now
                with suppress(OSError):  # it died while it had nothing to do; reading from it says so
                    worker.pipe.send_bytes(sent)
        busy = [worker for worker in self._workers if worker.job and now - worker.since > STUCK_S]
        for worker in busy:
            self._relieve(batch, worker)
        if batch.waiting and len(self._workers) < self.count + min(len(busy), SUBSTITUTES):
            self._start()

    def _relieve(self, batch: _Batch, worker: _Worker) -> None:
        """Gives what follows the completion that takes long to others, in small jobs, as more may take long."""
        job = worker.job
        assert job is not None
        rest = job.items[worker.position + 1 :] if self.rewards[job.reward].built_in else ()
        if rest:
            size = -(-len(rest) // SUBSTITUTES)
            batch.waiting.extend(job._replace(items=rest[at : at + size]) for at in range(0, len(rest), size))
            worker.job, worker.relieved = job._replace(items=job.items[: worker.position + 1]), True

    def _listen(self, batch: _Batch | None) -> None:
        """Reads what workers have sent, or waits a moment for it."""
        pipes = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(pipes), timeout=WATCH_S):
            worker = pipes[pipe]  # type: ignore[index]
            try:
                while worker in self._workers and worker.pipe.poll():
                    self._receive(batch, worker, *json.loads(worker.pipe.recv_bytes()))
            except (EOFError, OSError):
                code = self._kill(worker)
                ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                self._give_up(batch, worker, Problem("error", f"its process ended unexpectedly ({ended})"))

    def _receive(self, batch: _Batch | None, worker: _Worker, kind: str, *content: Any) -> None:
        if kind == "ready":
            worker.ready, worker.base = True, content[0]
            self.columns = tuple(Columns(tuple(needs), tuple(may), every) for needs, may, every in content[1])
            return
        if kind == "failed":
            raise UserError(f"rl.rewards: '{content[0]}' cannot be loaded: {content[1]}")
        job = worker.job
        assert batch is not None and job is not None, kind
        worker.since = time.monotonic()
        if kind == "score":
            self._record(batch, job.reward, job.items[worker.position], content)
            worker.position, worker.scored = worker.position + 1, worker.scored + 1
            if worker.relieved and worker.position == len(job.items):
                self._replace(worker)  # it would compute what others do now
        elif kind == "scores":
            for at, answer in zip(job.items, content[0], strict=True):
                self._record(batch, job.reward, at, answer)
            worker.scored += len(job.items)
        elif kind == "fault":
            self._retry(batch, job, Problem(*content))
            self._replace(worker)
        elif kind == "done":
            worker.job = None
            if worker.scored >= RECYCLE:
                self._replace(worker)

    @staticmethod
    def _record(batch: _Batch, reward: int, at: int, answer: Sequence[Any]) -> None:
        if len(answer) == 3:
            batch.problems[reward, at] = Problem(*answer[1:])
        elif answer[0] is not None:
            batch.values[reward, at] = answer[0]

    def _enforce(self, batch: _Batch | None) -> None:
        """Ends calls that are over a limit."""
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.ready and now - worker.since > LOAD_S:
                raise UserError(f"rl.rewards: the modules of the rewards take more than {LOAD_S:g} s to import")
            if not worker.job or now - worker.since < WATCH_S or worker.pipe.poll():
                continue
            limit = self.rewards[worker.job.reward].timeout_s
            members = process_group(worker.pid)
            used = sum(max(resident(pid) - worker.base, 0) for pid in members)
            if now - worker.since > limit:
                problem = Problem("timeout", f"took longer than {limit:g} s")
            elif used > self.memory:
                problem = Problem("memory", f"used more than {self.memory >> 20} MiB of memory")
            elif len(members) > PROCESSES:
                problem = Problem("error", f"started more than {PROCESSES} processes")
            else:
                continue
            self._kill(worker)
            self._give_up(batch, worker, problem)

    def _give_up(self, batch: _Batch | None, worker: _Worker, problem: Problem) -> None:
        """The worker is gone: its current call failed, what follows is for others."""
        if batch is None or not worker.ready:
            raise UserError(f"rl.rewards: a worker process did not start: {problem.message}")
        job = worker.job
        if len(self._workers) < self.count:
            self._start()
        if job is None:
            return
        if not self.rewards[job.reward].built_in:
            self._retry(batch, job, problem)
            return
        current, rest = job.items[worker.position : worker.position + 1], job.items[worker.position + 1 :]
        # Memory may be that of earlier completions, and so may a crash; a hang is not.
        self._retry(batch, job._replace(items=current, last=job.last or problem.kind == "timeout"), problem)
        if rest:
            batch.waiting.append(job._replace(items=rest))

    @staticmethod
    def _retry(batch: _Batch, job: Job, problem: Problem) -> None:
        """Each completion once more alone; a failure alone is final."""
        if problem.kind == "count" and len(job.items) > 1:
            batch.miscounted[job.reward] = problem
        if job.last:
            for at in job.items:
                batch.problems[job.reward, at] = problem
        else:
            batch.waiting.extend(job._replace(items=(at,), last=True) for at in job.items)

    def _replace(self, worker: _Worker) -> None:
        self._kill(worker)
        worker.job = None
        if len(self._workers) < self.count:
            self._start()

    def _start(self) -> None:
        here, there = Pipe()
        with there:
            socket.send_fds(self._control, [START], [there.fileno()])
        self._workers.append(_Worker(int.from_bytes(self._answer()), here))

    def _kill(self, worker: _Worker) -> int:
        """Ends it with all it started; its exit code, negative for a signal."""
        self._workers.remove(worker)
        worker.pipe.close()
        self._control.sendall(KILL + worker.pid.to_bytes(8))
        return int.from_bytes(self._answer(), signed=True)

    def _answer(self) -> bytes:
        found = self._control.recv(8, socket.MSG_WAITALL)
        if len(found) < 8:
            raise UserError("rl.rewards: the process that starts reward workers ended; was it killed for its memory?")
        return found


def _launch(rewards: Sequence[Reward], memory: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Starts the process that starts workers; returns the socket to it."""
    ours, theirs = socket.socketpair()
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-c", f"from pivot_jax.rl.rewards.worker import launch; launch({theirs.fileno()})"],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **threads, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
    )
    theirs.close()
    settings = pickle.dumps((rewards, memory))
    ours.sendall(len(settings).to_bytes(8) + settings)
    return ours, process


def _reduced(item: Completion, reads: Columns) -> Completion:
    """With the columns that the reward reads only."""
    if reads.every:
        return item
    names = (*reads.required, *reads.optional)
    return replace(item, columns={name: item.columns[name] for name in names if name in item.columns})


def process_group(leader: int) -> list[int]:
    """Processes of a process group; the leader alone where there is no /proc."""
    found = [leader]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = path.read_text().rpartition(")")[2].split()  # after the name: state, parent, group
            if int(fields[2]) == leader and int(path.parent.name) != leader:
                found.append(int(path.parent.name))
    return found


def _hang_up(control: socket.socket, workers: list[_Worker], process: subprocess.Popen[bytes]) -> None:
    control.close()
    for worker in workers:
        worker.pipe.close()
    process.wait()
