"""Start of a run with several processes.

What ``pivot-jax launch`` writes, and ``launch/local.py``, set the environment variables. Without them the run has one
process.
"""

from __future__ import annotations

import os

import jax

from pivot_jax.errors import UserError

_VARIABLES = ("PIVOT_COORDINATOR", "PIVOT_NUM_PROCESSES", "PIVOT_PROCESS_ID")


def start() -> None:
    """Joins the other processes if the environment names them.

    ``PIVOT_COORDINATOR`` (host:port), ``PIVOT_NUM_PROCESSES`` and ``PIVOT_PROCESS_ID`` name them. With
    ``PIVOT_DISTRIBUTED=auto`` JAX finds them automatically (SLURM, Open MPI, TPU pods). Call this before any other use
    of JAX.

    Raises:
      UserError: only some of the three variables are set.
    """
    if os.environ.get("PIVOT_DISTRIBUTED") == "auto":
        jax.distributed.initialize()
        return
    present = [name for name in _VARIABLES if os.environ.get(name)]
    if not present:
        return
    if len(present) < len(_VARIABLES):
        missing = ", ".join(name for name in _VARIABLES if name not in present)
        raise UserError(f"{', '.join(present)} set but not {missing}; set all three, or none for one process")
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        os.environ["PIVOT_COORDINATOR"], int(os.environ["PIVOT_NUM_PROCESSES"]), int(os.environ["PIVOT_PROCESS_ID"])
    )


def is_first() -> bool:
    """Whether this process is the one that writes logs and prints."""
    return jax.process_index() == 0
