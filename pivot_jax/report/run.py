"""The page of one training run: its curves, and of online RL the sampled responses with their rewards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import config as configs
from pivot_jax.data.processing.images import load
from pivot_jax.errors import UserError
from pivot_jax.objectives.table import batch_kind
from pivot_jax.report import format as text
from pivot_jax.report import page, plots
from pivot_jax.report.content import Block, Column, Fact, Figure, Listing, Prompt, Report, Response, Responses, Section
from pivot_jax.rl.completions import COMPLETIONS, THUMBNAIL
from pivot_jax.train import metrics
from pivot_jax.train.run import RESULT
from pivot_jax.train.source import run_config
from pivot_jax.train.trackers.base import Bundle
from pivot_jax.train.trackers.table import publish
from pivot_jax.words import counted

FILE = "report.html"
PROMPTS, RESPONSES = 4, 4  # shown of a rollout, at most
LONGEST = 4000  # characters of a text; the middle of a longer one is left out
# Section → patterns of its metrics; a metric is in the first that it fits. The rest are in no chart.
CHARTS: Mapping[str, tuple[str, ...]] = {
    "Rewards": ("reward", r"rewards/.*/mean", "reward_std", "frac_reward_zero_std", "rewards/[^/]*"),
    "Responses": (r"completions/.*", "sampling/filtered_ratio", "entropy", "mean_token_accuracy"),
    "Evaluation": (r"eval/.*",),
    "Optimization": ("loss", "policy_loss", "grad_norm", "learning_rate", "kl", ".*_kl", "(cispo_)?clip_ratio.*",
                     "logps/.*", "logits/.*", "value/.*"),
    "Sampler and trainer": ("sampling/.*",),
    "Time": (r"perf/(rollout|reward|logprobs|step_time)_s", "perf/tokens_per_s", "perf/peak_mem_gib"),
}  # fmt: skip


def write(workdir: Path, out: Path, rollouts: int = 5) -> Path:
    """Writes the page of a run, finished or not; ``rollouts``: how many of online RL are shown.

    Raises:
      UserError: no run there, or it has logged nothing yet.
    """
    return page.write(build(workdir, rollouts), out)


def track(workdir: Path, out: Path) -> None:
    """Hands the page ``out`` to the trackers of the run (``train.trackers``), and log lines that they lack.

    Raises:
      UserError: the run is in progress, or the library of a tracker is not installed.
    """
    publish(run_config(workdir), workdir, Bundle("report", (out,)), finished=(workdir / RESULT).exists())


def build(workdir: Path, rollouts: int = 5) -> Report:
    """The report that :func:`write` writes. Errors as there."""
    config = run_config(workdir)
    rows = metrics.read(workdir / metrics.FILE)
    if not rows:
        raise UserError(f"{workdir / metrics.FILE} has no lines yet; wait for step {config.train.log_every}")
    sections = _charts(config.name, rows)
    if batch_kind(config) == "policy":
        of_responses = sum(section.title in ("Rewards", "Responses", "Evaluation") for section in sections)
        sections[of_responses:of_responses] = _completions(workdir, rollouts)
    settings = Section("Settings", "", (Listing("config.json", configs.to_json(config)),))
    what = f"online RL, {config.rl.algorithm}" if batch_kind(config) == "policy" else config.objective.name
    return Report(
        title=config.name,
        subtitle=f"{what}: {counted(rows[-1]['step'], 'step')}, from {metrics.FILE}",
        facts=_facts(rows, batch_kind(config) == "policy"),
        sections=(*sections, settings),
        provenance={"folder": str(workdir), "config": configs.fingerprint(config)},
    )


def _facts(rows: Sequence[Mapping[str, Any]], rl: bool) -> tuple[Fact, ...]:
    """First and last logged values of what most readers want to know first."""
    of_rl = (("reward", "", 3), ("eval/heldout/reward", "", 3), ("completions/mean_length", "", 1),
             ("completions/clipped_ratio", "%", 1))  # fmt: skip
    facts = []
    for name, unit, digits in of_rl if rl else (("loss", "", 3),):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if values:
            first = text.number(values[0], unit=unit, digits=digits)
            facts.append(Fact(name, float(values[-1]), unit, f"last logged; first {first}", digits))
    return tuple(facts)


def _charts(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    logged = [key for key in dict.fromkeys(key for row in rows for key in row) if _drawn(rows, key)]
    sections = []
    for title, patterns in CHARTS.items():
        found = [key for pattern in patterns for key in logged if re.fullmatch(pattern, key)]
        found = list(dict.fromkeys(found))
        logged = [key for key in logged if key not in found]
        if found:
            long = max(map(len, found)) > 32  # a title wider than its chart
            smooth = 0.0 if title == "Evaluation" else 0.6
            chart = plots.training_curves({name: [rows]}, found, smooth=smooth, columns=2 if long else 3)
            note = f"Moving averages with weight {smooth} on the past." if smooth else ""
            sections.append(Section(title, "", (Figure("Over optimizer steps", chart, note),)))
    return sections


def _drawn(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return key != "step" and any(isinstance(row.get(key), int | float) for row in rows)


def _completions(workdir: Path, count: int) -> tuple[Section, ...]:
    """Responses of some rollouts, and of the last evaluation on held-out prompts."""
    files = _files(workdir / COMPLETIONS, r"(\d+)(-\d+)?\.jsonl")
    heldout = _files(workdir / "eval", r"heldout-(\d+)(-\d+)?\.jsonl")
    blocks: list[Block] = [
        _responses(workdir, f"Rollout {number}", files[number]) for number in spread(sorted(files), count)
    ]
    if heldout:
        last = max(heldout)
        blocks.append(_responses(workdir, f"Held-out prompts after step {last}", heldout[last]))
    if not blocks:
        return ()
    about = (
        "Sampled responses, of the first prompts of each rollout shown. The advantage is the mean over the tokens of "
        "what they are trained with; a dash: the update did not train with this response."
    )
    return (Section("Completions", about, tuple(blocks)),)


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """``count`` of the numbers: the first, the last, and some evenly between them."""
    if count >= len(numbers):
        return list(numbers)
    picked = np.linspace(0, len(numbers) - 1, count) if count > 1 else [len(numbers) - 1]
    return [numbers[round(float(index))] for index in picked]


def _files(folder: Path, name: str) -> dict[int, list[Path]]:
    """Number → its files, one per process."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        match = re.fullmatch(name, path.name)
        if match:
            found.setdefault(int(match[1]), []).append(path)
    return found


