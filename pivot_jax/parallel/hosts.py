"""Start of a run with several processes.

What ``pivot-jax launch`` writes, and ``launch/local.py``, set the environment variables. Without them the run has one
process.
"""

from __future__ import annotations

import os

import jax

from pivot_jax.errors import UserError
from pivot_jax.parallel.peers import GRACE_S, LastWord, Peers

JOIN_S = 300  # for all processes to start

_VARIABLES = ("PIVOT_COORDINATOR", "PIVOT_NUM_PROCESSES", "PIVOT_PROCESS_ID")


def start(limit: float, command: str) -> Peers | None:
    """Joins the other processes if the environment names them.

    ``PIVOT_COORDINATOR`` (host:port), ``PIVOT_NUM_PROCESSES`` and ``PIVOT_PROCESS_ID`` name them. With
    ``PIVOT_DISTRIBUTED=auto`` JAX finds them automatically (SLURM, Open MPI, TPU pods). Call this before any other use
    of JAX.

    Args:
      limit: seconds of silence after which a process counts as gone.
      command: what begins the line of a process that ends because of another one.

    Returns:
      What watches the other processes; None where there is one process.

    Raises:
      UserError: only some of the three variables are set.
    """
    if os.environ.get("PIVOT_DISTRIBUTED") == "auto":
        return _join(limit, command)
    present = [name for name in _VARIABLES if os.environ.get(name)]
    if not present:
        return None
    if len(present) < len(_VARIABLES):
        missing = ", ".join(name for name in _VARIABLES if name not in present)
        raise UserError(f"{', '.join(present)} set but not {missing}; set all three, or none for one process")
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    at, count, process = (os.environ[name] for name in _VARIABLES)
    return _join(limit, command, at, int(count), int(process))


def _join(
    limit: float, command: str, at: str | None = None, count: int | None = None, process: int | None = None
) -> Peers | None:
    which = f"process {process} of {count}" if at else "this process"
    last_word = LastWord(  # JAX aborts where they do not find each other
        f"{which} was killed, or not all have reached {at or 'the coordinator'} within {JOIN_S} s; start all of them "
        "within that time, with an address of process 0 that each can reach"
    )
    # Until there is something to save, SIGTERM ends a process at once (train.signals starts this service later).
    jax.config.update("jax_enable_preemption_service", False)
    # JAX's own limit of silence only counts where ours does not work.
    jax.distributed.initialize(
        at,
        count,
        process,
        initialization_timeout=JOIN_S,
        heartbeat_timeout_seconds=_backstop(limit),
    )
    from jax._src.distributed import global_state as joined  # there is no public way to the key-value store

    if joined.num_processes == 1:
        last_word.change("")
        return None
    return Peers(joined.client, joined.process_id, joined.num_processes, limit, command, last_word)


def _backstop(limit: float) -> int:
    """JAX aborts after half of its limit already."""
    return int(3 * (limit + GRACE_S))


def is_first() -> bool:
    """Whether this process is the one that writes logs and prints."""
    return jax.process_index() == 0
