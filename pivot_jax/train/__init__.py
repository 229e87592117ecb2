"""Training: ``pivot_jax.train(config, workdir)`` is :func:`pivot_jax.train.run.run`."""

from pivot_jax.packages import make_callable

make_callable(__name__, "run", "run")
