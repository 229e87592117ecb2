"""The command line: ``pivot-jax COMMAND …``. :mod:`.__main__` is the process, :mod:`.main` one command in it."""
