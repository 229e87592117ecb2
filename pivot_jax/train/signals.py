"""Stopping a run by SIGTERM, SIGHUP or Ctrl-C: the state is saved, and the same command resumes it."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """A signal stopped the run after it had saved a checkpoint; the same command resumes it."""

    def __init__(self, step: int, signum: int):
        super().__init__(f"stopped at step {step}; checkpoint saved, run the same command again to continue")
        self.step, self.signum = step, signum


def stopping() -> tuple[signal.Signals, ...]:
    """The signals that stop a run. SIGHUP, of a closed terminal or connection, is not among them under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) if ignored else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """The signals of :func:`stopping` set a flag for the loop, which saves and stops.

    From the beginning of the block on; where the process leaves Ctrl-C to the kernel (the ``train`` command does),
    only from :meth:`arm` on. A second Ctrl-C raises KeyboardInterrupt at once.

    Over several processes a signal to one of them stops all after the same step. JAX's preemption service agrees on it:
    its own handler of SIGTERM tells the others, and the first step that none of them has finished is the last.
    """

    def __enter__(self) -> StopSignals:
        self.received = 0
        self._before: dict[int, Any] = {}
        if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
            self.arm()
        return self

    def arm(self) -> None:
        """From here on there is something to save."""
        if not self._before and threading.current_thread() is threading.main_thread():
            for number in stopping():
                if jax.process_count() == 1 or number != signal.SIGTERM:
                    self._before[number] = signal.signal(number, self._note)
            if jax.process_count() > 1:
                start_preemption_service()

    def _note(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the checkpoint
        self.received = number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # to JAX's handler

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, step: int) -> bool:
        """Whether to stop after ``step``; every process gets the same answer, and calls this once after each step."""
        if jax.process_count() == 1:
            return bool(self.received)
        return multihost_utils.reached_preemption_sync_point(step)


def start_preemption_service() -> None:
    """Leaves SIGTERM to JAX from here on, unless its service runs already."""
    from jax._src.distributed import global_state  # jax.distributed.initialize is the only public way

    if global_state.preemption_sync_manager is None:
        jax.config.update("jax_enable_preemption_service", True)
        global_state.initialize_preemption_sync_manager()