def _responses(workdir: Path, title: str, files: Sequence[Path]) -> Responses:
    lines = [line for path in files for line in _lines(path)]
    prompts: dict[Any, list[dict[str, Any]]] = {}
    group = -1
    for line in lines:  # a prompt may be in a rollout twice
        group += line["sample"] == 0
        prompts.setdefault(group, []).append(line)
    labels = list(dict.fromkeys(label for line in lines for label in line["rewards"]))
    columns = (
        Column("reward", digits=3, note="the weighted total"),
        *(Column(label, digits=3) for label in labels),
        Column("advantage", digits=3),
        Column("log-prob", digits=1, note="sum over the tokens"),
        Column("tokens"),
        Column("end", note="stop: it ended by itself; length: truncated at rl.max_tokens"),
    )
    shown = tuple(_prompt(workdir, own, labels) for own in list(prompts.values())[:PROMPTS])
    note = f"{counted(len(lines), 'response')} to {counted(len(prompts), 'prompt')} in all."
    return Responses(title, columns, shown, note)


def _prompt(workdir: Path, lines: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Prompt:
    responses = tuple(
        Response(
            shortened(line["completion"]),
            (
                line["reward"],
                *(line["rewards"].get(label) for label in labels),
                line.get("advantage"),  # absent in runs of earlier versions
                line["logp"],
                line["tokens"],
                line["finish"],
            ),
        )
        for line in lines[:RESPONSES]
    )
    images = tuple(_image(workdir, reference) for reference in lines[0]["images"])
    answer = lines[0].get("answer")
    asked = lines[0]["prompt"] if answer is None else f"{lines[0]['prompt']}\nRight answer: {answer}"
    return Prompt(shortened(asked), images, responses)


def shortened(content: str) -> str:
    """The text; of one longer than :data:`LONGEST` characters its two ends."""
    if len(content) <= LONGEST:
        return content
    half = LONGEST // 2
    return f"{content[:half]}\n[… {len(content) - 2 * half} characters …]\n{content[-half:]}"


def _image(workdir: Path, reference: str) -> np.ndarray | str:
    """A small version of an image, or why there is none."""
    if reference.startswith("<"):
        return "image not kept (rl.show_every says of which rollouts they are)"
    own = workdir / reference
    try:
        image = load(str(own) if own.is_file() else reference)
    except UserError as error:
        return str(error)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it") from None
