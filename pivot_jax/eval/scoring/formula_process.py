"""Comparisons of a model's mathematics in a process of its own, with limits of time and memory.

A short text can mean a number of a billion digits, and computer algebra computes it without ever coming back. So what
reads formulas runs in a second process, which is started once, is ended where it exceeds a limit, and started again.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any

SECONDS = 10.0  # for one comparison
START_SECONDS = 180.0  # until the process has imported the libraries
MEMORY = 2 << 30  # bytes
FUNCTIONS = {  # name → module and function; texts in, JSON out
    "equal": ("pivot_jax.eval.scoring.equality", "same_answer"),
    "latex_number": ("pivot_jax.eval.scoring.latex", "number"),
    "latex_close": ("pivot_jax.eval.scoring.latex", "close"),
    "formula_judge": ("pivot_jax.eval.scoring.formula_judge", "same"),
}


@lru_cache(maxsize=65536)
def compared(name: str, *texts: str) -> Any:
    """What a function of :data:`FUNCTIONS` says of texts; None where it exceeds a limit, or raises on a model's text.

    Raises:
      RuntimeError: the process does not start.
    """
    with _LOCK:
        if _PROCESS.running is None:
            _PROCESS.start()
        return _PROCESS.ask(name, texts)


class _Process:
    """The second process: one line of JSON in, one out."""

    def __init__(self) -> None:
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        self.running = subprocess.Popen(
            [sys.executable, "-c", "from pivot_jax.eval.scoring.formula_process import answer_lines; answer_lines()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt of the run does not end it in the middle of a line
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        if self._line(START_SECONDS) != b"ready\n":
            self.stop()
            raise RuntimeError("the process that compares formulas did not start; its error is above")

    def ask(self, name: str, texts: tuple[str, ...]) -> Any:
        assert self.running is not None and self.running.stdin is not None
        line = b""
        with suppress(BrokenPipeError):
            self.running.stdin.write(json.dumps([name, *texts]).encode() + b"\n")
            self.running.stdin.flush()
            line = self._line(SECONDS)
        if not line.endswith(b"\n"):  # no answer in time, or it ended: out of memory
            self.stop()
            return None
        return json.loads(line)

    def _line(self, seconds: float) -> bytes:
        """The next line of output; what there is of it where the process is silent for so long, or has ended."""
        assert self.running is not None and self.running.stdout is not None
        output, found = self.running.stdout.fileno(), b""
        while not found.endswith(b"\n") and select.select([output], [], [], seconds)[0]:
            part = os.read(output, 65536)
            if not part:
                break
            found += part
        return found

    def stop(self) -> None:
        assert self.running is not None
        self.running.kill()
        self.running.communicate()
        self.running = None


_LOCK = threading.Lock()
_PROCESS = _Process()


def answer_lines() -> None:
    """The second process's loop: answers until the first one ends."""
    from pivot_jax.eval.scoring import equality

    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries that print do not answer
    equality.equal(r"2\sqrt{3}", r"\sqrt{12}")  # imports what all of them need
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        name, *texts = json.loads(line)
        module, function = FUNCTIONS[name]
        compare = getattr(importlib.import_module(module), function)
        try:
            answer = compare(*texts)
        except MemoryError:
            os._exit(1)
        except Exception:  # whatever the libraries raise on such a text
            answer = None
        answers.write(json.dumps(answer).encode() + b"\n")
