"""One function per command: from parsed options to the rooms that do the work. JAX is imported inside, late."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from pivot_jax import config as configs

Overrides = dict[str, str]


def demo(args: argparse.Namespace, overrides: Overrides) -> int:
    from pivot_jax.study import demo as study_demo

    return _stoppable(lambda: study_demo.run(args.workdir))


def train(args: argparse.Namespace, overrides: Overrides) -> int:
    config = configs.load(args.config, overrides)
    if args.print_config:
        sys.stdout.write(configs.to_json(config))
        return 0
    from pivot_jax.parallel import hosts

    hosts.start()
    from pivot_jax.train.run import run

    def work() -> None:
        result = run(config, args.workdir)
        if hosts.is_first():
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
            print(f"{config.name}: step {result.step} in {args.workdir}; {numbers}")

    return _stoppable(work)


def _stoppable(work: Callable[[], object]) -> int:
    """Exit code of ``work``; one that saved and stopped at a signal ends with 128 + its number, as shells count."""
    from pivot_jax.train.loop import Interrupted

    try:
        work()
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        return 128 + stop.signum
    return 0
