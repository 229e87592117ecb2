"""The other processes of a run: where one of them fails, dies or stops answering, all end, each with one line.

A collective waits for every process, with some backends for ever. JAX's coordination service notices a process without
heartbeats and then aborts the others, with a C++ stack trace for a message, and Python cannot handle that call. So
every process counts once a second in the service's key-value store, process 0 judges who is silent, and all read the
verdict. JAX's own heartbeats are what remains if that fails. Process 0 hosts the service: where it is killed, JAX
aborts the others at once, and a small process beside each of them says the last line.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from pivot_jax.errors import UserError

BEAT_S = 1.0
BROKEN_S = 10.0  # the silence that is enough once a collective has failed
GRACE_S = 15.0  # for a process to end by itself, its save included, where another one has failed
RESUME = "start all processes again; the run resumes from its newest checkpoint"
INTERRUPTED = 130  # exit code
_CONNECTION = re.compile(r"gloo|nccl|barrier|coordination|connection|sync_global_devices", re.IGNORECASE)
_DAY_MS = 24 * 3600 * 1000
_STORE = "pivot_jax"  # the folder of the keys


class LastWord:
    """Says a line on stderr if this process is killed or aborted: another one, whose input then ends, says it."""

    _CODE = "import sys\nfor line in sys.stdin: pass\nif line.strip(): print(line, end='', file=sys.stderr, flush=True)"

    def __init__(self, line: str):
        command = [sys.executable, "-I", "-S", "-c", self._CODE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self.change(line)

    def change(self, line: str) -> None:
        """Another line from here on; none where it is empty."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


