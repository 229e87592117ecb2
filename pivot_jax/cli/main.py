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
from collections.abc import Callable, Sequence

import pivot_jax
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
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS warn of what no user can mend
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
            return say(f"pivot-jax {args.command}: {where}{reason}", 1)
        raise


def run(command: Callable[..., int | None], args: argparse.Namespace, overrides: dict[str, str]) -> int:
    return command(args, overrides) or 0


def say(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code
