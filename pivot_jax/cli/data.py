"""``data``: a page of what a config trains on, before it does."""

from __future__ import annotations

import argparse

from pivot_jax.cli import outputs


def data(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax import config as configs

    config = configs.load(args.config, overrides)
    outputs.folder(args.out, "--out")
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is executed, so no real device is needed
    from pivot_jax.report.data import page

    print(page.write(config, args.out, rows=args.rows, seed=args.seed, overwrite=args.overwrite))
