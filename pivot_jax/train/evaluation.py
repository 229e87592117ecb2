"""Benchmarks on an opened model, and on a model while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.eval import run as benchmark_run
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.toolkits import DEFAULT
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.score import Score
from pivot_jax.train.model import processor_of
from pivot_jax.train.open import LONGEST_PROMPT, OpenModel
from pivot_jax.train.session import Hook
from pivot_jax.train.setup import Setup


def evaluate(
    model: OpenModel,
    benchmark: str,
    data: str | Path,
    out: str | Path = "",
    *,
    blank_images: bool = False,
    **options: Any,
) -> Score:
    """Asks a benchmark's questions and scores the answers.

    Answers are appended to a predictions file as they come. A second call asks only the questions that the file lacks.

    Args:
      benchmark: a name of ``eval.benchmarks.suite.BENCHMARKS``, or a Python file with a dict of that name.
      data: the benchmark's files.
      out: predictions file; default: ``eval/BENCHMARK.jsonl`` in a run's workdir, which only a run has.
      blank_images: the control without images: their mean colour is shown.
      options: of ``eval.run.RunOptions``: ``toolkit``, ``scorer``, ``limit``, ``ranked``, ``max_new_tokens``, ….

    Raises:
      UserError: unknown benchmark, unreadable data, ranking of a benchmark without options, or no ``out``.
    """
    chosen = RunOptions(model_id=model.identity, **options)
    if chosen.ranked:
        check_ranked(benchmark)
    if not out and model.workdir is None:
        raise UserError(f"out: {model.name} is not a run, so there is no default; name a predictions file (.jsonl)")
    file = Path(out) if out else predictions_of(model.workdir or "", benchmark, blank_images, chosen)
    answerer = model.answerer(temperature=model.config.eval.temperature, blank_images=blank_images)
    return benchmark_run.evaluate(benchmark, data, answerer, file, chosen)


def training_hooks(setup: Setup, workdir: Path) -> tuple[Hook, ...]:
    """The evaluations that ``eval.benchmarks`` asks for during training, as ``eval/NAME/METRIC``.

    The answers of each are in ``workdir/eval/NAME-STEP.jsonl``; NAME is the benchmark, with its toolkit unless that is
    ours. Several processes share the questions; the first one writes and scores the answers.

    Raises:
      UserError: an unknown benchmark, unreadable questions, two evaluations of one name, or an objective without a
        language model.
    """
    config = setup.config
    for one in config.eval.benchmarks:
        # A wrong path or toolkit is an error now and not after the first hours.
        suite.examples(one["name"], one["path"], one.get("toolkit", DEFAULT))
    if config.eval.benchmarks and setup.objective.kind == "contrastive":
        raise UserError("eval.benchmarks: stage 0 trains no language model, so it cannot answer; leave it empty")
    labels = [_label(one) for one in config.eval.benchmarks]
    if twice := next((label for label in labels if labels.count(label) > 1), ""):
        raise UserError(
            f"eval.benchmarks: '{twice}' is there twice, and its scores and answers have one name; leave one out, or "
            "read both sets of questions in one benchmark (a Python file)"
        )
    return tuple(
        Hook(_label(one), partial(_evaluate_step, setup, workdir, dict(one))) for one in config.eval.benchmarks
    )


def _evaluate_step(setup: Setup, workdir: Path, benchmark: dict[str, Any], step: int, params: Any) -> dict[str, float]:
    config, module = setup.config, setup.model.module
    tokenizer = setup.loader.processor.chat.tokenizer
    processor = processor_of(config, module, tokenizer, "prompt", max_length=LONGEST_PROMPT)
    identity = f"{config.name}@{step}-{configs.fingerprint(config)}"
    mesh = setup.mesh if setup.mesh.size > 1 else None
    model = OpenModel(f"{workdir}@{step}", config, module, params, processor, identity, workdir, step, mesh)
    out = workdir / "eval" / f"{_label(benchmark)}-{step}.jsonl"
    options = {name: value for name, value in benchmark.items() if name not in ("name", "path")}
    found = evaluate(model, benchmark["name"], benchmark["path"], out, **options)
    return {found.metric: found.value.value, "compliance": found.compliance, "truncated": found.truncated}


def _label(benchmark: Mapping[str, Any]) -> str:
    """Name of an evaluation in metrics and files: the benchmark, and the toolkit unless it is ours."""
    return predictions_of("", benchmark["name"], options=RunOptions(toolkit=benchmark.get("toolkit", DEFAULT))).stem


def predictions_of(
    workdir: str | Path, benchmark: str, blank_images: bool = False, options: RunOptions | None = None
) -> Path:
    """Where a run's answers are stored: by benchmark, toolkit (unless ours) and control."""
    options = options or RunOptions()
    wording = options.prompt or options.toolkit
    parts = [Path(benchmark.partition(":")[0]).stem if ".py" in benchmark else benchmark]
    parts += [wording] if wording != DEFAULT else []
    parts += [options.control] if options.control else []
    return Path(workdir) / "eval" / f"{'-'.join([*parts, 'blank'] if blank_images else parts)}.jsonl"


def check_ranked(benchmark: str) -> None:
    """Raises UserError for a benchmark whose questions have no options to rank."""
    if not suite.find(benchmark).option_form:
        names = ", ".join(name for name, one in suite.BENCHMARKS.items() if one.option_form)
        raise UserError(f"--ranked (ranked=…): {benchmark} asks for free answers; ranking works for {names}")
