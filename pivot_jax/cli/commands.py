"""Training and answering: one function per command. ``probes``, ``hub``, ``hardware`` and ``inspection`` hold the rest.

JAX and the library are imported inside the functions, so that ``--help`` and usage errors are fast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.words import counted

if TYPE_CHECKING:
    pass

Overrides = dict[str, str]
EVALUATION = ("eval.", "seed")  # keys that a trained run may be asked with other values of


def train(args: argparse.Namespace, overrides: Overrides) -> int:
    from pivot_jax import config as configs

    config = configs.load(args.config, overrides)
    if args.print_config:
        sys.stdout.write(configs.to_json(config))
        return 0
    outputs.folder(args.workdir, "--workdir")
    from pivot_jax.parallel import hosts, runtime

    runtime.keep_freed_memory()
    peers = hosts.start(config.train.peer_timeout_s, "pivot-jax train")
    from pivot_jax.rl.run import run

    def work() -> None:
        result = run(config, args.workdir)
        if hosts.is_first():
            print(f"{config.name}: step {result.step} in {args.workdir}")
            show_metrics(result.metrics)
            if result.seconds and set(config.train.trackers) - {"tensorboard"}:  # that one keeps no files
                track_page(result.workdir)

    return peers.run(lambda: stoppable(work)) if peers else stoppable(work)


def track_page(workdir: Path) -> None:
    """Writes the page of a run, and hands it to its trackers."""
    from pivot_jax.report import run

    run.track(workdir, run.write(workdir, workdir / run.FILE))


def show_metrics(metrics: dict[str, float]) -> None:
    """Prints the last metrics of a run as a table."""
    table = tables.table("metric", "last value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    tables.console().print(table)


def report(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.report import run

    workdir = Path(args.workdir)
    command = "pivot-jax report" if args.out else ""  # the page in the workdir is the run's
    out = outputs.file(args.out or workdir / run.FILE, "--out", command=command)
    print(run.write(workdir, out, args.rollouts))
    if args.track:
        run.track(workdir, out)


def stoppable(work: Callable[[], object]) -> int:
    """Exit code of ``work``: 128 + the signal's number, as in shells, if it saved and stopped at a signal."""
    from pivot_jax.train.signals import Interrupted

    try:
        work()
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        return 128 + stop.signum
    return 0


def extract(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.train.extract import extract as write_pack

    outputs.folder(args.out, "--out")
    about = write_pack(Path(args.workdir), Path(args.out), args.step)
    print(f"{args.out}: {' and '.join(about['sha256'])} of {args.workdir} (use it as pack:{args.out})")


def generate(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import config as configs
    from pivot_jax.train.open import open_run

    for path in args.image:
        inputs.image("--image", path)
    inputs.question(args.prompt)
    run = open_run(args.workdir, args.step, template="chat" if args.prompt else "")
    model = replace(run, config=configs.with_keys(run.config, overrides, EVALUATION))
    print(model.chat(args.prompt, args.image, max_new_tokens=args.max_new_tokens))


def sample(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import config as configs
    from pivot_jax.rl import samples
    from pivot_jax.train.open import open_run
    from pivot_jax.train.source import run_config

    config = configs.with_keys(run_config(Path(args.workdir)), overrides, samples.KEYS)
    out = outputs.folder(args.out, "--out")
    about = samples.sample(replace(open_run(args.workdir, args.step), config=config), out)
    mean = "–" if about["mean_reward"] is None else f"{about['mean_reward']:.3f}"
    print(
        f"{out}: {counted(about['prompts'], 'prompt')}, {counted(about['responses'], 'response')}, mean reward {mean}, "
        f"{100 * about['truncated']:.1f} % truncated"
    )
