"""Training and answering: one function per command, from parsed options to the rooms that do the work.

JAX is imported inside, late. ``probing`` and ``hugging_face`` hold the other commands.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pivot_jax.cli import given, places
from pivot_jax.errors import UserError

Overrides = dict[str, str]


def demo(args: argparse.Namespace, overrides: Overrides) -> int:
    from pivot_jax.study import demo as study_demo

    places.folder(args.workdir, "--workdir")
    return stoppable(lambda: study_demo.run(args.workdir, Path(args.configs) if args.configs else None))


def train(args: argparse.Namespace, overrides: Overrides) -> int:
    from pivot_jax import config as configs

    config = configs.load(args.config, overrides)
    if args.print_config:
        sys.stdout.write(configs.to_json(config))
        return 0
    places.folder(args.workdir, "--workdir")
    from pivot_jax.parallel import hosts, runtime

    runtime.keep_freed_memory()
    hosts.start()
    from pivot_jax.train.run import run

    def work() -> None:
        result = run(config, args.workdir)
        if hosts.is_first():
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
            print(f"{config.name}: step {result.step} in {args.workdir}; {numbers}")

    return stoppable(work)


def stoppable(work: Callable[[], object]) -> int:
    """Exit code of ``work``; one that saved and stopped at a signal ends with 128 + its number, as shells count."""
    from pivot_jax.train.loop import Interrupted

    try:
        work()
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        return 128 + stop.signum
    return 0


def extract(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.train.extract import extract as write_pack

    places.folder(args.out, "--out")
    about = write_pack(Path(args.workdir), Path(args.out), args.step)
    print(f"{args.out}: {' and '.join(about['sha256'])} of {args.workdir} (use it as pack:{args.out})")


def evaluate(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.eval import run as benchmarks
    from pivot_jax.eval.answerer import Answerer
    from pivot_jax.train.extract import read_config
    from pivot_jax.train.open import open_run

    if not benchmarks.find(args.benchmark).ranked and args.ranked:
        can = ", ".join(name for name, one in benchmarks.BENCHMARKS.items() if one.ranked)
        raise UserError(f"--ranked: {args.benchmark} asks for free answers, there are no options (it fits: {can})")
    read_config(Path(args.workdir))
    control = "-blank" if args.blank_images else ""
    out = places.file(args.out or Path(args.workdir) / "eval" / f"{args.benchmark}{control}.jsonl", "--out")
    run = open_run(args.workdir, args.step)
    config = configured(run.config, overrides)
    answerer = Answerer(
        run.mllm,
        run.params,
        run.chat,
        preset=config.data.image.preset,
        batch_size=config.eval.batch_size,
        temperature=config.eval.temperature,
        seed=config.seed,
        blank_images=args.blank_images,
    )
    found = benchmarks.evaluate(
        args.benchmark, args.data, answerer, out,
        model_id=run.identity, limit=args.limit, ranked=args.ranked, max_new_tokens=args.max_new_tokens,
    )  # fmt: skip
    show_score(found, out)


def score(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.eval import run as benchmarks

    file = given.predictions(args.predictions)
    show_score(benchmarks.score(file, args.benchmark), file)


def show_score(found: Any, predictions: Path) -> None:
    """Prints a score and writes it beside its predictions as ``.score.json``."""
    print(f"{found.benchmark}: {len(found.ids)} questions, answers in {predictions}")
    lines = {found.metric: found.value} | found.also | {f"  {name}": one for name, one in found.by_category.items()}
    for name, interval in lines.items():
        print(
            f"  {name:<24} {100 * interval.value:6.2f} %   95 % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
        )
    print(f"  {'in the asked form':<24} {100 * found.compliance:6.2f} %")
    print(f"  {'cut by the token limit':<24} {100 * found.cut:6.2f} %")
    record = {name.strip(): dataclasses.asdict(interval) for name, interval in lines.items()}
    record |= {"benchmark": found.benchmark, "compliance": found.compliance, "cut": found.cut}
    predictions.with_suffix(".score.json").write_text(json.dumps(record, indent=1))


def generate(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.data.example import Example, Message
    from pivot_jax.eval.answerer import Answerer
    from pivot_jax.train.open import open_run

    for path in args.image:
        given.picture("--image", path)
    given.question(args.prompt)
    run = open_run(args.workdir, args.step, template="chat" if args.prompt else "")
    if len(args.image) > (most := run.chat.max_images):
        raise UserError(
            f"--image: {len(args.image)} pictures, but this model was trained with at most {most} in a row "
            f"(data.images_per_row); give --image {'once' if most == 1 else f'up to {most} times'}"
        )
    if run.chat.plain and not args.image:
        raise UserError("a run of stage 1a describes pictures; give --image")
    config = configured(run.config, overrides)
    answerer = Answerer(
        run.mllm, run.params, run.chat, preset=config.data.image.preset, batch_size=1,
        temperature=config.eval.temperature, seed=config.seed,
    )  # fmt: skip
    places = "<image>\n" * len(args.image)
    text = args.prompt or ("" if run.chat.plain else "Describe the picture.")
    example = Example("prompt", (Message("user", f"{places}{text}"),), tuple(args.image))
    reply = answerer.answer([example], args.max_new_tokens or config.eval.max_new_tokens)[0]
    print(reply.text)


def configured(config: Any, overrides: Overrides) -> Any:
    """A run's config with the command line's ``--config.key=value``; those that change the model are refused.

    Raises:
      UserError: unknown key, or one outside ``eval``, ``seed`` and ``data.image.preset``.
    """
    from pivot_jax import config as configs

    changed = configs.from_json(configs.to_json(config))
    for key, value in overrides.items():
        configs.set_key(changed, key, value)
        if not (key.startswith("eval.") or key == "seed"):
            raise UserError(f"{key}: the run's own config holds here; only eval.* and seed can be set")
    return changed
