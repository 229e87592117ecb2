"""Training tasks of the demo: a stage, and the extraction of its encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pivot_jax.study.settings import Study


def train(study: Study, stage: str, seed: int) -> dict[str, Any]:
    """Trains one stage, or resumes it after an interruption."""
    from pivot_jax.rl.run import run
    from pivot_jax.train.metrics import read

    config, workdir = study.config(stage, seed), study.folder(seed) / stage
    outcome = run(config, workdir)
    lines = read(workdir / "metrics.jsonl")
    # From all log lines: after a resume, this process has seen only the last ones.
    spans = [line["step"] - before for line, before in zip(lines, [0, *(x["step"] for x in lines)], strict=False)]
    seconds = [line["perf/step_time_s"] * span for line, span in zip(lines, spans, strict=True)]
    flops = sum(line["perf/tflops_per_s"] * 1e12 * time for line, time in zip(lines, seconds, strict=True))
    return {
        "stage": stage,
        "steps": outcome.step,
        "samples": outcome.step * config.data.batch_size,
        "metrics": outcome.metrics,
        "step_seconds": sum(seconds),
        "flops": flops,
        "trained": json.loads((workdir / "trained_parameters.json").read_text()),
    }


def extract(run: Path, pack: Path) -> dict[str, Any]:
    """The run's encoder and projector as a pack."""
    from pivot_jax.train.extract import extract as write

    return {"sha256": write(run, pack)["sha256"]}
