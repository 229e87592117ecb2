"""The process of ``pivot-jax`` (also ``python -m pivot_jax.cli``): its signals, its memory, and its end."""

import os
import signal
import sys

# Ctrl-C ends the process at once, wherever it is, as SIGTERM does: there is nothing to lose yet. Python's own handler
# waits for the interpreter, which a compilation can hold for minutes, and leaves a traceback of the imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)

STOPPED = (129, 130, 143)  # exit codes after a signal


def start() -> None:
    """Runs the command of ``sys.argv`` and ends the process with its exit code."""
    from pivot_jax.parallel import pages

    pages.start_again()
    from pivot_jax.cli.main import main

    code = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code in STOPPED:
        os._exit(code)  # what can be saved is; the interpreter would wait for threads that hang on a data source
    sys.exit(code)


if __name__ == "__main__":
    start()
