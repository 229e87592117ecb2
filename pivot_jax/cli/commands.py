"""One function per command: from parsed options to the rooms that do the work. JAX is imported inside, late."""

from __future__ import annotations

import argparse
import sys

from pivot_jax import config as configs

Overrides = dict[str, str]


def demo(args: argparse.Namespace, overrides: Overrides) -> int | None:
    from pivot_jax.study import demo as study_demo

    return study_demo.run(args.workdir)


def train(args: argparse.Namespace, overrides: Overrides) -> int | None:
    config = configs.load(args.config, overrides)
    if args.print_config:
        sys.stdout.write(configs.to_json(config))
        return 0
    from pivot_jax.train import run as train_run

    train_run.run(config, args.workdir)
    return 0
