"""Training: ``pivot_jax.train(config, workdir)`` is :func:`pivot_jax.rl.run.run`, which trains configs of any kind."""

from pivot_jax.packages import make_callable

make_callable(__name__, "pivot_jax.rl.run", "run")
