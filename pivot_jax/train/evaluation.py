"""A benchmark on an opened model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pivot_jax.errors import UserError
from pivot_jax.eval import run as benchmark_run
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.run import RunOptions
from pivot_jax.eval.score import Score
from pivot_jax.train.open import OpenModel


def evaluate(
    model: OpenModel,
    benchmark: str,
    data: str | Path,
    out: str | Path = "",
    *,
    blank_images: bool = False,
    options: RunOptions | None = None,
) -> Score:
    """Asks a benchmark's questions and scores the answers.

    Answers are appended to a predictions file as they come. A second call asks only what the file lacks.

    Args:
      benchmark: a name of ``eval.benchmarks.suite.BENCHMARKS``.
      data: the benchmark's files.
      out: predictions file; default: ``eval/BENCHMARK.jsonl`` in a run's workdir, which only a run has.
      blank_images: the control without images: their mean colour is shown.
      options: limit, ranking of options and so on; its ``model_id`` is set here.

    Raises:
      UserError: unknown benchmark, unreadable data, ranking of a benchmark without options, or no ``out``.
    """
    options = options or RunOptions()
    if options.ranked:
        check_ranked(benchmark)
    if not out and model.workdir is None:
        raise UserError(f"out: {model.name} is not a run, so there is no default; name a predictions file (.jsonl)")
    file = Path(out) if out else predictions_of(model.workdir or "", benchmark, blank_images)
    answerer = model.answerer(temperature=model.config.eval.temperature, blank_images=blank_images)
    return benchmark_run.evaluate(benchmark, data, answerer, file, replace(options, model_id=model.identity))


def predictions_of(workdir: str | Path, benchmark: str, blank_images: bool) -> Path:
    """Where a run's answers are stored."""
    return Path(workdir) / "eval" / f"{benchmark}{'-blank' if blank_images else ''}.jsonl"


def check_ranked(benchmark: str) -> None:
    """Raises UserError for a benchmark whose questions have no options to rank."""
    if not suite.find(benchmark).option_form:
        names = ", ".join(name for name, one in suite.BENCHMARKS.items() if one.option_form)
        raise UserError(f"--ranked: {benchmark} asks for free answers; ranking works for {names}")
