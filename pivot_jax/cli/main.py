"""Reads the command line, runs one command, and turns what goes wrong into a line and an exit code.

Nothing here imports JAX: ``--help`` and a wrong config answer at once. Exit codes: 0 done, 1 a failure with a one-line
reason, 2 wrong usage, 130 interrupted by Ctrl-C, 143 stopped by SIGTERM after saving. A traceback is for a bug.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import pivot_jax
from pivot_jax import files
from pivot_jax.cli import arguments
from pivot_jax.errors import UserError

INTERRUPTED, TERMINATED = 130, 143
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
DISK_ERRORS |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
IN_THE_WAY = "a file lies where a folder is needed; choose another place"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = arguments.build_parser(pivot_jax.__version__)
    args, overrides = arguments.parse(parser, sys.argv[1:] if argv is None else list(argv))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("pivot_jax").setLevel(logging.INFO)
    quiet_threads()
    try:
        return run(args.run, args, overrides)
    except UserError as error:
        return say(f"pivot-jax {args.command}: {error}", 1)
    except KeyboardInterrupt:
        return say("interrupted; run the same command again to continue", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in DISK_ERRORS:
            where = f"{error.filename}: " if error.filename else ""
            reason = IN_THE_WAY if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
            fix = f"; {files.FIX}" if error.errno in files.FULL else ""
            return say(f"pivot-jax {args.command}: {where}{reason}{fix}", 1)
        raise


def quiet_threads() -> None:
    """Leaves to the main thread what a failure is: one line.

    When orbax cannot write, its threads each log the error with a traceback, asyncio logs it once more per file, and
    tensorstore calls back into event loops that are closed. All of it comes back as the exception that ``main`` says.
    """
    for name in ("absl", "asyncio"):  # absl: orbax and TFDS also warn of what no user can mend
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    sys.unraisablehook = unraisable


def unraisable(found: sys.UnraisableHookArgs) -> None:
    """Python's own hook, but for callbacks into an event loop that is closed."""
    if not (isinstance(found.exc_value, RuntimeError) and "loop is closed" in str(found.exc_value)):
        sys.__unraisablehook__(found)


def run(command: Callable[..., int | None], args: argparse.Namespace, overrides: dict[str, str]) -> int:
    return command(args, overrides) or 0


def say(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code
