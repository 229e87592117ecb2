"""A run and its twin, trained one after the other, with their curves on one page."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.objectives.table import batch_kind
from pivot_jax.report import page, plots
from pivot_jax.report.content import Column, Fact, Figure, Report, Section, Table
from pivot_jax.rl import run as training
from pivot_jax.rl.records import Records
from pivot_jax.train import metrics
from pivot_jax.train.setup import build_setup

OURS, TORCH, PAGE, RECORD = "ours", "torch", "curves.html", "curves.json"
RESPONSES = (
    "TRL updates on the responses that PIVOT-JAX sampled. Its scores include the image tokens, which our sampler never "
    "draws and leaves out of the distribution; entropy and gradient show it where a model gives them probability."
)
NEEDS = 'pip install "trl>=1.16" "transformers>=5.18" torch'
_NEVER = 1 << 30  # steps
# Logged by both under one name with one meaning. num_tokens, perf/* and epoch count differently.
METRICS = (
    "loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "rewards/chosen", "rewards/rejected",
    "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected",
    "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio", "kl",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """How far two curves of a metric are apart, at the step where they are furthest.

    Attributes:
      ours, theirs: values at that step.
      relative: the difference over the larger of the two values.
    """

    step: int
    ours: float
    theirs: float

    @property
    def absolute(self) -> float:
        return abs(self.ours - self.theirs)

    @property
    def relative(self) -> float:
        largest = max(abs(self.ours), abs(self.theirs))
        return self.absolute / largest if largest else 0.0


def run_both(config: Any, out: Path, script: Path, python: str = sys.executable) -> dict[str, Difference]:
    """Trains ``config`` in ``out/ours`` and its twin in ``out/torch``, and writes the page of both.

    Online RL is compared on the same responses: the twin updates on those that our run has sampled.

    Args:
      script: ``train.py`` of the twin.
      python: interpreter of an environment with PyTorch and TRL.

    Returns:
      the largest difference of each metric that both log.

    Raises:
      UserError: that environment lacks TRL, or the twin's run failed; see ``out/torch/log.txt``.
    """
    _check_python(python)
    samples = batch_kind(config) == "policy"
    training.run(_keeping_rollouts(config) if samples else config, out / OURS)
    folder = out / TORCH
    folder.mkdir(parents=True, exist_ok=True)
    if samples:
        _give_completions(config, out / OURS, folder)
    _train_twin(script, folder, python)
    curves = {"PIVOT-JAX": metrics.read(out / OURS / metrics.FILE), "TRL": metrics.read(folder / metrics.FILE)}
    found = differences(*curves.values())
    page.write(_report(config.name, curves, found), out / PAGE)
    files.write_text(out / RECORD, json.dumps({name: vars(one) for name, one in found.items()}, indent=1))
    return found


def _keeping_rollouts(config: Any) -> Any:
    """The config with one checkpoint, at the end: a rollout's file is removed when a later checkpoint is there."""
    kept = copy.deepcopy(config)
    kept.train.checkpoint_every = _NEVER
    return kept


def _check_python(python: str) -> None:
    try:
        done = subprocess.run([python, "-c", "import trl, transformers, torch"], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--python {python}: {error.strerror}") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it failed"]
        raise UserError(f"--python {python}: it cannot import TRL ({last[0]}); there, run: {NEEDS}")


def _give_completions(config: Any, workdir: Path, folder: Path) -> None:
    """``completions.jsonl``: the responses of each of our rollouts, as a rollout function of TRL returns them."""
    loader = build_setup(config, workdir).loader
    records, lines = Records(workdir), []
    for number in range(loader.total_steps):
        given: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "logprobs": []}
        for group in records.load(number, loader.data.prompt).groups:
            for response in group.responses:
                given["prompt_ids"].append(group.row.tokens.tolist())
                given["completion_ids"].append(response.tokens.tolist())
                given["logprobs"].append(response.logps.tolist())
        lines.append(json.dumps(given))
    files.write_text(folder / "completions.jsonl", "\n".join(lines) + "\n")


def _train_twin(script: Path, folder: Path, python: str) -> None:
    log = folder / "log.txt"
    print(f"training the twin (log: {log})", flush=True)
    with log.open("w") as file:
        done = subprocess.run([python, str(script), str(folder)], stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UserError(f"{script} ended with code {done.returncode}: {log.read_text().strip()[-300:]} (see {log})")


def differences(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Difference]:
    """The largest difference of each of :data:`METRICS`, and of each reward, that both have logged at some step."""
    by_step = {row["step"]: row for row in theirs}
    found = {}
    rewards = [name for name in dict.fromkeys(key for row in ours for key in row) if name.startswith("rewards/")]
    for name in dict.fromkeys((*METRICS, *rewards)):
        pairs = [
            Difference(row["step"], float(row[name]), float(by_step[row["step"]][name]))
            for row in ours
            if name in row and name in by_step.get(row["step"], {})
        ]
        if pairs:
            found[name] = max(pairs, key=lambda one: (math.isnan(one.absolute), one.absolute))
    return found


def _report(name: str, curves: Mapping[str, Any], found: Mapping[str, Difference]) -> Report:
    titles = "PIVOT-JAX", "TRL", "Difference", "Relative"
    columns = (*map(Column, titles), Column("Step", digits=0))
    rows = tuple(
        (metric, (f"{one.ours:.6g}", f"{one.theirs:.6g}", f"{one.absolute:.1e}", f"{one.relative:.1e}", one.step))
        for metric, one in found.items()
    )
    table = Table("Where the curves are furthest apart", columns, rows, row_title="Metric")
    chart = plots.training_curves({side: [rows] for side, rows in curves.items()}, list(found), smooth=0.0)
    return Report(
        title=f"{name}: PIVOT-JAX and TRL",
        subtitle="The same weights, rows and hyper-parameters; both log what they compute themselves.",
        facts=(Fact("steps", max(row["step"] for row in curves["PIVOT-JAX"]), digits=0),),
        sections=(
            Section("Differences", "", (table,)),
            Section("Curves", "", (Figure("Over optimizer steps", chart),)),
        ),
        provenance={"twin": f"{TORCH}/", "run": f"{OURS}/"},
    )
