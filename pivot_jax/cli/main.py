"""Reads the command line, runs one command, and turns errors into one line and an exit code.

Nothing here imports JAX, so ``--help`` and config errors are immediate. Exit codes: 0 done, 1 a failure with a one-line
reason, 2 wrong usage, 130 interrupted by Ctrl-C, 143 or 129 stopped by SIGTERM or
SIGHUP after saving. A traceback means a bug.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence

import pivot_jax
from pivot_jax import files
from pivot_jax.cli import arguments
from pivot_jax.errors import UserError

INTERRUPTED, TERMINATED = 130, 143
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
DISK_ERRORS |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
# What an interrupted command leaves. Training says itself what it saved (train.signals), once there is something.
_KEPT = "; the answers written so far are kept, and the same command continues with the others"
KEPT = {"eval": _KEPT, "sample": _KEPT}
IN_THE_WAY = "a file is where a folder is needed; choose another path"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = arguments.build_parser(pivot_jax.__version__)
    args, overrides = arguments.parse(parser, sys.argv[1:] if argv is None else list(argv))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("pivot_jax").setLevel(logging.INFO)
    quiet_threads()
    # Until its first step, training has nothing to lose or to clean up, so Ctrl-C stays with the kernel.
    if args.command != "train" and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(args.run, args, overrides)
    except UserError as error:
        return say(f"pivot-jax {args.command}: {error}", 1)
    except KeyboardInterrupt:
        return say(f"interrupted{KEPT.get(args.command, '')}", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, such as head, has ended
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
    """Silences other threads' reports of a failure, so that it is one line from the main thread.

    When orbax cannot write, each of its threads logs the error with a traceback, asyncio logs it again for every file,
    and tensorstore calls back into closed event loops. The same error is raised in ``main``, which prints it.
    """
    for name in ("absl", "asyncio"):  # absl: orbax and TFDS also give warnings that a user cannot act on
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    sys.unraisablehook = unraisable


def unraisable(found: sys.UnraisableHookArgs) -> None:
    """Python's own hook, except for orbax's unfinished reads, callbacks into a closed event loop, and Ctrl-C.

    Where one array of a checkpoint cannot be read, its other reads are dropped, and each would leave a traceback. A
    KeyboardInterrupt that is raised in a callback of the garbage collector, as JAX has one, goes no further; so the
    signal is sent again.
    """
    if issubclass(found.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    elif not inspect.iscoroutine(found.object) and not (
        isinstance(found.exc_value, RuntimeError) and "loop is closed" in str(found.exc_value)
    ):
        sys.__unraisablehook__(found)


def run(command: Callable[..., int | None], args: argparse.Namespace, overrides: dict[str, str]) -> int:
    return command(args, overrides) or 0


def say(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code