class Peers:
    """Two threads that watch the other processes of a run.

    Args:
      client: of JAX's coordination service.
      process: number of this one, of ``count``.
      limit: seconds of silence after which a process counts as gone.
      command: what begins the line of a process that ends because of another one.
    """

    def __init__(self, client: Any, process: int, count: int, limit: float, command: str, last_word: LastWord):
        self._client, self.process, self.count, self.limit, self._command = client, process, count, limit, command
        self._about = f"{socket.gethostname()}, pid {os.getpid()}"
        self._cause, self._grace = "", 0.0  # why the run is over
        self._known, self._left = threading.Event(), threading.Event()
        self._rounds = 0
        self._silence = Silence(process, count)
        self._last_word = last_word
        last_word.change(f"{self._name(process)} was killed, or aborted because another one is gone; {RESUME}")
        for work in (self._listen, self._guard):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()

    def run(self, work: Callable[[], int]) -> int:
        """The exit code of ``work``. Where it fails, the others are told why, and this process ends at once.

        At once, because JAX's exit handler and threads that save would wait for processes that are gone.
        """
        try:
            code = work()
        except BaseException as error:
            self._end(*self._explained(error))
        self._leave()
        return code

    def _leave(self) -> None:
        """Waits until all have come to the end: the service ends with process 0."""
        try:
            self._client.wait_at_barrier(f"{_STORE}/end", _DAY_MS)
        except jax.errors.JaxRuntimeError as error:
            self._end(*self._explained(error))
        self._left.set()
        jax.distributed.shutdown()
        self._last_word.change("")

    def _explained(self, error: BaseException) -> tuple[str, int]:
        """(line to print, exit code); an own reason is told to the other processes."""
        if isinstance(error, UserError):
            self._tell(f"{self._name(self.process)}: {error}", GRACE_S)
            return str(error), 1
        if isinstance(error, KeyboardInterrupt):
            self._tell(f"{self._name(self.process)} was interrupted", GRACE_S)
            return "interrupted", INTERRUPTED
        # Most likely a collective that failed because of what happened to another process.
        self._set(f"broken/{self.process}", "")
        if not self._known.wait(2 * min(BROKEN_S, self.limit)):
            traceback.print_exception(error)
            reason = next(iter(str(error).strip().splitlines()), "")
            self._tell(f"{self._name(self.process)} failed: {type(error).__name__}: {reason}; {RESUME}", GRACE_S)
        return self._cause, 1

    def _name(self, process: int) -> str:
        return f"process {process} of {self.count}"

    def _set(self, key: str, value: str, overwrite: bool = True) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service is gone, or there is one already
            self._client.key_value_set(f"{_STORE}/{key}", value, overwrite)

    def _get(self, folder: str) -> dict[str, str]:
        """The keys of a folder, without its name, and their values."""
        found = self._client.key_value_dir_get(f"{_STORE}/{folder}")
        return {key.rpartition("/")[2]: value for key, value in found}

    def _tell(self, cause: str, grace: float) -> None:
        """Ends the run for all processes; the first cause counts."""
        self._set("ended/cause", f"{grace} {cause}", overwrite=False)
        self._set(f"read/{self.process}", "")
        self._conclude(cause, grace)

    def _conclude(self, cause: str, grace: float) -> None:
        if not self._known.is_set():
            self._cause, self._grace = cause, grace
            self._last_word.change(f"{self._command}: {cause}")  # JAX aborts this process when process 0 ends first
            self._known.set()

    def _listen(self) -> None:
        """Counts, reads whether the run is over, and judges, once a second."""
        while not self._left.is_set():
            try:
                self._client.key_value_set(f"{_STORE}/beat/{self.process}", f"{self._rounds} {self._about}", True)
                if ended := self._get("ended"):
                    grace, _, cause = ended["cause"].partition(" ")
                    self._conclude(cause, float(grace))
                    self._set(f"read/{self.process}", "")
                if self.process == 0 and not self._known.is_set():
                    self._judge()
            except jax.errors.JaxRuntimeError as error:
                if not self._left.is_set():
                    self._conclude(f"{self._name(0)} is gone ({type(error).__name__}); {RESUME}", 0.0)
                return
            self._rounds += 1
            self._left.wait(BEAT_S)

    def _judge(self) -> None:
        """Ends the run where a process is silent."""
        limit = min(BROKEN_S, self.limit) if self._get("broken") else self.limit
        self._silence.note(self._get("beat"))
        if gone := self._silence.longer_than(limit):
            names = " and ".join(f"{self._name(process)} ({about})" for process, about in gone.items())
            self._tell(f"no answer for {limit:.0f} s from {names}; {RESUME}", 0.0)

    def _guard(self) -> None:
        """Ends this process where its main thread cannot, and where process 0 does not answer."""
        seen, silent = -1, 0.0
        while not self._left.wait(BEAT_S):
            if self._known.is_set():
                self._left.wait(self._grace)
                self._end(self._cause, 1)
            silent = silent + BEAT_S if self._rounds == seen else 0.0
            seen = self._rounds
            if silent >= self.limit:
                self._conclude(f"no answer for {silent:.0f} s from {self._name(0)}; {RESUME}", 0.0)

    def _end(self, line: str, code: int) -> NoReturn:
        """Ends this process with one line; process 0 last, because the others learn the cause from it."""
        if not _ending.acquire(blocking=False):
            threading.Event().wait()  # another thread ends the process
        began = time.monotonic()
        while self.process == 0 and time.monotonic() - began < BROKEN_S:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                if len({*self._get("read"), *self._silence.named, "0"}) >= self.count:
                    break
            time.sleep(BEAT_S / 4)
        sys.stdout.flush()
        print(f"{self._command}: {line}", file=sys.stderr, flush=True)
        self._last_word.change("")
        os._exit(code)


_ending = threading.Lock()


def failed_collective(error: BaseException) -> bool:
    """Whether an error is of the connection to other processes, whose reason is with one of them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return bool(_CONNECTION.search(str(error))) and jax.process_count() > 1


class Silence:
    """For how long each other process has not counted on."""

    def __init__(self, process: int, count: int):
        self._last = {str(other): ("", 0.0) for other in range(count) if other != process}
        self._looked = time.monotonic()
        self.named: set[str] = set()  # those that were reported

    def note(self, beats: dict[str, str]) -> None:
        """Args: number of a process → its count and where it runs."""
        now = time.monotonic()
        # Where this process did not run for a while, it does not know what the others did in that time.
        passed, self._looked = min(now - self._looked, 3 * BEAT_S), now
        for other, (beat, silent) in self._last.items():
            same = beats.get(other, "") == beat
            self._last[other] = (beats.get(other, ""), silent + passed if same else 0.0)

    def longer_than(self, limit: float) -> dict[int, str]:
        """Number of a process that is silent for ``limit`` seconds → where it runs."""
        gone = {other: beat for other, (beat, silent) in self._last.items() if silent >= limit}
        self.named.update(gone)
        return {int(other): beat.partition(" ")[2] or "unknown" for other, beat in gone.items()}
