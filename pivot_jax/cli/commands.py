"""Training and answering: one function per command, from parsed options to the rooms that do the work.

JAX is imported inside, late. ``probing`` and ``hugging_face`` hold the other commands.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivot_jax.cli import given, places
from pivot_jax.errors import UserError

if TYPE_CHECKING:
    from pivot_jax.eval.score import Score

Overrides = dict[str, str]
PLAIN_WIDTH = 200  # of a table that is not printed on a terminal: no line is wrapped


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
    from pivot_jax.train.signals import Interrupted

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
    from pivot_jax.eval import run as benchmark_run
    from pivot_jax.eval.answerer import Answerer
    from pivot_jax.eval.benchmarks import suite
    from pivot_jax.train.open import open_run
    from pivot_jax.train.source import run_config

    benchmark = suite.find(args.benchmark)
    if args.ranked and not benchmark.option_form:
        names = ", ".join(name for name, one in suite.BENCHMARKS.items() if one.option_form)
        raise UserError(f"--ranked: {args.benchmark} asks for free answers; it works for {names}")
    run_config(Path(args.workdir))
    control = "-blank" if args.blank_images else ""
    out = places.file(args.out or Path(args.workdir) / "eval" / f"{args.benchmark}{control}.jsonl", "--out")
    run = open_run(args.workdir, args.step)
    config = configured(run.config, overrides)
    answerer = Answerer(
        run.mllm,
        run.params,
        run.processor,
        batch_size=config.eval.batch_size,
        temperature=config.eval.temperature,
        seed=config.seed,
        blank_images=args.blank_images,
    )
    options = benchmark_run.RunOptions(
        model_id=run.identity, limit=args.limit, ranked=args.ranked, max_new_tokens=args.max_new_tokens
    )
    show_score(benchmark_run.evaluate(args.benchmark, args.data, answerer, out, options), out)


def score(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.eval.score import score_file

    file = given.predictions(args.predictions)
    show_score(score_file(file, args.benchmark), file)


def show_score(found: Score, predictions: Path) -> None:
    """Prints a score as a table, and writes it beside its predictions as ``.score.json``."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found.write(predictions)
    print(f"{found.benchmark}: {len(found.ids)} questions, answers in {predictions}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    table = Table(box=box.ROUNDED if console.is_terminal else None)
    table.add_column("")
    table.add_column("%", justify="right")
    table.add_column("95 % interval", no_wrap=True)
    for name, one in found.intervals().items():
        indent = "  " if name in found.by_category else ""
        low, value, high = (f"{100 * number:.2f}" for number in (one.low, one.value, one.high))
        table.add_row(Text(indent + name), value, Text(f"[{low}, {high}]"))
    table.add_section()
    table.add_row("in the requested format", f"{100 * found.compliance:.2f}")
    table.add_row("truncated at the token limit", f"{100 * found.truncated:.2f}")
    console.print(table)


def generate(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.data.example import Example, Message
    from pivot_jax.eval.answerer import Answerer
    from pivot_jax.train.open import open_run

    for path in args.image:
        given.picture("--image", path)
    given.question(args.prompt)
    run = open_run(args.workdir, args.step, template="chat" if args.prompt else "")
    if len(args.image) > (most := run.processor.chat.limits.images):
        raise UserError(
            f"--image: {len(args.image)} pictures, but this model was trained with at most {most} in a row "
            f"(data.images_per_row); give --image {'once' if most == 1 else f'up to {most} times'}"
        )
    if run.processor.chat.format.plain and not args.image:
        raise UserError("a run of stage 1a describes pictures; give --image")
    config = configured(run.config, overrides)
    answerer = Answerer(
        run.mllm, run.params, run.processor, batch_size=1,
        temperature=config.eval.temperature, seed=config.seed,
    )  # fmt: skip
    places = "<image>\n" * len(args.image)
    text = args.prompt or ("" if run.processor.chat.format.plain else "Describe the picture.")
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
