"""The command line: ``pivot-jax COMMAND …`` (:mod:`.main`), one function per command."""

from pivot_jax.cli.main import main

__all__ = ["main"]
